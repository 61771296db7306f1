# %% [markdown]
# Laws of size, tokens and epochs against published runs: is what they predict what happened?
#
#     python -m analysis.backtest_size [DATASET ...]
#
# Fits see the small runs only; the
# largest are held out. Coverage is the share of held-out scores inside the 50, 80 and 95% intervals
# of a new run. Single-scale ranking stands beside the law wherever sources are compared.

# %%
from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

from analysis.backtest_curves import dclm_database, learning_curves
from analysis.backtest_repeats import datablations
from analysis.backtest_runs import chinchilla_epoch, gadre_overtraining, porian_isoflop, steplaw
from analysis.rows import Row, show

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


def rows(names: Sequence[str] = ()) -> list[Row]:
    """The rows of these datasets, of all where none is named."""
    return [found for name in names or DATASETS for found in DATASETS[name]()]


if __name__ == "__main__":
    show(rows(sys.argv[1:]))
