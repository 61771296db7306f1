# %% [markdown]
# Rows of a back-test: what was asked, our answer, the reference's, and whether ours holds.

# %%
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]
"""dataset, question, ours, reference: words; holds: yes, no, or None where nothing was asked."""


def row(dataset: str, question: str, ours: str, reference: str, holds: bool | None = None) -> Row:
    """One row; the columns as `Row` says."""
    return {
        "dataset": dataset,
        "question": question,
        "ours": ours,
        "reference": reference,
        "holds": holds,
    }


def show(found: Sequence[Row], write: Callable[[str], object] = print) -> None:
    """Print rows as a Markdown table; `holds` is empty where nothing was asked."""
    columns = ["dataset", "question", "ours", "reference", "holds"]
    write("| " + " | ".join(columns) + " |")
    write("|" + "---|" * len(columns))
    words = {True: "yes", False: "**no**", None: ""}
    for each in found:
        cells = [str(each[c]) for c in columns[:-1]] + [words[each["holds"]]]
        write("| " + " | ".join(cells) + " |")
