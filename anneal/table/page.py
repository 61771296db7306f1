"""The same findings as one self-contained page, Markdown, SVG and JSON, in the report's look."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from anneal.report import format as show
from anneal.report import look
from anneal.report.blocks import Box, Fact, Facts, Page, Table
from anneal.report.content import VERDICTS
from anneal.report.page import FIGURES, html, markdown
from anneal.report.tables import SOURCE, numbers
from anneal.store import write, write_value
from anneal.table import figures
from anneal.table.decision_words import allocation_sections, beats, buy, facts
from anneal.table.fit_words import fit_sections
from anneal.table.values import Allocated, At, Fitted, Outcome
from anneal.table.words import digits

OUTCOMES: Final[dict[Outcome, tuple[Literal["go", "care", "wait", "stop"], str, str]]] = {
    # tone, mark, meaning
    "leads": ("go", "\N{CHECK MARK}", "One source is better, as far as these runs can tell."),
    "tie": (
        "care",
        "\N{CIRCLE WITH LEFT HALF BLACK}",
        "The best sources cannot be told apart from noise: take the cheaper one.",
    ),
    "undecided": (
        "wait",
        "\N{ANTICLOCKWISE OPEN CIRCLE ARROW}",
        "The runs do not say which source is better: run more before choosing.",
    ),
    "all within noise": (
        "stop",
        "\N{MULTIPLICATION X}",
        "All sources are within noise of one another: nothing is gained by choosing.",
    ),
}


def write_fit(fitted: Fitted, folder: Path) -> Path:
    """Writes `report.md`, `fit.json`, `figures/*.svg` and `index.html`; returns the page's path.

    Raises:
        StoreError: the folder cannot be written.
    """
    return _write(_fit_page(fitted), {"curves": figures.curves(fitted)}, fitted, fitted, folder)


def write_allocation(found: Allocated, folder: Path) -> Path:
    """As `write_fit`, with `allocation.json`."""
    charts = {"split": figures.split(found), "curves": figures.curves(found.fitted)}
    return _write(_allocation_page(found), charts, found, found.fitted, folder)


def _write(
    page: Page,
    charts: dict[str, look.Spec],
    found: Fitted | Allocated,
    fitted: Fitted,
    folder: Path,
) -> Path:
    for name, spec in charts.items():
        write(folder / FIGURES / f"{name}.svg", look.svg(spec))
    write(folder / "report.md", markdown(page))
    name = "fit.json" if isinstance(found, Fitted) else "allocation.json"
    write_value(folder / name, found)
    write(folder / "index.html", html(page, charts, figures.colours(fitted)))
    return folder / "index.html"


def _meta(fitted: Fitted) -> tuple[Fact, ...]:
    return (
        Fact("table", fitted.table),
        Fact("runs", str(fitted.runs)),
        Fact("sources", str(len(fitted.sources) - fitted.control)),
        Fact("largest budget tried", f"{show.count(fitted.held_out.budget)} tokens"),
    )


def _level(fitted: Fitted) -> str:
    return (
        f"Square brackets hold 90% intervals. Scores are the table's own ({fitted.unit}): lower is "
        "better."
    )


def _sentence(text: str) -> str:
    """Prose for the page: names need no backticks where they are not typed."""
    plain = text.replace("`", "")
    first = plain[:1] if text.startswith("`") else plain[:1].upper()  # a name keeps its case
    return first + plain[1:] + ("" if plain.endswith(".") else ".")


def _short(fitted: Fitted, at: At, places: int) -> Table:
    """The curves at the decision's budget, in as few columns as decide it."""
    return Table(
        caption=f"At {show.count(at.tokens)} tokens",
        columns=(SOURCE, *numbers("epochs", "curve [90%]", "P(best)")),
        rows=tuple(
            (
                r.source,
                show.epochs(r.epochs),
                show.interval(r.curve, places),
                show.NONE if r.probability_best is None else show.probability(r.probability_best),
            )
            for r in at.rows
        ),
    )


def _fit_page(fitted: Fitted) -> Page:
    tone, mark, meaning = OUTCOMES[fitted.outcome]
    last, places = fitted.at[-1], digits(fitted)
    best = next(r for r in last.rows if r.probability_best is not None)
    used = next((r for r in fitted.held_out.rows if r.used), None)
    words = {"leads": f"{best.source} leads"}.get(fitted.outcome, fitted.outcome.capitalize())
    error = show.NONE if used is None or used.mae is None else show.decimal(used.mae, places)
    return Page(
        question=f"Which source is best at {show.count(last.tokens)} tokens?",
        meta=_meta(fitted),
        level=_level(fitted),
        box=Box(
            verdict=words,
            tone=tone,
            mark=mark,
            meaning=meaning,
            reason=_sentence(fitted.reason),
            allocation=_short(fitted, last, places),
            facts=Facts(
                facts=(
                    Fact("noise floor", show.decimal(fitted.noise.sd.value, places + 1)),
                    Fact("error on the held-out budget", error),
                    Fact("extrapolation", f"{show.decimal(last.factor, 1)}-fold"),
                )
            ),
            beats=Table(caption="", columns=(), rows=()),
            partial="",
            missing=(),
            warnings=tuple(map(_sentence, fitted.warnings)),
        ),
        sections=fit_sections(fitted),
    )


def _allocation_page(found: Allocated) -> Page:
    tone, mark, meaning = VERDICTS[found.verdict]
    return Page(
        question=f"How should {show.count(found.tokens)} tokens be split over the sources?",
        meta=(*_meta(found.fitted), Fact("costs", found.costs)),
        level=_level(found.fitted),
        box=Box(
            verdict=found.verdict.capitalize(),
            tone=tone,
            mark=mark,
            meaning=meaning,
            reason=_sentence(found.reason),
            allocation=buy(found),
            facts=facts(found),
            beats=beats(found),
            partial="",
            missing=(),
            warnings=tuple(map(_sentence, (*found.warnings, *found.fitted.warnings))),
        ),
        sections=allocation_sections(found),
    )
