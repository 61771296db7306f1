"""Golden losses: a change that should not touch the numerics leaves (step, loss) as they are.

`losses.json` was written by `python -m tests.golden.test_golden` on purpose, never by a test. fp32
on a CPU without compilation; another processor sums in another order, so losses compare within
2e-4 nats, far below what a changed formula moves them by.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from anneal.plan.means import Means
from anneal.plan.schedule import learning_rate
from anneal.plan.values import LlamaShape, Optimiser, Phase, Portion, Schedule
from anneal.training.data import PhaseData
from anneal.training.engine import Engine, TorchEngine
from anneal.training.model import llama

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GOLDEN = Path(__file__).parent / "losses.json"
SHAPE = LlamaShape(hidden=64, layers=2, heads=2, kv_heads=1, feed_forward=128)


def engine_of(make: Callable[[PreTrainedModel], Engine]) -> Engine:
    """An engine with the golden run's model."""
    return make(llama(SHAPE, vocabulary=256, seed=5))


def torch_engine(model: PreTrainedModel) -> Engine:
    means = Means(device="cpu", compile="off")
    return TorchEngine(model, Optimiser(), precision="float32", means=means, sequence=32)


def losses(kind: str, engine: Engine) -> list[float]:
    """Losses of 20 steps on two made-up sources, one of them in a small pool."""
    phase = Phase(
        mixture=(
            Portion(source="a", content="a", share=0.75, pool=640),
            Portion(source="b", content="b", share=0.25),
        ),
        tokens=20 * 8 * 32,
        batch=8,
        sequence=32,
        schedule=Schedule(kind=kind, peak=1e-2, warmup=0.1),
    )
    rng = np.random.default_rng(7)
    # steps of a random walk over the vocabulary: there is something to learn
    tokens = {
        name: [(np.cumsum(rng.integers(1, 4, 6000)) % 256).astype(np.uint16)] for name in "ab"
    }
    data = PhaseData(phase, tokens, seed=11)
    found = []
    for step in range(phase.steps):
        rate = learning_rate(phase.schedule, (step + 0.5) * 256, phase.tokens)
        found.append(float(engine.step(data.step(step), rate)[0]))
    return found


@pytest.mark.parametrize("kind", ["linear", "cosine", "one_minus_sqrt", "wsd", "constant"])
def test_losses_are_the_golden_ones(kind):
    golden = json.loads(GOLDEN.read_text())[kind]
    assert losses(kind, engine_of(torch_engine)) == pytest.approx(golden, abs=2e-4)
    assert golden[-1] < golden[0] - 0.5  # it learns


if __name__ == "__main__":
    kinds = ("linear", "cosine", "one_minus_sqrt", "wsd", "constant")
    found = {kind: losses(kind, engine_of(torch_engine)) for kind in kinds}
    rounded = {kind: [round(loss, 6) for loss in found[kind]] for kind in kinds}
    GOLDEN.write_text(json.dumps(rounded, indent=1) + "\n")
