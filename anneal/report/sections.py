"""The sections of the evidence: one function a section, each opened by how to read it."""

from __future__ import annotations

from collections.abc import Collection

from anneal.plan.predictions import Calibration, held_words
from anneal.report import format as show
from anneal.report import law_tables, tables
from anneal.report.blocks import (
    Block,
    Choice,
    Column,
    Fact,
    Facts,
    Figure,
    Note,
    Row,
    Section,
    Table,
)
from anneal.report.decision import Decision


def registration(decision: Decision) -> Section:
    """What was fixed before the first result."""
    fixed = decision.registration
    return Section(
        name="registration",
        title="Fixed before the first result",
        lead="Read it as a promise: these choices were hashed before any score was known, so the "
        "result could not move them.",
        blocks=(
            Facts(
                facts=(
                    Fact("metric", fixed.metric),
                    Fact("threshold", fixed.threshold),
                    Fact("budget", fixed.budget),
                    Fact("stop rule", fixed.stop),
                    Fact("registered", show.when(fixed.date)),
                    Fact("address", fixed.address),
                )
            ),
        ),
    )


def sources(decision: Decision) -> Section:
    """What could be bought."""
    return Section(
        name="sources",
        title="Sources",
        lead="What could be bought: unique tokens after deduplication and removal of whatever "
        "overlaps a target, and what getting them costs before any training.",
        blocks=(tables.sources(decision),),
    )


def evidence(decision: Decision) -> Section:
    """What was run, what is missing, and what it cost."""
    e = decision.evidence
    blocks: list[Block] = [
        Facts(
            facts=(
                Fact(
                    "runs with a result", f"{e.finished} of {e.planned}", f"{e.reused} from before"
                ),
                Fact(
                    "failed",
                    ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in e.failed.items())
                    or "none",
                ),
                Fact("training", f"{show.flops(e.flops)} FLOPs", show.seconds(e.seconds)),
                Fact("acquisition", f"{show.flops(e.acquisition_flops)} FLOPs"),
                Fact("spent", f"USD {show.usd(e.usd)}"),
                Fact(
                    "share of the real budget",
                    show.percent(e.share_of_real_budget),
                    "training FLOPs of these runs over those of the real budget",
                ),
            )
        )
    ]
    for title, names in (("Runs without a result", e.missing), ("Runs left out", e.excluded)):
        if names:
            blocks.append(
                Table(
                    caption=title,
                    columns=(Column("run and reason"),),
                    rows=tuple((name,) for name in names),
                )
            )
    return Section(
        name="evidence",
        title="Evidence",
        lead="What was run for this decision, what failed or was left out, and what it cost.",
        blocks=tuple(blocks),
    )


def noise(decision: Decision) -> Section:
    """What the seed alone does."""
    return Section(
        name="noise",
        title="Noise floor",
        lead="How much a score moves when only the seed changes: a difference below it is a tie. "
        "SNR is the spread between arms over the spread between seeds.",
        blocks=(law_tables.noise(decision),),
    )


def effects(decision: Decision) -> Section:
    """Lift of every source over its matched control."""
    return Section(
        name="effects",
        title="Effect of each source",
        lead="Lift is the matched control's score minus the source's, same budget and seed: "
        "positive is better, and an interval across zero says nothing yet.",
        blocks=law_tables.effects(decision),
    )


def allocation(decision: Decision, charts: Collection[str]) -> Section:
    """What to buy, in full."""
    figures = (
        *figure(
            "allocation",
            "",
            (("share", "allocation"),),
            "Share of the real budget: bars are recommended, thin lines their intervals, and a "
            "tall mark the largest share the source's repetition cap allows, where it has one.",
            charts,
        ),
        *figure(
            "epochs",
            "",
            (("epochs", "epochs"),),
            "Epochs: how often the recommended tokens repeat the source; the tall mark is its cap.",
            charts,
        ),
    )
    return Section(
        name="allocation",
        title="Allocation",
        lead="What to buy, how far the draws disagree about it, and which limits hold it back.",
        blocks=(
            *((Row(figures=figures),) if figures else ()),
            tables.allocation(decision),
            Facts(
                facts=(
                    Fact(
                        "replay share",
                        show.percent(decision.replay_share),
                        "general data mixed in against forgetting, beside the shares above",
                    ),
                )
            ),
            tables.binding(decision)
            if decision.binding
            else Note(text="No limit binds: the allocation would be the same without them."),
        ),
    )


def sensitivity(decision: Decision) -> Section:
    """What the decision rests on."""
    return Section(
        name="sensitivity",
        title="Sensitivity",
        lead="One assumption changed at a time: where the reading flips, the decision rests on it.",
        blocks=(
            tables.sensitivity(decision)
            if decision.sensitivity
            else Note(text="No assumption was varied in this sweep."),
        ),
    )


def extrapolation(decision: Decision) -> Section:
    """How far beyond the evidence it reaches."""
    return Section(
        name="extrapolation",
        title="Extrapolation",
        lead="How far the decision reaches beyond what was run, in tokens and in model size.",
        blocks=(
            Facts(
                facts=(
                    Fact(
                        "real budget over the largest tried",
                        f"{show.decimal(decision.extrapolation, 1)} times",
                        decision.extrapolation_note,
                    ),
                    Fact(
                        "model size",
                        f"{show.count(decision.parameters)} parameters",
                        "the claim holds for a model of this size",
                    ),
                )
            ),
        ),
    )


def uncertainty(decision: Decision) -> Section:
    """Every statement of uncertainty, literally as numbers."""
    fit = decision.fit
    floor = ", ".join(
        f"{n.target} {show.decimal(n.sd.value, 4)}" for n in decision.noise if not n.guard
    )
    facts = [
        Fact(
            f"seeds and pooled SD: {n.target}",
            f"{n.seeds} seeds, {show.interval(n.sd, 4)} bpb",
            f"{n.degrees} degrees of freedom",
        )
        for n in decision.noise
    ]
    facts += [
        Fact("how intervals were made", fit.method),
        Fact("bootstrap fits that failed", f"{fit.failed_draws} of {fit.draws}"),
        Fact(
            "bootstrap fits on a bound",
            f"{fit.bounded_draws} of {fit.draws}",
            "the fit itself: " + (", ".join(fit.on_bounds) or "no parameter on a bound"),
        ),
        Fact("P(best)", show.probability(decision.probability_best)),
    ]
    facts += [
        Fact(
            f"P(better than {b.name})",
            show.probability(b.probability),
            "tie: below the noise floor" if b.tie else "",
        )
        for b in decision.beats
    ]
    facts += [
        Fact("expected regret", f"{show.decimal(decision.expected_regret, 4)} bpb"),
        Fact("95th-percentile regret", f"{show.decimal(decision.regret_95, 4)} bpb"),
    ]
    facts += [
        Fact(
            f"hold-out error: {h.approach}",
            f"{show.decimal(h.mae, 4)} bpb",
            f"noise floor {floor}",
        )
        for h in decision.hold_out
        if h.chosen
    ]
    facts += [
        Fact("extrapolation", f"{show.decimal(decision.extrapolation, 1)} times"),
        Fact("effects compared with their control", str(len(decision.effects))),
    ]
    facts += [Fact(subject, words) for subject, words in decision.statements.items()]
    if decision.calibration is not None:
        facts.append(held(decision.calibration))
    return Section(
        name="uncertainty",
        title="Uncertainty, as numbers",
        lead="Every statement of uncertainty this decision makes, in one place.",
        blocks=(
            Table(
                caption="Statements of uncertainty",
                columns=(Column("subject"), Column("value"), Column("remark")),
                rows=tuple((f.label, f.value, f.note) for f in facts),
            ),
        ),
    )


def held(calibration: Calibration) -> Fact:
    """How often intervals held, over all full runs that were measured beside their predictions."""
    runs = "1 full run" if calibration.runs == 1 else f"{calibration.runs} full runs"
    broken = f", {calibration.broken} of them beyond the law's assumptions" * (
        calibration.broken > 0
    )
    return Fact(
        "predictions that held",
        held_words(calibration),
        f"predictions of {runs}{broken}; mean error {show.decimal(calibration.mean_error, 4)}, "
        f"mean width {show.decimal(calibration.mean_width, 4)} bpb; in brackets Wilson's 90% "
        "interval of the rate",
    )


def reproduce(decision: Decision) -> Section:
    """How to get the same again."""
    return Section(
        name="reproduce",
        title="Reproduce",
        lead="The command and the fingerprints that give the same runs; decision.json, beside this "
        "page, holds every number unrounded.",
        blocks=(
            Table(
                caption="Provenance",
                columns=(Column("what"), Column("value", "code")),
                rows=tuple(decision.reproduce.items()),
            ),
        ),
    )


def figure(
    name: str,
    switch: str,
    choices: tuple[tuple[str, str], ...],
    caption: str,
    charts: Collection[str],
) -> tuple[Figure, ...]:
    """The figure with the choices that exist; none at all when there is no chart."""
    existing = tuple(Choice(label, chart) for label, chart in choices if chart in charts)
    if not existing:
        return ()
    return (Figure(name=name, switch=switch, choices=existing, caption=caption),)
