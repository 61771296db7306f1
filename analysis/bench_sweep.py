# %% [markdown]
# The whole demo sweep against what a user would write: one `transformers.Trainer` process per
# run, on the same model, weights, tokens, precision and schedule, run the best way the machine
# allows (one process with all cores, or one per core, whichever is faster on a sample). Both sides
# in one run; ratios are what counts.
#
#     python analysis/bench_sweep.py [--store FOLDER] [--every N]
#
# `--every N` gives the Trainer every N-th run of the grid, largest first, and compares those alone.

# %%
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from anneal.plan.values import Result
from anneal.store import Store, read_value
from anneal.sweep.record import planned

HERE = Path(__file__).resolve().parent
CORES = len(os.sched_getaffinity(0))


def sweep(store: Path) -> float:
    """Seconds of `python -m anneal sweep` in a process of its own."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "anneal", "sweep", f"store={store}"], check=True)
    return time.perf_counter() - began


def trainer(task: Path, threads: int) -> dict:
    """One Trainer process; its own line, and its wall-clock from the outside."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(HERE / "trainer_baseline.py"), str(task), str(threads)],
        env=os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    line = done.stdout.strip().splitlines()[-1]
    return json.loads(line) | {"wall": time.perf_counter() - began}


def trainers(tasks: list[Path], workers: int) -> tuple[float, list[dict]]:
    """Wall-clock of all tasks on `workers` processes side by side, largest first."""
    began = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        rows = list(pool.map(lambda t: trainer(t, CORES // workers), tasks))
    return time.perf_counter() - began, rows


def grid_seconds(results: list[Result]) -> float:
    """Our share of the grid's wall-clock, start-up and compiling included."""
    return sum(r.seconds + r.startup_seconds for r in results) / CORES


# %%
def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--store", type=Path)
    words.add_argument("--every", type=int, default=1)
    given = words.parse_args()
    folder = given.store or Path(tempfile.mkdtemp(prefix="bench-"))
    seconds = sweep(folder)
    again = sweep(folder)
    store = Store(folder)
    runs = [r for r in planned(store.sweep("demo")) if r.spec.phases]
    runs.sort(key=lambda r: -r.tokens)
    results = {r.spec.id: read_value(store.run(r.spec.id) / "result.json", Result) for r in runs}
    timing = json.loads((store.sweep("demo") / "timing.json").read_text())
    print(f"sweep: {seconds:.0f} s with {len(runs) + 1} runs; finished sweep again: {again:.2f} s")
    print("  " + ", ".join(f"{k} {v:.0f} s" for k, v in timing.items()))

    sample = runs[:: given.every]
    tasks = [store.run(r.spec.id) / "task.json" for r in sample]
    pair = tasks[len(tasks) // 2 : len(tasks) // 2 + CORES]
    modes = {workers: trainers(pair, workers)[0] for workers in (1, CORES)}
    best = min(modes, key=lambda w: modes[w])
    print(
        "Trainer, two middling runs: "
        + ", ".join(f"{w} process(es) at once {s:.1f} s" for w, s in modes.items())
    )
    theirs, rows = trainers(tasks, best)
    share = sum(r.tokens for r in sample) / sum(r.tokens for r in runs)
    mine = timing["runs"] if given.every == 1 else grid_seconds([results[r["run"]] for r in rows])
    inside = [results[r["run"]].tokens_per_second / r["tokens_per_second"] for r in rows]
    print(
        f"grid ({len(rows)} runs, {share:.0%} of its tokens): ours {mine:.0f} s, Trainer "
        f"{theirs:.0f} s, ratio {theirs / mine:.2f}"
    )
    inside.sort()
    print(
        f"tokens/s inside a run, ratio: median {inside[len(inside) // 2]:.2f}, "
        f"smallest {inside[0]:.2f}, largest {inside[-1]:.2f}"
    )
    gaps = [
        abs(results[r["run"]].scores[name].bpb - bpb)
        for r in rows
        for name, bpb in r["scores"].items()
    ]
    print(f"scores, ours against Trainer's: largest difference {max(gaps):.4f} bpb")
    work = sum(r.train_seconds + r.score_seconds for r in results.values()) / CORES
    overhead = timing["runs"] - work
    print(
        f"launching: {timing['runs']:.0f} s for {work:.0f} s of training and scoring on {CORES} "
        f"slots: {overhead / sum(timing.values()):.1%} of the sweep is neither"
    )


if __name__ == "__main__":
    main()
