"""The same code on a GPU, in bf16: skipped where there is none."""

import numpy as np
import pytest
import torch

from anneal.plan.means import Means
from anneal.plan.values import LlamaShape, Optimiser
from anneal.training.engine import TorchEngine
from anneal.training.model import llama
from anneal.training.tensors import sha256

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

SHAPE = LlamaShape(hidden=128, layers=2, heads=4, kv_heads=4, feed_forward=256)


def engine(device: str, precision: str) -> TorchEngine:
    return TorchEngine(
        llama(SHAPE, vocabulary=512, seed=0),
        Optimiser(),
        precision=precision,
        means=Means(device=device, compile="off"),
        sequence=128,
    )


def rows(step: int) -> np.ndarray:
    return np.random.default_rng(step).integers(0, 512, (8, 129))


@pytest.mark.parametrize(("precision", "close"), [("float32", 2e-3), ("bfloat16", 3e-2)])
def test_losses_equal_those_of_the_cpu(precision, close):
    gpu, cpu = engine("cuda", precision), engine("cpu", "float32")
    for step in range(10):
        a, b = (float(e.step(rows(step), 1e-3)[0]) for e in (gpu, cpu))
        assert a == pytest.approx(b, abs=close)


def test_resuming_is_exact(tmp_path):
    straight, broken = engine("cuda", "bfloat16"), engine("cuda", "bfloat16")
    for step in range(6):
        straight.step(rows(step), 1e-3)
    for step in range(3):
        broken.step(rows(step), 1e-3)
    other = engine("cuda", "bfloat16")
    other.load(broken.weights(), broken.moments())
    for step in range(3, 6):
        other.step(rows(step), 1e-3)
    assert sha256(other.weights()) == sha256(straight.weights())
