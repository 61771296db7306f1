"""lm-eval on local tasks: its numbers are ours, and what it may not do is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import yaml

from anneal.__main__ import main
from anneal.errors import SettingsError, SourceError, TrainingError
from anneal.evaluation import harness
from anneal.evaluation.harness import evaluate_tasks, measure
from anneal.evaluation.task_files import task_configs
from anneal.evaluation.values import Evaluation
from anneal.store import read_value
from tests.evaluation import models

TEXTS = [f"def add_{i}(self, x):\n    return x + {i}  # Größe\n" for i in range(7)]
QUESTIONS = [
    {"q": f"def f{i}(", "choices": ["self", "a value", "args"], "gold": i % 3} for i in range(9)
]
CHOICE = {
    "task": "which",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "which.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{gold}}",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
PROSE = {
    "task": "prose",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": ["prose.jsonl"]}},
    "test_split": "test",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": "bits_per_byte"}, {"metric": "byte_perplexity"}],
}


def tasks(folder: Path, *configs: dict) -> Path:
    """A folder of task files with their data."""
    folder.mkdir(exist_ok=True)
    rows = {"which": QUESTIONS, "prose": [{"text": text} for text in TEXTS]}
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    for config in configs:
        (folder / f"{config['task']}.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.exported(tmp_path_factory.mktemp("harness"), dtype="float32")


def nats(model: Path, before: list[int], after: list[int]) -> float:
    """Log-likelihood of tokens after others."""
    import torch
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        logits = network(torch.tensor([before + after])).logits[0].double()
    rows = logits.log_softmax(-1)[len(before) - 1 : -1]
    return float(rows[torch.arange(len(after)), torch.tensor(after)].sum())


@pytest.mark.integration
def test_its_numbers_are_those_computed_by_hand(model, tmp_path):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: anneal[evaluation]")
    from transformers import AutoTokenizer

    results, versions = evaluate_tasks(model, [tasks(tmp_path / "t", CHOICE, PROSE)], batch=4)
    found = {(one.task, one.metric): one for one in results}
    assert set(versions) == {"lm_eval"}
    encode = AutoTokenizer.from_pretrained(model).encode
    # a text follows an end-of-text token, and is scored whole
    each = [nats(model, [0], encode(text)) for text in TEXTS]
    sizes = [len(text.encode()) for text in TEXTS]
    prose = found["prose", "bits_per_byte"]
    assert prose.measure.value == pytest.approx(-sum(each) / sum(sizes) / math.log(2), rel=1e-4)
    assert (prose.higher_is_better, prose.measure.n) == (False, len(TEXTS))
    assert prose.measure.interval == "bootstrap"
    assert prose.measure.low < prose.measure.value < prose.measure.high
    perplexity = found["prose", "byte_perplexity"].measure
    assert perplexity.value == pytest.approx(2**prose.measure.value, rel=1e-6)
    assert perplexity.low == pytest.approx(2**prose.measure.low, rel=1e-6)
    # an answer is right when no other is likelier; acc_norm: per byte of it
    right, right_norm = [], []
    for row in QUESTIONS:
        before = encode(row["q"])
        after = [encode(row["q"] + " " + choice)[len(before) :] for choice in row["choices"]]
        likely = [nats(model, before, tokens) for tokens in after]
        each = [n / len(c.encode()) for n, c in zip(likely, row["choices"], strict=True)]
        right.append(likely.index(max(likely)) == row["gold"])
        right_norm.append(each.index(max(each)) == row["gold"])
    for metric, known in (("acc", right), ("acc_norm", right_norm)):
        one = found["which", metric].measure
        assert one.value == pytest.approx(sum(known) / len(known))
        assert (one.interval, one.n) == ("binomial", len(known))


@pytest.mark.integration
def test_the_verb_measures_tasks_and_keeps_lm_evals_words_to_itself(model, tmp_path, capfd):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: anneal[evaluation]")
    folder = tasks(tmp_path / "t", CHOICE, PROSE)
    out = tmp_path / "out.json"
    assert main(["evaluate", str(model), "--tasks", str(folder), "--json", str(out)]) == 0
    told = capfd.readouterr()
    assert "which acc_norm" in told.out
    assert "prose bits_per_byte" in told.out
    assert all(line.startswith(("loading", "tasks (")) for line in told.err.splitlines()), told.err
    assert read_value(out, Evaluation).versions["lm_eval"]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metric_list": [{"metric": "nonesuch"}]}, "no metric 'nonesuch'"),
        ({"output_type": "nonesuch"}, "invalid output_type"),
        ({"doc_to_text": "{{missing}}"}, "'missing' is undefined"),
        ({"test_split": "validation"}, "validation"),
        ({"doc_to_text": "{{q.__class__.__mro__}}"}, "unsafe"),
    ],
)
def test_a_task_that_lm_eval_rejects_is_named(model, tmp_path, changes, said):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: anneal[evaluation]")
    with pytest.raises(SourceError, match="task `which`: lm-eval: ") as caught:
        evaluate_tasks(model, [tasks(tmp_path / "t", CHOICE | changes)])
    assert said in str(caught.value)


@pytest.mark.integration
def test_a_model_that_does_not_load_is_not_the_tasks_fault(model, tmp_path):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: anneal[evaluation]")
    shutil.copytree(model, tmp_path / "model")
    weights = tmp_path / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="lm-eval cannot load it"):
        evaluate_tasks(tmp_path / "model", [tasks(tmp_path / "t", CHOICE)])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset_path": "org/set"}, "'org/set' is not one of json"),
        ({"dataset_path": None}, "is not one of json"),
        ({"unsafe_code": True}, "`unsafe_code` would run code"),
        ({"class": "x.Y"}, "`class` would run code"),
        ({"dataset_kwargs": None}, "must have `data_files`"),
        ({"dataset_kwargs": {"data_files": {}}}, "no `data_files`"),
        ({"dataset_kwargs": {"trust_remote_code": True}}, "must have `data_files`"),
        (
            {"dataset_kwargs": {"data_files": {"test": "https://example.org/a.json"}}},
            "data file https://example.org/a.json is not there",
        ),
        ({"metric_list": [{"metric": "x", "hf_evaluate": True}]}, "would fetch a metric"),
        ({"group": "several"}, "groups are not taken"),
        ({"task": ["a", "b"]}, "must be a name"),
    ],
)
def test_what_would_run_code_or_fetch_something_is_refused(tmp_path, changes, said):
    folder = tasks(tmp_path / "t")
    (folder / "bad.yaml").write_text(yaml.safe_dump(CHOICE | changes))
    with pytest.raises(SourceError) as caught:
        task_configs([folder])
    assert said in str(caught.value)
    assert "bad.yaml" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task: a\nprocess_docs: !function utils.process\n", "!function"),
        ("task: a\nx: !!python/object/apply:os.system [ls]\n", "python/object"),
        ("{", "not YAML"),
        ("[1]", "not a mapping"),
        ("include: bad.yaml\ntask: a\n", "includes itself"),
        ("include: none.yaml\ntask: a\n", "No such file"),
    ],
)
def test_task_files_that_cannot_be_read(tmp_path, text, said):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(SourceError) as caught:
        task_configs([tmp_path / "bad.yaml"])
    assert said in str(caught.value)


def test_files_are_included_and_data_are_found_beside_them(tmp_path):
    folder = tasks(tmp_path / "t")
    (folder / "_base.yaml").write_text(yaml.safe_dump(CHOICE))
    (folder / "mine.yaml").write_text("include: _base.yaml\ntask: mine\nnum_fewshot: 2\n")
    (config,) = task_configs([folder])
    assert (config["task"], config["num_fewshot"]) == ("mine", 2)
    assert config["dataset_kwargs"]["data_files"] == {"test": [str(folder / "which.jsonl")]}
    with pytest.raises(SourceError, match=r"is in .* already"):
        task_configs([folder, folder / "mine.yaml"])


@pytest.mark.parametrize("path", ["none", "empty"])
def test_folders_without_tasks_are_named(tmp_path, path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=path):
        task_configs([tmp_path / path])


def test_without_lm_eval_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="not installed") as caught:
        evaluate_tasks(tmp_path, [tasks(tmp_path / "t", CHOICE)])
    assert "anneal[evaluation]" in caught.value.hint


def test_intervals_of_what_the_items_do_not_tell():
    plain = measure("f1", 0.5, 0.1, [(0, 1), (1, 1)], n=2, seed=0)
    assert (plain.interval, plain.value) == ("stderr", 0.5)
    assert plain.high - plain.value == pytest.approx(1.6449 * 0.1, rel=1e-3)
    assert measure("f1", 0.5, "N/A", ["a"], n=1, seed=0).interval == "none"
    # the items' mean is another number: it says nothing of this one
    assert measure("brier", 0.5, "N/A", [0.1, 0.2], n=2, seed=0).interval == "none"
    assert measure("score", 0.15, "N/A", [0.1, 0.2], n=2, seed=0).interval == "bootstrap"
