"""Trains small models with options for long sequences; torchrun starts it, `run` reads it.

    torchrun ... long_sequences_cases.py FOLDER CASE...

A case is PRECISION/STAGE/OPTIONS with OPTIONS from `OPTIONS`, or PRECISION/plain for the reference.
The context grows in the middle of a case, as when a phase raises it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

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
}


def model(options: str):
    changes = {"untied": {"tied": False}, "one_kv_head": {"kv_heads": 1}}.get(options, {})
    return llama(SHAPE.model_copy(update=changes), vocabulary=VOCABULARY, seed=3)


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


def main() -> None:
    import os

    folder, cases = Path(sys.argv[1]), sys.argv[2:]
    for number, case in enumerate(cases):
        engine = shared_engine(case, int(os.environ["WORLD_SIZE"]))
        row = train(engine)
        weights = engine.weights()
        if engine.leader:
            write_tensors(weights, folder / f"{number}.safetensors")
            with (folder / "results.jsonl").open("a") as file:
                file.write(json.dumps({"case": case, "weights": f"{number}.safetensors"} | row))
                file.write("\n")
        engine.close()


if __name__ == "__main__":
    main()
