# %% [markdown]
# Data order, shard reading and packing of a phase, from the page cache on one core, against
# reading windows one by one in a Python loop. Both sides in one run:
#
#     python analysis/bench_data.py

# %%
from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from anneal.plan.values import Phase, Portion
from anneal.training.data import PhaseData

SEQUENCE, BATCH, STEPS = 256, 8, 8000


def shards(folder: Path) -> dict[str, list[np.ndarray]]:
    """Two sources of 16M and 8M tokens as memory-mapped files, read once into the page cache."""
    made = {}
    for name, tokens in (("a", 16_000_000), ("b", 8_000_000)):
        path = folder / f"{name}.bin"
        np.random.default_rng(0).integers(0, 4096, tokens).astype(np.uint16).tofile(path)
        made[name] = [np.memmap(path, np.uint16, "r")]
        int(made[name][0].sum())
    return made


def ours(phase: Phase, tokens: dict[str, list[np.ndarray]]) -> float:
    data = PhaseData(phase, tokens, seed=0)
    began = time.perf_counter()
    for step in range(phase.steps):
        data.step(step)
    return phase.tokens / (time.perf_counter() - began)


def loop(phase: Phase, tokens: dict[str, list[np.ndarray]]) -> float:
    """A window at a time, in a stored random order: what a Dataset with __getitem__ does."""
    rng = np.random.default_rng(0)
    orders = {n: rng.permutation((len(s[0]) - 1) // SEQUENCE) for n, s in tokens.items()}
    count, steps = 0, phase.steps // 8
    began = time.perf_counter()
    for _ in range(steps):
        rows = []
        for _ in range(BATCH):
            name = "b" if count % 4 == 0 else "a"
            at = orders[name][count % len(orders[name])] * SEQUENCE
            rows.append(tokens[name][0][at : at + SEQUENCE + 1].astype(np.int64))
            count += 1
        np.stack(rows)
    return steps * BATCH * SEQUENCE / (time.perf_counter() - began)


# %%
if __name__ == "__main__":
    phase = Phase(
        mixture=(
            Portion(source="a", content="a", share=0.75, pool=4_000_000),
            Portion(source="b", content="b", share=0.25),
        ),
        tokens=STEPS * BATCH * SEQUENCE,
        batch=BATCH,
        sequence=SEQUENCE,
    )
    with tempfile.TemporaryDirectory() as folder:
        tokens = shards(Path(folder))
        for number in range(3):
            mine, theirs = ours(phase, tokens), loop(phase, tokens)
            print(
                f"run {number + 1}: {mine / 1e6:.1f}M tokens/s, a window at a time "
                f"{theirs / 1e6:.1f}M tokens/s, ratio {mine / theirs:.1f}"
            )
