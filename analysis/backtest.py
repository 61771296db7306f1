# %% [markdown]
# Every back-test in one command: published training runs, and worlds whose truth is known.
#
#     python -m analysis.backtest [--out FILE.md] [--worlds N]
#
# One table: what was asked, our answer, the published or plain one beside it, whether ours holds.
# Parts that need `../shared/runs` are left out, and named, where it is absent. About eight minutes
# on two cores: the parts go side by side, each in a process of its own.

# %%
from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from analysis import backtest_mixture, backtest_size, backtest_sources, backtest_truth
from analysis.rows import Row, show

RUNS = Path(__file__).parents[1] / "../shared/runs"


# %%
def parts(each: int) -> dict[str, Callable[[], list[Row]]]:
    """The back-tests by name, the longest first."""
    found: dict[str, Callable[[], list[Row]]] = {
        "simulated truth": partial(backtest_truth.rows, each)
    }
    if RUNS.is_dir():
        found |= {
            "laws of size": backtest_size.rows,
            "mixture laws": backtest_mixture.rows,
            "choice of sources": backtest_sources.rows,
        }
    else:
        print(f"no {RUNS}: published runs are left out", file=sys.stderr)
    return found


def timed(part: Callable[[], list[Row]]) -> tuple[list[Row], float]:
    """Its rows and its seconds."""
    began = time.perf_counter()
    return part(), time.perf_counter() - began


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--out", type=Path)
    words.add_argument("--worlds", type=int, default=4)
    given = words.parse_args()
    began = time.perf_counter()
    lines: list[str] = []
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        waiting = {name: pool.submit(timed, part) for name, part in parts(given.worlds).items()}
        for name, future in waiting.items():
            rows, seconds = future.result()
            print(f"{name}: {len(rows)} rows in {seconds:.0f} s", file=sys.stderr)
            lines += ["", f"## {name}", ""]
            show(rows, lines.append)
    print("\n".join(lines))
    print(f"{time.perf_counter() - began:.0f} s in all", file=sys.stderr)
    if given.out:
        given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
