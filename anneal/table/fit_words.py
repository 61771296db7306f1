"""The sections of a fit in order, and the one on crossovers: where the better buy changes."""

from __future__ import annotations

from anneal.report import format as show
from anneal.report.blocks import Block, Column, Note, Section, Table
from anneal.report.law_rows import Interval
from anneal.report.tables import numbers
from anneal.table import words
from anneal.table.values import Crossing, Fitted
from anneal.table.words import digits

LIKELY = 0.1
"""P(crossing) from which a pair is shown at once; the others are folded away."""


def fit_sections(fitted: Fitted) -> tuple[Section, ...]:
    """Everything `fit` says, in the order in which it is to be believed."""
    return (
        words.as_read(fitted),
        words.noise(fitted),
        words.held_out(fitted),
        words.law(fitted),
        words.curves(fitted),
        words.ranks(fitted),
        crossings(fitted),
        *((words.guards(fitted),) if fitted.guards else ()),
        words.remarks(fitted.notes, fitted.warnings, fitted),
    )


def crossings(fitted: Fitted) -> Section:
    """Where one source overtakes another, and which are ties."""
    places = digits(fitted)
    blocks: list[Block] = []
    shown = [c for c in fitted.crossings if c.found or c.probability >= LIKELY]
    quiet = [c for c in fitted.crossings if c not in shown]
    for caption, rows, folded in (
        ("Crossovers", shown, False),
        ("Pairs that do not cross in the range", quiet, True),
    ):
        if rows:
            blocks.append(
                Table(
                    caption=caption,
                    columns=(
                        Column("first", "source"),
                        Column("second", "source"),
                        Column("axis"),
                        *numbers("cross at [90%]", "P(crossing in range)"),
                        *numbers("P(first better at its end)", "range searched"),
                    ),
                    rows=tuple(_crossing(c) for c in rows),
                    folded=folded,
                )
            )
    if not shown:
        blocks.insert(0, Note(text="No crossover in range between any two sources."))
    if fitted.ties:
        blocks.append(
            Table(
                caption=f"Ties at {show.count(fitted.at[-1].tokens)} tokens: "
                "differences below the noise floor",
                columns=(
                    Column("first", "source"),
                    Column("second", "source"),
                    *numbers("second minus first [90%]"),
                ),
                rows=tuple(
                    (t.first, t.second, show.interval(t.gap, places, sign=True))
                    for t in fitted.ties
                ),
            )
        )
    else:
        blocks.append(Note(text="No two sources tie at the budget of the decision."))
    return Section(
        name="crossovers",
        title="Crossovers and ties",
        lead="Where two curves cross the better buy changes; below the noise floor there is none.",
        blocks=tuple(blocks),
    )


def _crossing(c: Crossing) -> tuple[str, ...]:
    where = "no crossover in range"
    if c.tie:
        where = "a tie all along"
    elif c.at is not None:
        where = _amounts(c, c.at)
    span = f"{_amount(c, c.low)} to {_amount(c, c.high)}"
    chances = (show.probability(c.probability), show.probability(c.first_ahead))
    return (c.first, c.second, c.axis, where, *chances, span)


def _amount(c: Crossing, value: float) -> str:
    if c.axis == "tokens":
        return show.count(value)
    return show.usd(value) if c.axis == "usd" else show.flops(value)


def _amounts(c: Crossing, at: Interval) -> str:
    return f"{_amount(c, at.value)} [{_amount(c, at.low)}, {_amount(c, at.high)}]"
