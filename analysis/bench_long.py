# %% [markdown]
# How much memory a token of a sequence takes, with each option for long sequences and with all.
# Every point is one training step of one sequence, by the DeepSpeed engine, in fresh processes: the
# peak is what the system says of the process (`ru_maxrss`), on a GPU what torch's allocator says.
# From the shortest to the longest sequence only activations grow, so the slope is bytes a token,
# and its ratio to the plain one is how much longer a sequence fits into what weights leave free.
#
#     python analysis/bench_long.py [--sequences 1024 4096] [--hidden 256] [--layers 8]
#         [--vocabulary 32768] [--precision float32] [--stage 1] [--only NAME ...]
#
# On a GPU, for example: --sequences 8192 32768 --hidden 2048 --layers 16 --precision bfloat16.
# `whole logits` is the loss as most write it, without tiles; `plain` has our own tiles.
# `shared` and `all, shared` are two processes on one sequence; the peak is the larger one's.

# %%
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
KEPT = {"activation_checkpointing": True, "offload_activations": True}
ALL = {"tiled_loss": True, "tiled_mlp": True} | KEPT
OPTIONS: dict[str, dict] = {
    "whole logits": {},
    "plain": {},
    "tiled_loss": {"tiled_loss": True},
    "tiled_mlp": {"tiled_mlp": True},
    "activation_checkpointing": {"activation_checkpointing": True},
    "and offload_activations": KEPT,
    "all": ALL,
    "shared": {"sequence_parallel": 2},
    "all, shared": ALL | {"sequence_parallel": 2},
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sequences", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=32768)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--stage", type=int, choices=[0, 1, 2, 3], default=1)
    parser.add_argument("--only", nargs="+", choices=list(OPTIONS), default=list(OPTIONS))
    parser.add_argument("--point", help=argparse.SUPPRESS)  # a child: what to measure, as JSON
    return parser.parse_args()


# %% one point, in a process of its own
def point(asked: dict) -> None:
    import numpy as np
    import torch
    import torch.distributed as dist

    from anneal.plan.means import DeepSpeed, LongSequences, Means
    from anneal.plan.values import LlamaShape, Optimiser
    from anneal.training import deepspeed_engine
    from anneal.training.model import llama

    long, hidden, sequence = LongSequences(**asked["options"]), asked["hidden"], asked["sequence"]
    if asked["name"] == "whole logits":
        deepspeed_engine.TILE.update(cpu=sequence, cuda=sequence)
    shape = LlamaShape(
        hidden=hidden,
        layers=asked["layers"],
        heads=max(2, hidden // 64),
        kv_heads=max(2, hidden // 64),
        feed_forward=4 * hidden,
        max_positions=sequence,
    )
    means = Means(
        engine="deepspeed",
        processes=long.sequence_parallel,
        compile="off",
        deepspeed=DeepSpeed(stage=asked["stage"]),
        long=long,
    )
    engine = deepspeed_engine.DeepSpeedEngine(
        llama(shape, vocabulary=asked["vocabulary"], seed=0),
        Optimiser(),
        precision=asked["precision"],
        means=means,
        batch=1,
        sequence=sequence,
    )
    rows = np.random.default_rng(0).integers(0, asked["vocabulary"], (1, sequence + 1))
    engine.step(rows[:, :65], 1e-3)  # weights, gradients and moments are there from here on
    if engine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = peak(engine.device.type)
    loss, _ = engine.step(rows, 1e-3)
    found = torch.tensor([before, peak(engine.device.type)], device=engine.device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    if engine.leader:
        start, top = found.tolist()
        row = {"start": start, "peak": top, "loss": float(loss), "device": engine.device.type}
        print("POINT " + json.dumps(row), flush=True)


def peak(device: str) -> int:
    """Bytes at most so far."""
    import resource

    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_ARENA_MAX": "1"}
"""For glibc: what is freed goes back at once, so that the peak is of what is in use."""


def measure(asked: dict) -> dict:
    """Starts one point. This process stays small: a child begins with its parent's `ru_maxrss`."""
    processes = asked["options"].get("sequence_parallel", 1)
    command = [sys.executable, __file__, "--point", json.dumps(asked)]
    if processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        command[1:1] = [*torchrun, str(processes)]
    done = subprocess.run(
        command,
        env=os.environ | MEMORY | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("POINT ")]
    if not lines:
        raise SystemExit(f"{asked}: exit {done.returncode}\n{done.stderr[-4000:]}")
    return json.loads(lines[-1].removeprefix("POINT "))


# %% the table
def main() -> None:
    given = parse()
    if given.point:
        point(json.loads(given.point))
        return
    common = {
        k: getattr(given, k) for k in ("hidden", "layers", "vocabulary", "precision", "stage")
    }
    found: dict[str, list[dict]] = {}
    for name in given.only:
        found[name] = []
        for sequence in given.sequences:
            asked = common | {"name": name, "options": OPTIONS[name], "sequence": sequence}
            found[name].append(measure(asked))
            last = found[name][-1]
            print(f"{name} at {sequence}: {last['peak'] / 2**20:.0f} MiB", file=sys.stderr)
    print(table(found, given.sequences, common))


def table(found: dict[str, list[dict]], sequences: list[int], common: dict) -> str:
    span = sequences[-1] - sequences[0]
    slopes = {n: (p[-1]["peak"] - p[0]["peak"]) / span for n, p in found.items() if span}
    device = next(iter(found.values()))[0]["device"]
    heads = [f"peak at {s:,}, MiB" for s in sequences]
    lines = [
        f"One step of one sequence on {device}: "
        + ", ".join(f"{key} {value}" for key, value in common.items()),
        "",
        "| | " + " | ".join(heads) + " | KiB a token | plain / this | loss |",
        "|---|" + "--:|" * (len(heads) + 3),
    ]
    for name, points in found.items():
        cells = [f"{p['peak'] / 2**20:,.0f}" for p in points]
        slope = slopes.get(name)
        cells.append("" if slope is None else f"{slope / 1024:.1f}")
        plain = slopes.get("plain")
        cells.append(f"{plain / slope:.1f}" if plain and slope and slope > 0 else "")
        cells.append(f"{points[-1]['loss']:.5f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
