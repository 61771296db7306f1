"""A full run in a few lines, for the end of a terminal session."""

from __future__ import annotations

from textwrap import wrap

from anneal.plan.predictions import held_words
from anneal.report import format as show
from anneal.report.pretrained import Pretrained
from anneal.report.pretrained_words import DIGITS, headline


def summary(found: Pretrained) -> str:
    """The last lines of a terminal session, at most 80 columns: the run in short, why something was
    not predicted, and last the table of predicted beside measured."""
    spent = {row.what: row for row in found.spent}
    hours, usd = spent["device-hours"], spent["USD"]
    line = headline(found)
    lines = [f"full run {found.name}: {line}"]
    if found.aborted:
        lines += _wrapped(f"ended early: {found.aborted}")
    speed = found.tokens_per_second
    lines += _wrapped(
        f"{spent['tokens'].spent:,.0f} of {spent['tokens'].asked:,.0f} tokens, "
        f"{show.significant(hours.spent)} device-hours (asked {show.significant(hours.asked)}), "
        f"USD {show.usd(usd.spent)} (asked {show.usd(usd.asked)})"
        + (f", {show.count(speed)} tokens/s" if speed else "")
        + (f", MFU {show.percent(found.mfu)}" if found.mfu is not None else "")
    )
    if found.calibration is not None:
        runs = found.calibration.runs
        over = f"{runs} full run{'s' * (runs > 1)}"
        lines += _wrapped(f"{held_words(found.calibration)}, over {over}")
    told: dict[str, None] = {}
    for row in found.foretold:
        if row.predicted is None:
            told[f"after {row.phase}: not predicted: {row.reason}"] = None
        for words in row.broken:
            told[f"after {row.phase}: {words}"] = None
    for words in told:
        lines += _wrapped(words)
    if any(row.known and row.inside is not None for row in found.foretold):
        lines.append("  * known beforehand, not counted")
    lines.append(f"  {'after':<24}{'predicted':>26}{'measured':>10}{'error':>9}  held")
    before = -1
    for row in found.foretold:
        if row.index != before:
            lines.append(f"  {row.phase:.77}")
        before = row.index
        predicted = "-" if row.predicted is None else show.interval(row.predicted, DIGITS)
        measured = "-" if row.measured is None else f"{row.measured:.4f}"
        error = "-" if row.error is None else f"{row.error:+.4f}"
        kept = {True: "yes", False: "NO", None: "-"}[row.inside]
        kept += "*" if row.known and row.inside is not None else ""
        lines.append(f"    {row.score:<22.22}{predicted:>26}{measured:>10}{error:>9}  {kept}")
    return "\n".join(line.replace(show.MINUS, "-").replace(show.NONE, "-") for line in lines)


def _wrapped(text: str) -> list[str]:
    return wrap(text, 80, initial_indent="  ", subsequent_indent="    ")
