"""Trains small models with options for long sequences; torchrun starts it, `run` reads it.

    torchrun ... long_sequences_cases.py FOLDER CASE...

A case is PRECISION/STAGE/OPTIONS with OPTIONS from `OPTIONS`, or PRECISION/plain for the reference.
The context grows in the middle of a case, as when a phase raises it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from anneal.errors import TrainingError
from anneal.plan.means import DeepSpeed, LongSequences, Means
from anneal.plan.values import LlamaShape, Optimiser
from anneal.training.engine import Engine, TorchEngine
from anneal.training.loss import IGNORED
from anneal.training.model import llama
from anneal.training.tensors import write_tensors

SHAPE = LlamaShape(hidden=32, layers=2, heads=4, kv_heads=2, feed_forward=64, max_positions=64)
VOCABULARY, BATCH, RATE = 96, 4, 3e-3
SEQUENCES = (32, 32, 32, 64, 64)
TILE = 24
"""Tokens of a loss tile here, so that there are several."""

TILES = {"tiled_loss": True, "tiled_mlp": True}
KEPT = {"activation_checkpointing": True, "offload_activations": True}
SHARED = {"sequence_parallel": 2}
OPTIONS: dict[str, dict] = {
    "shared": SHARED,
    "tiled_loss": {"tiled_loss": True},
    "tiled_mlp": {"tiled_mlp": True},
    "checkpointing": {"activation_checkpointing": True},
    "offload": KEPT,
    "all": TILES | KEPT,
    "all_shared": SHARED | TILES | KEPT,
    "shared_loss": SHARED | {"tiled_loss": True},
    "untied": SHARED | TILES | KEPT,
    "one_kv_head": SHARED,
    "three_heads": SHARED,
}
CHANGES: dict[str, dict] = {
    "untied": {"tied": False},
    "one_kv_head": {"kv_heads": 1},
    "three_heads": {"hidden": 48, "heads": 3, "kv_heads": 3},
}
"""Of the shape; all other options train the same one."""


def model(options: str):
    shape = SHAPE.model_copy(update=CHANGES.get(options, {}))
    return llama(shape, vocabulary=VOCABULARY, seed=3)


def reference(precision: str, options: str) -> Engine:
    """One process, no option: what the others must equal."""
    means = Means(device="cpu", compile="off", micro_batch=1)
    engine = TorchEngine(
        model(options), Optimiser(), precision=precision, means=means, sequence=1024
    )  # a long sequence chooses sdpa
    engine.tile = TILE
    return engine


def shared_engine(case: str, processes: int) -> Engine:
    from anneal.training import deepspeed_engine

    deepspeed_engine.TILE["cpu"] = TILE
    precision, stage, options = case.split("/")
    means = Means(
        engine="deepspeed",
        processes=processes,
        device="cpu",
        compile="off",
        micro_batch=1,
        deepspeed=DeepSpeed(stage=int(stage)),
        long=LongSequences(**OPTIONS[options]),
    )
    return deepspeed_engine.DeepSpeedEngine(
        model(options), Optimiser(), precision=precision, means=means, batch=BATCH, sequence=1024
    )


def train(engine: Engine) -> dict:
    """Losses, norms and a score of five steps; the weights are the engine's own from then on."""
    losses, norms = [], []
    for step, sequence in enumerate(SEQUENCES):
        rows = np.random.default_rng(step).integers(0, VOCABULARY, (BATCH, sequence + 1))
        loss, norm = engine.step(rows, RATE)
        losses.append(float(loss))
        norms.append(float(norm))
    held_out = torch.from_numpy(np.random.default_rng(9).integers(0, VOCABULARY, (3, 49)))
    labels = held_out[:, 1:].clone()
    labels[2, 20:] = IGNORED
    return {"loss": losses, "norm": norms, "score": float(engine.score(held_out[:, :-1], labels))}


def results(folder: Path) -> Iterator[tuple[str, dict]]:
    for line in (folder / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        yield row.pop("case"), row


def carry_out(case: str, weights: Path) -> dict:
    """What one case gave: results and weights, or why it was refused."""
    try:
        engine = shared_engine(case, int(os.environ["WORLD_SIZE"]))
    except TrainingError as error:
        return {"refused": error.what}
    row: dict = {"weights": weights.name} | train(engine)
    found = engine.weights()
    if engine.leader:
        write_tensors(found, weights)
    try:
        engine.step(np.zeros((BATCH, 34), np.int64), RATE)
    except TrainingError as error:
        row["odd"] = error.what
    engine.close()
    return row


def main() -> None:
    folder, cases = Path(sys.argv[1]), sys.argv[2:]
    for number, case in enumerate(cases):
        row = carry_out(case, folder / f"{number}.safetensors")
        if os.environ["RANK"] == "0":
            with (folder / "results.jsonl").open("a") as file:
                file.write(json.dumps({"case": case} | row) + "\n")


if __name__ == "__main__":
    main()
