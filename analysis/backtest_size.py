# %% [markdown]
# Laws of size, tokens and epochs against published runs: is what they predict what happened?
#
#     PYTHONPATH=. python analysis/backtest_size.py [DATASET ...]
#
# `rows_of(name)` gives a dataset's rows (see backtest_rows). Fits see the small runs only; the
# largest are held out. Coverage is the share of held-out scores inside the 50, 80 and 95% intervals
# of a new run. Single-scale ranking stands beside the law wherever sources are compared.

# %%
from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

from backtest_curves import datablations, dclm_database, learning_curves
from backtest_rows import Row
from backtest_runs import chinchilla_epoch, gadre_overtraining, porian_isoflop, steplaw

# %%
DATASETS: dict[str, Callable[[], Iterator[Row]]] = {
    "chinchilla_epoch": chinchilla_epoch,
    "gadre_overtraining": gadre_overtraining,
    "porian_isoflop": porian_isoflop,
    "datablations": datablations,
    "learning_curves": learning_curves,
    "steplaw": steplaw,
    "dclm_database": dclm_database,
}


def rows_of(name: str) -> list[Row]:
    """The rows of one dataset."""
    return list(DATASETS[name]())


def main(names: list[str]) -> list[Row]:
    rows: list[Row] = []
    for name in names or DATASETS:
        began = time.process_time()
        mine = rows_of(name)
        for r in mine:
            verdict = {True: "holds", False: "FAILS", None: "-"}[r["holds"]]
            print(f"{r['dataset']}: {r['question']}\n    ours       {r['ours']}")
            print(f"    reference  {r['reference']}  [{verdict}]")
        print(f"({name}: {time.process_time() - began:.1f} s of processor time)\n")
        rows += mine
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
