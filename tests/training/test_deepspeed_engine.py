"""The DeepSpeed engine beside the torch engine, by one and by two processes.

The cases run in `deepspeed_cases`, started once for each number of processes; what they measured is
judged here. Tolerances: fp32 sums in another order, 2e-4 nats as in the golden test. bf16 has 8
bits, so another order of sums moves a loss by up to 1.5e-3 nats in five steps (measured, two rows
at once instead of eight); 5e-3 is below what a wrong scale or a lost update moves it by.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden.test_golden import GOLDEN

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]
CASES = Path(__file__).with_name("deepspeed_cases.py")
GROUPS = "golden,same_as_torch,micro_batches,handed_over,embeddings,checkpoints,refused,errors"
WORLDS = (1, 2)
TOLERANCE = {"float32": 2e-4, "bfloat16": 5e-3}


def run(world: int, groups: str, folder: Path) -> dict:
    out = folder / f"{world}-{groups.partition(',')[0]}.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes", "1"]
    command += ["--nproc-per-node", str(world), str(CASES), groups, str(out), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=850, check=False
    )
    assert out.exists(), done.stdout[-4000:] + done.stderr[-8000:]
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("deepspeed")


class Found(dict):
    """What the cases measured, by number of processes; they run when first asked for."""

    def __init__(self, measure) -> None:
        super().__init__()
        self.measure = measure

    def __missing__(self, world: int) -> dict:
        self[world] = self.measure(world)
        return self[world]


@pytest.fixture(scope="module")
def found(folder) -> Found:
    return Found(lambda world: run(world, GROUPS, folder))


@pytest.fixture(scope="module")
def crossed(folder, found) -> Found:
    """Restored by one process what two saved, and the other way."""

    def measure(world: int) -> dict:
        assert found[3 - world]["checkpoints"]
        return run(world, "other_count", folder)["other_count"]

    return Found(measure)


def furthest(pairs) -> float:
    return max(abs(a - b) for a, b in pairs)


def precision_of(name: str) -> str:
    return name.split("-")[1]


@pytest.mark.parametrize("world", WORLDS)
def test_losses_are_the_golden_ones(found, world):
    golden = json.loads(GOLDEN.read_text())
    assert len(found[world]["golden"]) == 8
    for name, losses in found[world]["golden"].items():
        assert losses == pytest.approx(golden[name.split("-")[1]], abs=2e-4), name


@pytest.mark.parametrize("world", WORLDS)
def test_every_stage_and_precision_trains_as_the_torch_engine(found, world):
    cases = found[world]["same_as_torch"]
    assert len(cases) == 12  # four stages, two precisions, offloading at stages 2 and 3
    for name, case in cases.items():
        close = TOLERANCE[precision_of(name)]
        assert furthest(case["losses"]) < close, name
        norms = [abs(a - b) / a for a, b in case["norms"]]
        assert max(norms) < 10 * close, name
        a, b = case["scores"]  # a sum over 96 tokens
        assert abs(a - b) / 96 < close, name
        # Adam divides by the gradient's size: a small gradient's rounding is a large step's
        assert case["weights"] < 10 * close and case["moments"] < close, name


@pytest.mark.parametrize("world", WORLDS)
def test_micro_batches_add_up(found, world):
    for name, pairs in found[world]["micro_batches"].items():
        assert furthest(pairs) < TOLERANCE[precision_of(name)], name


@pytest.mark.parametrize("world", WORLDS)
def test_moments_survive_torch_to_deepspeed_to_torch(found, world):
    for name, case in found[world]["handed_over"].items():
        assert case["kept"], name  # what comes out is what went in, bit for bit
        close = TOLERANCE[precision_of(name)]
        assert furthest(case["losses"]) < close, name
        assert case["weights"] < 10 * close and case["moments"] < close, name


@pytest.mark.parametrize("world", WORLDS)
def test_only_embeddings_train_when_they_alone_should(found, world):
    for name, case in found[world]["embeddings"].items():
        tied = int(name[0]) % 2 == 0
        expected = [*([] if tied else ["lm_head.weight"]), "model.embed_tokens.weight"]
        assert case["moved"] == expected, name
        assert case["changed"] == expected and case["moments"], name


@pytest.mark.parametrize("world", WORLDS)
def test_saving_and_restoring_continues_bit_for_bit(found, world):
    cases = found[world]["checkpoints"]
    assert len(cases) == 15
    for name, case in cases.items():
        assert case["same engine"] and case["another engine"], name
        assert case["reset moments"], name


@pytest.mark.parametrize("world", WORLDS)
def test_another_number_of_processes_goes_on_within_tolerance(found, crossed, world):
    saved = found[3 - world]["checkpoints"]
    assert len(crossed[world]) == {1: 7, 2: 8}[world]
    for name, case in crossed[world].items():
        pairs = zip(case["losses"], saved[name]["losses"], strict=True)
        assert furthest((a[0], b[0]) for a, b in pairs) < TOLERANCE[precision_of(name)], name
        assert case["steps"] == [6.0], name  # three before it was saved, three after
        assert "universal" not in case["left"], name


@pytest.mark.parametrize("world", WORLDS)
def test_a_harmed_checkpoint_is_refused_before_anything_is_loaded(found, world):
    said = found[world]["refused"]
    assert "bytes, should have" in said["truncated"]
    assert "its bytes are not those that were written" in said["altered"]
    assert "missing, should have" in said["missing"]
    assert "has no deepspeed.json" in said["unsealed"]
    assert "saved with deepspeed.stage=1, asked for deepspeed.stage=2" in said["stage"]
    assert "resume with deepspeed.stage=1" in said["stage"]
    assert said["untouched"]


@pytest.mark.parametrize("world", WORLDS)
def test_a_checkpoint_that_brings_code_does_not_run_it(found, world):
    assert "holds more than tensors" in found[world]["refused"]["code"]
    assert not found[world]["refused"]["ran"]


@pytest.mark.parametrize("world", WORLDS)
def test_what_cannot_be_is_said_before_training(found, world):
    said = found[world]["errors"]
    if world == 2:
        assert "batch 9: 2 data-parallel processes do not divide it" in said["batch"]
    rows = 8 // world
    assert f"micro_batch 3: does not divide the {rows} rows" in said["micro"]
    assert "deepspeed.config: bf16 cannot be set there" in said["owned"]
    assert "zero_optimization.stage cannot be set there" in said["owned zero"]
    assert "stage 0 has nothing to offload" in said["offload"]
    assert said["passed"] == ""  # any other key of DeepSpeed's
    assert "`model.norm.weight` is missing: these are the weights of another" in said["missing"]
    assert "the weights of another model" in said["shape"]
    assert said["agree"] == [world == 2, False]
