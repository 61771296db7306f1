"""Findings on the terminal: colour where a person looks, plain columns where a program reads.

Data goes to stdout. What takes longer than two seconds says so on stderr, and how long it has been
at it, so that nobody wonders whether it hangs.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from anneal.report.blocks import Block, Facts, Note, Section, Table
from anneal.report.next_sections import advice
from anneal.table.decision_words import allocation_sections, beats, buy, facts
from anneal.table.fit_words import fit_sections
from anneal.table.values import Allocated, Fitted

if TYPE_CHECKING:
    from rich.console import Console

PATIENCE = 2.0
"""Seconds before, and between, words on what takes long."""
WIDTH = 160
"""Columns of piped output."""


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Says on stderr what is being done once it has taken two seconds, and again as it goes on."""
    done = threading.Event()
    began = time.monotonic()

    def tell() -> None:
        pause = PATIENCE
        while not done.wait(pause):
            print(f"{what}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            pause = 2 * pause  # 2, 6, 14, 30 s: enough to be sure that it goes on

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def show_fit(fitted: Fitted) -> None:
    """Prints everything `fit` found; the outcome last, where the eye rests."""
    out = _console()
    _sections(fit_sections(fitted), out)
    _say(out, f"outcome: {fitted.outcome}: {fitted.reason}", style="bold")


def show_allocation(found: Allocated) -> None:
    """Prints the law's evidence, then the split; the verdict last."""
    out = _console()
    sections = list(allocation_sections(found))
    _sections([*sections[3:], *sections[:3]], out)
    _heading("Decision", out)
    for block in (buy(found), facts(found), beats(found)):
        _block(block, out)
    if found.next_best is not None:
        _say(out, f"next: {advice(found.next_best)}; {found.next_best.reason}")
    _say(out, f"verdict: {found.verdict}: {found.reason}", style="bold")


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=WIDTH, highlight=False)


def _say(out: Console, text: str, style: str = "") -> None:
    out.print(text, style=style or None, markup=False, emoji=False, soft_wrap=True)


def _heading(title: str, out: Console) -> None:
    out.print()
    _say(out, title, style="bold cyan")


def _sections(sections: Sequence[Section], out: Console) -> None:
    for section in sections:
        _heading(section.title, out)
        for block in section.blocks:
            _block(block, out)


def _block(block: Block, out: Console) -> None:
    if isinstance(block, Table):
        if block.folded:
            pairs = ", ".join(f"{row[0]} / {row[1]}" for row in block.rows[:6])
            more = f" and {len(block.rows) - 6} more" if len(block.rows) > 6 else ""
            _say(out, f"{block.caption}: {pairs}{more}")
        elif block.rows:
            _table(block, out)
    elif isinstance(block, Facts):
        for fact in block.facts:
            note = f" ({fact.note})" if fact.note else ""
            _say(out, f"{fact.label}: {fact.value}{note}")
    elif isinstance(block, Note):
        _say(
            out, f"warning: {block.text}" if block.warning else block.text, "yellow" * block.warning
        )


def _table(table: Table, out: Console) -> None:
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(
        box=box.SIMPLE_HEAD if out.is_terminal else box.ASCII2,
        title=Text(table.caption),
        title_justify="left",
        title_style="italic",
        pad_edge=False,
    )
    for column in table.columns:
        grid.add_column(column.label, justify="right" if column.kind == "number" else "left")
    for i, row in enumerate(table.rows):
        grid.add_row(*(Text(cell) for cell in row), style="bold" if i in table.marked else None)
    out.print(grid)
