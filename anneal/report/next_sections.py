"""Next best experiment: which run takes most off the decision's regret, and when to stop.

One section for a sweep and for a table: both hold the same record.
"""

from __future__ import annotations

from anneal.report import format as show
from anneal.report.blocks import Block, Column, Fact, Facts, Note, Section, Table
from anneal.report.decision import NextBest, NextRun
from anneal.report.tables import numbers

SHOWN = 12
"""Rows of the table; `decision.json` has them all."""


def following(next_best: NextBest | None) -> Section:
    """The ranking with its rule."""
    blocks: tuple[Block, ...] = (Note(text="No further run was considered."),)
    if next_best is not None:
        blocks = (
            Facts(
                facts=(
                    Fact("do next", advice(next_best), next_best.reason),
                    Fact(
                        "expected regret now",
                        show.decimal(next_best.regret, 4),
                        "what perfect knowledge would save; a run can take a part of it away",
                    ),
                )
            ),
            _ranking(next_best),
        )
        if next_best.price == "1e9 tokens":
            blocks += (
                Note(text="Nobody said what a token costs to train on: ranked by gain per token."),
            )
    return Section(
        name="next",
        title="Next best experiment",
        lead="What one more run is expected to take off the decision's regret, before it is run. A "
        "run is worth doing while the regret is above the noise floor and the run takes a tenth "
        "of it away.",
        blocks=blocks,
    )


def advice(next_best: NextBest) -> str:
    """The first run, or to stop, in a few words."""
    if next_best.stop:
        return "stop: no further run is worth its price"
    best = next_best.rows[0]
    return f"run {best.source} at {show.count(best.tokens)} tokens ({_price(best)})"


def _price(run: NextRun) -> str:
    if run.flops is None:
        return f"{show.count(run.tokens)} tokens"
    hours = "" if run.hours is None else f", {show.significant(run.hours)} device-hours"
    return f"{show.flops(run.flops)} FLOPs{hours}, USD {show.usd(run.usd)}"


def _ranking(next_best: NextBest) -> Table:
    rows = next_best.rows[:SHOWN]
    more = f", the first {len(rows)} of {len(next_best.rows)}" if next_best.rows[SHOWN:] else ""
    return Table(
        caption=f"Runs that could come next, best gain per {next_best.price} first{more}",
        columns=(
            Column("source", "source"),
            *numbers("tokens", "unique", "FLOPs", "device-hours", "USD"),
            *numbers("gain [90%]", f"gain per {next_best.price}", "P(changes the mix)"),
            Column("reading"),
        ),
        rows=tuple(
            (
                r.source,
                show.count(r.tokens),
                show.count(r.unique),
                show.NONE if r.flops is None else show.flops(r.flops),
                show.NONE if r.hours is None else show.significant(r.hours),
                show.NONE if r.flops is None else show.usd(r.usd),
                show.interval_significant(r.gain, 2),
                show.significant(r.per_price),
                show.probability(r.changes),
                "worth running" if r.worthwhile else "not worth running",
            )
            for r in rows
        ),
        marked=frozenset() if next_best.stop else frozenset({0}),
    )
