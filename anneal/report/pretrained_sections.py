"""The report of a full run, section by section: predictions first, then the run itself."""

from __future__ import annotations

from collections.abc import Collection

from anneal.plan.predictions import Calibration
from anneal.report import format as show
from anneal.report.blocks import (
    Block,
    Column,
    Fact,
    Facts,
    Figure,
    Note,
    Page,
    Section,
    Table,
)
from anneal.report.pretrained import Foretold, PhaseRow, Pretrained
from anneal.report.pretrained_words import DIGITS, box
from anneal.report.sections import figure, held
from anneal.report.tables import SOURCE, numbers


def page(found: Pretrained, charts: Collection[str]) -> Page:
    """The whole report.

    Args:
        found: what to say.
        charts: names of the figures that exist (`pretrained_figures.draw`).
    """
    levels = sorted({row.predicted.level for row in found.foretold if row.predicted})
    told = " and ".join(show.percent(level).replace(".0%", "%") for level in levels) or "90%"
    return Page(
        kind="Full run, measured beside predicted",
        name="Outcome",
        question=found.question,
        meta=(
            Fact("full run", found.name),
            Fact("of the sweep", found.sweep),
            Fact("made", show.when(found.made)),
            Fact("model", f"{show.count(found.parameters)} parameters, from {found.start}"),
            Fact("bought", show.mixture(found.allocation)),
        ),
        level=f"Square brackets hold {told} intervals of one measured run. Scores are bits per "
        "byte (bpb) on held-out text, losses nats per token: lower is better.",
        box=box(found),
        sections=(
            _foretold(found, charts),
            _training(found, charts),
            _phases(found),
            _audit(found),
            _spent(found),
            *((_calibration(found.calibration),) if found.calibration else ()),
            _reproduce(found),
        ),
    )


def _foretold(found: Pretrained, charts: Collection[str]) -> Section:
    blocks: list[Block] = [
        *figure(
            "errors",
            "",
            (("errors", "errors"),),
            "Measured minus predicted: lines are the intervals, 0 is as predicted, to the right is "
            "worse.",
            charts,
        ),
        *_scores(found, charts),
    ]
    made = [row for row in found.foretold if row.predicted is not None]
    if made:
        blocks.append(_evidence(made))
    broken = {(row.phase, line): None for row in made for line in row.broken}
    if broken:
        blocks.append(
            Table(
                caption="Assumptions of the law that do not hold",
                columns=(Column("after phase"), Column("what is otherwise")),
                rows=tuple(broken),
            )
        )
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in found.foretold:
        if row.predicted is None:
            reasons.setdefault((row.phase, row.reason), []).append(row.score)
    if reasons:
        blocks.append(
            Table(
                caption="Phase ends that no law covers",
                columns=(Column("after phase"), Column("scores"), Column("reason")),
                rows=tuple((p, ", ".join(names), why) for (p, why), names in reasons.items()),
            )
        )
    return Section(
        name="predictions",
        title="Predicted beside measured",
        lead="Each prediction was hashed and dated before its phase started, and the first one "
        "made counts. Its interval is that of one run: what the law may be there, and the noise "
        "between seeds. It does not know what is listed below as not holding.",
        blocks=tuple(blocks),
    )


def _scores(found: Pretrained, charts: Collection[str]) -> tuple[Figure, ...]:
    return figure(
        "scores",
        "Score",
        tuple((name, f"scores-{index}") for index, name in enumerate(found.scores)),
        "Held-out scores over the run. Thin lines with ends: predicted intervals at phase ends; "
        "filled marks: measured, circles inside and crosses outside.",
        charts,
    )


def _evidence(rows: list[Foretold]) -> Table:
    return Table(
        caption="What each prediction follows from",
        columns=(
            Column("after phase"),
            Column("score"),
            Column("basis"),
            *numbers("extrapolation"),
            Column("made"),
            Column("address", "code"),
        ),
        rows=tuple(
            (
                row.phase,
                row.score,
                row.basis,
                show.NONE if row.extrapolation is None else show.decimal(row.extrapolation, 1),
                show.when(row.made),
                row.address,
            )
            for row in rows
        ),
        folded=True,
    )


def _training(found: Pretrained, charts: Collection[str]) -> Section:
    blocks: list[Block] = [
        *figure(
            "loss",
            "",
            (("loss", "loss"),),
            "Training loss over the run; upright lines are phase boundaries.",
            charts,
        )
    ]
    if found.evaluations:
        names = list(dict.fromkeys(n for e in found.evaluations for n in e.scores))
        blocks.append(
            Table(
                caption="Held-out scores on the way, bits per byte",
                columns=(*numbers("tokens"), Column("phase"), *numbers(*names)),
                rows=tuple(
                    (
                        show.count(e.tokens),
                        found.phases[e.phase].phase,
                        *(
                            show.decimal(e.scores[n], DIGITS) if n in e.scores else show.NONE
                            for n in names
                        ),
                    )
                    for e in found.evaluations
                ),
                folded=True,
            )
        )
    if not blocks:
        blocks.append(Note(text="No loss and no score was logged on the way."))
    return Section(
        name="training",
        title="Training",
        lead="How the loss fell, and what was scored on the way.",
        blocks=tuple(blocks),
    )


def _phases(found: Pretrained) -> Section:
    scores = list(dict.fromkeys(n for row in found.phases for n in row.scores))
    return Section(
        name="phases",
        title="Phases and boundaries",
        lead="What each phase was asked to be and was, and whether the state behind it was read "
        "back whole: weights, moments, step, tokens, learning rate, data order and the next loss.",
        blocks=(
            Table(
                caption="Phases",
                columns=(
                    Column("phase"),
                    *numbers("tokens asked", "tokens trained", "steps", "batch x sequence"),
                    Column("learning rate"),
                    *numbers("last rate", "loss at its end", *scores, "time"),
                ),
                rows=tuple(_phase(row, scores) for row in found.phases),
            ),
            Table(
                caption="Boundaries",
                columns=(
                    Column("after phase"),
                    Column("read back"),
                    Column("ended"),
                    Column("kept as", "code"),
                    Column("weights", "code"),
                ),
                rows=tuple(
                    (
                        row.phase,
                        _verified(row),
                        show.when(row.finished) if row.finished else show.NONE,
                        row.boundary or show.NONE,
                        row.weights[:20] or show.NONE,
                    )
                    for row in found.phases
                ),
            ),
        ),
    )


def _phase(row: PhaseRow, scores: list[str]) -> tuple[str, ...]:
    def given(value: float | None, digits: int) -> str:
        return show.NONE if value is None else show.decimal(value, digits)

    return (
        row.phase,
        show.count(row.asked),
        show.NONE if row.tokens is None else show.count(row.tokens),
        show.NONE if row.steps is None else f"{row.steps:,} of {row.steps_asked:,}",
        f"{row.batch:,} x {row.sequence:,}",
        row.schedule,
        show.NONE if row.learning_rate is None else show.significant(row.learning_rate, 2),
        given(row.loss, 3),
        *(given(row.scores.get(name), DIGITS) for name in scores),
        show.NONE if row.seconds is None else show.seconds(row.seconds),
    )


def _verified(row: PhaseRow) -> str:
    if row.tokens is None:
        return "the phase did not end"
    if row.verified is None:
        return "no state kept"
    word = "the same" if row.verified else "NOT the same"
    return word + ("; trained by an earlier run" if row.reused else "")


def _audit(found: Pretrained) -> Section:
    off = [row for row in found.audit if row.difference]
    said = (
        f"{len(off)} of {len(found.audit)} rows differ, the largest by "
        f"{max(abs(row.difference or 0) for row in off):,} tokens."
        if off
        else "Every source was trained on exactly as many tokens as were asked for."
    )
    if wrong := [r for r in found.audit if r.realised not in {None, r.laid_out}]:
        said += f" {len(wrong)} rows were not trained as they were laid out."
    if any(row.realised is None for row in found.audit):
        said = "Phases that did not end have no realised tokens. " + said * bool(off)
    return Section(
        name="audit",
        title="Tokens by source",
        lead="What the allocation asked of every source in every phase, and what was trained.",
        blocks=(
            Note(text=said.strip()),
            Table(
                caption="Asked beside realised, tokens",
                columns=(
                    Column("phase"),
                    SOURCE,
                    *numbers("asked", "realised", "difference", "unique", "epochs"),
                    Column("reason"),
                ),
                rows=tuple(
                    (
                        row.phase,
                        row.source,
                        f"{row.asked:,}",
                        show.NONE if row.realised is None else f"{row.realised:,}",
                        show.NONE
                        if row.difference is None
                        else show.decimal(row.difference, 0, sign=True),
                        show.NONE if row.unique is None else f"{row.unique:,}",
                        show.NONE
                        if not row.unique or row.realised is None
                        else show.epochs(row.realised / row.unique),
                        row.reason,
                    )
                    for row in found.audit
                ),
            ),
        ),
    )


def _spent(found: Pretrained) -> Section:
    def shown(what: str, value: float) -> str:
        if what in {"tokens", "steps"}:
            return f"{value:,.0f}"
        return {"FLOPs": show.flops, "USD": show.usd}.get(what, show.significant)(value)

    return Section(
        name="spent",
        title="Asked beside spent",
        lead="What the plan's formulas asked for, and what the run took.",
        blocks=(
            Table(
                caption="Resources",
                columns=(Column("what"), *numbers("asked", "spent"), Column("how it is counted")),
                rows=tuple(
                    (row.what, shown(row.what, row.asked), shown(row.what, row.spent), row.note)
                    for row in found.spent
                ),
            ),
            Facts(
                facts=(
                    Fact("engine", found.engine, found.precision),
                    Fact("processes", str(found.processes), found.device),
                    Fact("launches", str(found.attempts), "retries included"),
                    Fact("resumed", f"{found.resumed} x", "from a checkpoint"),
                )
            ),
        ),
    )


def _calibration(calibration: Calibration) -> Section:
    return Section(
        name="calibration",
        title="How often intervals held",
        lead="Over every full run of this store that was measured beside its predictions. Scores "
        "of one run lean the same way, so few runs say less than the rate's own interval claims.",
        blocks=(
            Facts(
                facts=(
                    held(calibration),
                    Fact(
                        "mean absolute error", f"{show.decimal(calibration.mean_error, DIGITS)} bpb"
                    ),
                    Fact("mean width", f"{show.decimal(calibration.mean_width, DIGITS)} bpb"),
                    Fact(
                        "made",
                        f"{show.when(calibration.oldest)} to {show.when(calibration.newest)}",
                        f"{calibration.n} predictions, {calibration.runs} runs",
                    ),
                )
            ),
        ),
    )


def _reproduce(found: Pretrained) -> Section:
    return Section(
        name="reproduce",
        title="Reproduce",
        lead="The command and the fingerprints; pretrained.json, beside this page, holds every "
        "number unrounded.",
        blocks=(
            Table(
                caption="Provenance",
                columns=(Column("what"), Column("value", "code")),
                rows=tuple((k, v) for k, v in found.reproduce.items() if v),
            ),
        ),
    )
