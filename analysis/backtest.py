# %% [markdown]
# Every back-test in one command: published training runs, and worlds whose truth is known.
#
#     python -m analysis.backtest [--out FILE.md] [--figures FOLDER] [--worlds N]
#
# One table: what was asked, our answer, the published or plain one beside it, whether ours holds.
# And a figure of each, drawn from what its rows carry. Figures go to a folder that git ignores,
# since some redraw runs whose licence is not stated; the few that are kept stand beside FILE too.
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

from analysis import (
    backtest_figures,
    backtest_mixture,
    backtest_size,
    backtest_sources,
    backtest_truth,
)
from analysis.rows import Row, drawn_tables, show

RUNS = Path(__file__).parents[1] / "../shared/runs"
FIGURES = Path("outputs/backtest")


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


def page(found: dict[str, list[Row]], pictures: list[str]) -> str:
    """The table in Markdown, a section a part; the figures that stand beside it at its head."""
    named = backtest_figures.FIGURES
    lines = [f"![{named[name].title}]({backtest_figures.BESIDE}/{name}.svg)\n" for name in pictures]
    for name, rows in found.items():
        lines += ["", f"## {name}", ""]
        show(rows, lines.append)
    return "\n".join(lines) + "\n"


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--out", type=Path)
    words.add_argument("--figures", type=Path, default=FIGURES)
    words.add_argument("--worlds", type=int, default=4)
    given = words.parse_args()
    began = time.perf_counter()
    found: dict[str, list[Row]] = {}
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        waiting = {name: pool.submit(timed, part) for name, part in parts(given.worlds).items()}
        for name, future in waiting.items():
            found[name], seconds = future.result()
            print(f"{name}: {len(found[name])} rows in {seconds:.0f} s", file=sys.stderr)
    figures = backtest_figures.draw(drawn_tables([r for rows in found.values() for r in rows]))
    backtest_figures.write(figures, given.figures)
    print(f"{len(figures)} figures: {given.figures}", file=sys.stderr)
    kept = {name: figures[name] for name in backtest_figures.KEPT if name in figures}
    print(page(found, []))
    if given.out:
        given.out.write_text(page(found, list(kept)), encoding="utf-8")
        backtest_figures.write(kept, given.out.parent / backtest_figures.BESIDE)
    print(f"{time.perf_counter() - began:.0f} s in all", file=sys.stderr)


if __name__ == "__main__":
    main()
