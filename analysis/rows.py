# %% [markdown]
# Rows of a back-test: what was asked, our answer, the reference's, and whether ours holds.
#
# A row may carry the points that its answer was computed from, for the figures
# (`analysis.backtest_figures`): a figure shows what the table says, and nothing is fitted twice.

# %%
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

Row = dict[str, Any]
"""dataset, question, ours, reference: words; holds: yes, no, or None where nothing was asked;
drawn: what figures draw of it, tables by name."""


def row(
    dataset: str,
    question: str,
    ours: str,
    reference: str,
    holds: bool | None = None,
    *,
    drawn: dict[str, pd.DataFrame] | None = None,
) -> Row:
    """One row; the columns as `Row` says."""
    return {
        "dataset": dataset,
        "question": question,
        "ours": ours,
        "reference": reference,
        "holds": holds,
        "drawn": drawn or {},
    }


def drawn_tables(found: Sequence[Row]) -> dict[str, pd.DataFrame]:
    """What these rows carry for figures; tables of one name are put below each other."""
    parts: dict[str, list[pd.DataFrame]] = {}
    for each in found:
        for name, table in each["drawn"].items():
            parts.setdefault(name, []).append(table)
    return {name: pd.concat(tables, ignore_index=True) for name, tables in parts.items()}


def show(found: Sequence[Row], write: Callable[[str], object] = print) -> None:
    """Print rows as a Markdown table; `holds` is empty where nothing was asked."""
    columns = ["dataset", "question", "ours", "reference", "holds"]
    write("| " + " | ".join(columns) + " |")
    write("|" + "---|" * len(columns))
    words = {True: "yes", False: "**no**", None: ""}
    for each in found:
        cells = [str(each[c]) for c in columns[:-1]] + [words[each["holds"]]]
        write("| " + " | ".join(cells) + " |")
