# %% [markdown]
# How much memory a sequence takes, with each option for long sequences and with all.
# Every point is one training step of one sequence, by the DeepSpeed engine, in fresh processes. The
# peak is the kernel's high-water mark of the process (what `ru_maxrss` tells, set back before the
# step: making the engine takes more than a short step), on a GPU that of torch's allocator. Above
# rest is what the step adds to weights, moments and libraries: activations, and gradients, which do
# not grow with the sequence; so the ratios are rather too small than too large.
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
    rest = forget_peak(engine.device.type)
    loss, _ = engine.step(rows, 1e-3)
    found = torch.tensor([rest, peak(engine.device.type)], device=engine.device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    if engine.leader:
        rest, top = found.tolist()
        row = {"rest": rest, "peak": top, "loss": float(loss), "device": engine.device.type}
        print("POINT " + json.dumps(row), flush=True)


def forget_peak(device: str) -> int:
    """Sets the peak back; bytes in use now."""
    import torch

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): the high-water mark starts anew
    return status("VmRSS")


def peak(device: str) -> int:
    """Bytes at most since then."""
    import torch

    return torch.cuda.max_memory_allocated() if device == "cuda" else status("VmHWM")


def status(key: str) -> int:
    """Bytes that the kernel tells of this process."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) * 1024


MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_ARENA_MAX": "1"}
"""For glibc: what is freed goes back at once, so that the peak is of what is in use."""


def measure(asked: dict) -> dict:
    """Starts one point, and reads its line."""
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
    device = next(iter(found.values()))[0]["device"]
    lines = [
        f"One step of one sequence on {device}: "
        + ", ".join(f"{key} {value}" for key, value in common.items())
        + "; peak and, of it, above rest in MiB, plain / this above rest.",
        "",
        "| |" + "".join(f" peak at {s:,} | above rest | ratio |" for s in sequences) + " loss |",
        "|---|" + "--:|" * (3 * len(sequences) + 1),
    ]
    above = {n: [p["peak"] - p["rest"] for p in points] for n, points in found.items()}
    for name, points in found.items():
        cells = []
        for at, row in enumerate(points):
            ratio = above["plain"][at] / above[name][at] if "plain" in above else float("nan")
            cells += [f"{row['peak'] / 2**20:,.0f}", f"{above[name][at] / 2**20:,.0f}"]
            cells.append(f"{ratio:.1f}")
        cells.append(f"{points[-1]['loss']:.5f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
