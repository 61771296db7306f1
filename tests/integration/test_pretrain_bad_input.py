"""Bad input to a full run: one clear error, nothing trained, nothing lost."""

import json
import shutil
import subprocess

import pytest

from anneal.plan.values import LlamaShape
from anneal.store import Store
from tests.integration.full_run import TORCH, anneal, copy, refused, trained

pytestmark = pytest.mark.integration

DECISION = "store/sweeps/small/report/decision.json"


@pytest.fixture
def folder(decided, tmp_path):
    return copy(decided, tmp_path / "c")


def refuses(folder, *words: str, says: tuple[str, ...]) -> None:
    """The full run is refused before anything is trained; what was there is there."""
    before = trained(folder)
    refused(anneal(folder, "pretrain", "small.yaml", *words), *says)
    assert trained(folder) == before
    assert not [p for p in (folder / "store").rglob(".*") if "cache" not in p.parts]


def refuses_in_the_worker(folder, *words: str, says: tuple[str, ...]) -> None:
    """The same of what only the worker can know: the run has a task, and no step."""
    before = trained(folder)
    refused(anneal(folder, "pretrain", "small.yaml", *words, *TORCH), *says)
    after = trained(folder)
    assert {name: after[name] for name in before} == before
    for name in after.keys() - before.keys():
        left = {p.name for p in (folder / "store" / name).iterdir() if p.stat().st_size}
        assert left == {"task.json"}


def test_a_source_that_changed_since_the_decision(folder):
    path = next(iter(sorted((folder / "tools").glob("argparse*"))))
    path.write_text(path.read_text() + "\n# one line more, and it is another source\n")
    refuses(
        folder,
        says=("decision small of", "its sources have changed", "tools: decided about", ", now "),
    )


def test_a_target_that_changed_since_the_decision(folder):
    path = next(iter(sorted((folder / "guard").iterdir())))
    path.write_text("another text\n" * 100)
    refuses(folder, says=("its sources have changed", "guard: decided about"))


def test_no_decision(folder):
    (folder / DECISION).unlink()
    refuses(folder, says=("phase `high_quality`", "buys no source", "python -m anneal sweep"))


def test_a_decision_that_is_not_there(folder):
    refuses(folder, "nowhere.json", says=("decision nowhere.json: no such file",))
    refuses(folder, "--decision", "nowhere.json", says=("decision nowhere.json: no such file",))


def test_a_decision_of_another_sweep(folder):
    text = (folder / DECISION).read_text()
    assert '"sweep": "small"' in text
    (folder / "other.json").write_text(text.replace('"sweep": "small"', '"sweep": "other"'))
    refuses(folder, "other.json", says=("it is of the sweep `other`, not of `small`",))


@pytest.mark.parametrize("text", ["", '{"version": 1, "sweep": "sm', "[]", '{"sweep": "small"}'])
def test_a_decision_that_is_none(folder, text):
    (folder / DECISION).write_text(text)
    refuses(folder, says=("decision.json: not a Decision",))


def test_the_phase_before_was_never_trained(folder):
    refuses(
        folder,
        *("--from", "synthetic"),
        says=("pretrain --from synthetic: the state after phase `high_quality` is missing",),
    )
    refuses(
        folder,
        *("--from", "synthetik"),
        says=("no such phase", "the phases are general, high_quality, synthetic"),
    )


def test_processes_that_do_not_divide_the_batch(folder):
    refuses(
        folder,
        *("pretrain.engine.processes=3", "launcher.slots=3", "launcher.pin=false"),
        says=("phase `general`: a batch of 8 sequences does not divide among 3", "processes"),
    )
    refuses(folder, "pretrain.engine.micro_batch=3", says=("micro_batch=3 does not divide",))


def test_more_processes_than_slots(folder):
    words = ["pretrain.engine.processes=4", "launcher.slots=2", "launcher.pin=false"]
    refuses(folder, *words, says=("the full run takes 4 slots, 2 exist", "engine.processes"))


def test_more_tokens_than_exist(folder):
    refuses(
        folder,
        "pretrain.phases.general.tokens=100000000",
        says=("source `prose`: ", "exist (limit 100", "max_epochs"),
    )


def test_a_phase_that_would_get_nothing(folder):
    refuses(
        folder,
        "pretrain.phases.general.tokens=100",
        says=("phase `general`: 100 tokens are less than half a step of 8 x 64",),
    )


def test_settings_that_name_what_is_not_there(folder):
    refuses(folder, "pretrain.phases.generall.tokens=512", says=("generall",))
    refuses(
        folder,
        "pretrain.engine.watch.gates=[{phase: generel, target: aim, at_most: 1.0}]",
        says=("a gate names no phase: generel",),
    )
    refuses(
        folder,
        "pretrain.phases.high_quality.kinds=[excellent]",
        says=("excellent",),
    )


def test_watching_a_target_that_is_not_there(folder):
    refuses(
        folder,
        "pretrain.engine.watch.guard_limits={guardd: 5.0}",
        says=("guardd", "guard"),
    )
    refuses(
        folder,
        "pretrain.engine.watch.gates=[{phase: general, target: aimm, at_most: 1.0}]",
        says=("aimm", "aim"),
    )


def from_base(folder) -> None:
    """The sweep starts its full run from its own base."""
    text = (folder / "small.yaml").read_text()
    (folder / "small.yaml").write_text(text + "pretrain: {start: base}\n")


def test_weights_of_another_model(folder):
    from anneal.training.model import llama

    from_base(folder)
    (weights,) = (folder / "store" / "runs").glob("*/weights")
    shape = LlamaShape(hidden=64, layers=1, heads=1, kv_heads=1, feed_forward=64)
    other = llama(shape, vocabulary=512, seed=0)
    other.save_pretrained(folder / "other")
    shutil.copy(folder / "other" / "model.safetensors", weights / "model.safetensors")
    refuses_in_the_worker(folder, says=("is (512, 64), the model's is (512, 32)",))


def test_the_bases_weights_are_gone(folder):
    from_base(folder)
    (weights,) = (folder / "store" / "runs").glob("*/weights")
    shutil.rmtree(weights)
    refuses(folder, says=("the sweep's base: its weights are not in the store", "anneal sweep"))


def test_the_bases_weights_are_half_there(folder):
    from_base(folder)
    (weights,) = (folder / "store" / "runs").glob("*/weights")
    whole = (weights / "model.safetensors").read_bytes()
    (weights / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refuses_in_the_worker(folder, says=("model.safetensors",))


def checkpoint_base(folder, vocabulary: int) -> None:
    """The sweep's model is a folder of one's own, with the sweep's tokenizer beside."""
    from anneal.training.model import llama

    shape = LlamaShape(hidden=32, layers=1, heads=1, kv_heads=1, feed_forward=64)
    llama(shape, vocabulary=vocabulary, seed=0).save_pretrained(folder / "base")
    (tokenizer,) = (folder / "store" / "tokenizers").glob("*/tokenizer.json")
    for path in tokenizer.parent.glob("*.json"):
        shutil.copy(path, folder / "base")
    lines = (folder / "small.yaml").read_text().splitlines()
    lines = [li for li in lines if not li.startswith(("model:", "base:"))]
    text = "\n".join(lines).replace(
        "override budget: smoke", "override budget: smoke\n  - override model: checkpoint"
    )
    more = "\nmodel: {path: base}\npretrain: {start: base}\n"
    (folder / "small.yaml").write_text(text + more)


def test_a_base_of_fewer_entries_than_the_tokenizer(folder):
    checkpoint_base(folder, 300)
    refuses(folder, says=("base", "300 vocabulary entries", "512"))


def test_a_base_with_another_tokenizer(folder):
    """The decision is about tokens of one tokenizer, the base was made with another."""
    checkpoint_base(folder, 512)
    path = folder / "base" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["merges"].pop()
    path.write_text(json.dumps(tokenizer))
    text = (folder / "small.yaml").read_text()
    lines = [li for li in text.splitlines() if not li.startswith("tokenizer:")]
    lines += ["tokenizer: {kind: huggingface, path: base}"]
    (folder / "small.yaml").write_text("\n".join(lines) + "\n")
    refuses(folder, says=("its sources have changed since", "prose: decided about"))


def test_scratch_of_a_checkpoint(folder):
    checkpoint_base(folder, 512)
    refuses(folder, "pretrain.start=scratch", says=("start scratch, but the model is the",))


def test_no_space_for_the_next_checkpoint(folder):
    runs = folder / "store" / "runs"
    kept = folder / "kept"
    shutil.move(runs, kept)
    runs.mkdir()
    used = sum(-(-p.stat().st_size // 4096) * 4 for p in kept.rglob("*"))  # KiB, by pages
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={used + 1000}k", "tmpfs", str(runs)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("may not mount a small disk here")
    try:
        shutil.copytree(kept, runs, dirs_exist_ok=True)
        refuses_in_the_worker(folder, says=("GB free", "GB needed", "store=FOLDER"))
    finally:
        subprocess.run(["umount", str(runs)], check=False)


def test_a_store_that_a_sweep_holds(folder):
    with Store(folder / "store").lock("sweep first"):
        refuses(folder, says=("in use by sweep first", "store="))


def test_a_full_run_of_a_sweep_without_one(folder):
    text = (folder / "small.yaml").read_text()
    (folder / "small.yaml").write_text(
        text.replace(
            "override budget: smoke", "override budget: smoke\n  - override pretrain: null"
        )
    )
    refuses(folder, says=("it asks for no full run", "pretrain: three_phase"))
