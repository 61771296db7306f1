"""The outcome of a full run in short: its box, and the table of predicted beside measured."""

from __future__ import annotations

from typing import Literal

from anneal.report import format as show
from anneal.report.blocks import Box, Column, Fact, Facts, Table
from anneal.report.pretrained import Foretold, Pretrained
from anneal.report.sections import held
from anneal.report.tables import numbers

DIGITS = 4
"""Decimals of scores."""
Tone = Literal["go", "care", "wait", "stop"]


def headline(found: Pretrained) -> str:
    """How it ended and how many intervals held, in a line."""
    settled = found.settled
    inside = sum(bool(row.inside) for row in settled)
    kept = f"{inside} of {len(settled)} intervals held" if settled else "no interval was tested"
    return {
        "finished": kept,
        "aborted": f"Aborted; {kept}",
        "unfinished": f"Not finished; {kept}",
    }[found.state].replace("; no interval was tested", "")


def box(found: Pretrained) -> Box:
    """What someone reads who reads nothing else."""
    settled = found.settled
    ended = [row for row in found.phases if row.tokens is not None]
    tones: dict[bool, tuple[Tone, str]] = {
        True: ("go", "\N{CHECK MARK}"),
        False: ("care", "\N{CIRCLE WITH LEFT HALF BLACK}"),
    }
    tone, mark = tones[bool(settled) and all(row.inside for row in settled)]
    if found.state == "aborted":
        tone, mark = "stop", "\N{MULTIPLICATION X}"
    elif found.state == "unfinished":
        tone, mark = "wait", "\N{ANTICLOCKWISE OPEN CIRCLE ARROW}"
    line = headline(found)
    return Box(
        verdict=line[0].upper() + line[1:],
        tone=tone,
        mark=mark,
        meaning=f"{len(ended)} of {len(found.phases)} phases ended, "
        f"{show.count(found.spent[0].spent)} of {show.count(found.spent[0].asked)} tokens trained.",
        reason=_reason(found),
        allocation=beside(found),
        facts=Facts(facts=_headline_facts(found)),
        beats=Table(caption="", columns=(), rows=()),
        partial=f"Ended early: {found.aborted}" if found.aborted else "",
        missing=(),
        warnings=found.warnings,
        nothing="Nothing was predicted of this run.",
    )


def _reason(found: Pretrained) -> str:
    worst = max(
        (row for row in found.settled if not row.inside),
        key=lambda row: abs(row.error or 0.0),
        default=None,
    )
    if worst is not None and worst.error is not None:
        side = "worse" if worst.error > 0 else "better"
        why = (
            " There an assumption of the law does not hold, which its interval does not know."
            if worst.broken
            else ""
        )
        return (
            f"Farthest outside: {worst.score} after {worst.phase}, "
            f"{show.decimal(abs(worst.error), DIGITS)} bpb {side} than predicted.{why}"
        )
    if found.settled:
        return "Every prediction that counts holds what was measured."
    return "No prediction that counts has been measured."


def _headline_facts(found: Pretrained) -> tuple[Fact, ...]:
    hours = next(row for row in found.spent if row.what == "device-hours")
    usd = next(row for row in found.spent if row.what == "USD")
    speed = found.tokens_per_second
    facts = [
        Fact(
            "device-hours",
            show.significant(hours.spent),
            f"asked: {show.significant(hours.asked)}",
        ),
        Fact("USD, training", show.usd(usd.spent), f"asked: {show.usd(usd.asked)}"),
        Fact(
            "speed",
            show.NONE if not speed else f"{show.count(speed)} tokens/s",
            f"{found.processes} process{'es' * (found.processes > 1)}, {found.engine}",
        ),
    ]
    if found.mfu is not None:
        facts.append(Fact("MFU", show.percent(found.mfu), "of the devices' peak"))
    if found.calibration is not None:
        facts.append(held(found.calibration))
    return tuple(facts)


def reading(row: Foretold) -> str:
    """`inside`, `outside`, or why neither."""
    if row.predicted is None:
        return "not predicted"
    if row.inside is None:
        return "not measured"
    word = "inside" if row.inside else "outside"
    if row.known:
        return f"{word}; known beforehand"
    return word + ("" if row.counted else "; predicted too late to count")


def beside(found: Pretrained) -> Table:
    """Every phase end: predicted, measured, error, reading."""
    return Table(
        caption="Predicted beside measured, bits per byte",
        columns=(
            Column("after phase"),
            Column("score"),
            *numbers("predicted", "measured", "error"),
            Column("reading"),
        ),
        rows=tuple(
            (
                row.phase,
                row.score,
                show.NONE if row.predicted is None else show.interval(row.predicted, DIGITS),
                show.NONE if row.measured is None else show.decimal(row.measured, DIGITS),
                show.NONE if row.error is None else show.decimal(row.error, DIGITS, sign=True),
                reading(row),
            )
            for row in found.foretold
        ),
        marked=frozenset(i for i, row in enumerate(found.foretold) if row.inside is False),
    )
