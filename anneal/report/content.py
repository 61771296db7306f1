"""What the report says and in which order: the decision first, then the evidence for it.

The order is that of a person who signs off a budget: what to buy and how sure we are, what was
promised beforehand, what the data costs, what was run and how noisy it is, what the curves say
and whether they deserve belief, and only then the allocation in detail. Every section opens with
a sentence on how to read it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal

from anneal.report import format as show
from anneal.report import law_sections, sections, tables
from anneal.report.blocks import Box, Fact, Facts, Page
from anneal.report.decision import Decision, Verdict
from anneal.report.next_sections import following

VERDICTS: Final[dict[Verdict, tuple[Literal["go", "care", "wait", "stop"], str, str]]] = {
    # tone, mark, meaning
    "adopt": ("go", "\N{CHECK MARK}", "Buy this allocation."),
    "adopt with hold-out": (
        "care",
        "\N{CIRCLE WITH LEFT HALF BLACK}",
        "Buy this allocation, and confirm it on a held-out run before all of it is spent.",
    ),
    "run more": (
        "wait",
        "\N{ANTICLOCKWISE OPEN CIRCLE ARROW}",
        "Not enough evidence yet: run more before buying.",
    ),
    "not decidable": (
        "stop",
        "\N{MULTIPLICATION X}",
        "These runs cannot decide the question.",
    ),
}


def page(decision: Decision, charts: Collection[str]) -> Page:
    """The whole report.

    Args:
        decision: what to say.
        charts: names of the figures that exist (`figures.draw`); the others are left out.
    """
    given = {"tokens": "tokens", "usd": "USD", "flops": "FLOPs"}[decision.axis]
    return Page(
        question=decision.question,
        meta=(
            Fact("sweep", decision.sweep),
            Fact("made", show.when(decision.made)),
            Fact(
                "real budget",
                f"{show.count(decision.real_tokens)} tokens, USD {show.usd(decision.real_usd)}, "
                f"{show.flops(decision.real_flops)} FLOPs (set in {given})",
            ),
            Fact("model", f"{show.count(decision.parameters)} parameters"),
        ),
        level="Square brackets hold "
        f"{show.percent(decision.score.level).replace('.0%', '%')} intervals. Scores are bits per "
        "byte (bpb) on held-out text: lower is better.",
        box=_box(decision),
        sections=(
            sections.registration(decision),
            sections.sources(decision),
            sections.evidence(decision),
            sections.noise(decision),
            sections.effects(decision),
            law_sections.curves(decision, charts),
            law_sections.point_estimates(decision),
            law_sections.check(decision, charts),
            sections.allocation(decision, charts),
            sections.sensitivity(decision),
            sections.extrapolation(decision),
            following(decision.next_best),
            sections.uncertainty(decision),
            sections.reproduce(decision),
        ),
    )


def _box(decision: Decision) -> Box:
    tone, mark, meaning = VERDICTS[decision.verdict]
    evidence, digits = decision.evidence, tables.score_digits(decision)
    guards = tuple(
        Fact(
            f"guard: {name}",
            f"{show.interval(score, digits)} bpb",
            f"limit {show.decimal(decision.guard_limits[name], digits)}"
            if name in decision.guard_limits
            else "no limit given",
        )
        for name, score in decision.guards.items()
    )
    base = show.decimal(decision.base_score, digits)
    return Box(
        verdict=decision.verdict.capitalize(),
        tone=tone,
        mark=mark,
        meaning=meaning,
        reason=decision.reason,
        allocation=tables.buy(decision),
        facts=Facts(
            facts=(
                Fact(
                    "predicted score",
                    f"{show.interval(decision.score, digits)} bpb",
                    f"the base without annealing: {base}",
                ),
                Fact(
                    "probability it is the best",
                    show.probability(decision.probability_best),
                    "no examined allocation better by more than the noise floor",
                ),
                Fact(
                    "expected regret",
                    f"{show.decimal(decision.expected_regret, 4)} bpb",
                    f"95th percentile {show.decimal(decision.regret_95, 4)}",
                ),
                Fact(
                    "probability every guard holds",
                    show.probability(decision.probability_guard) if guards else show.NONE,
                    "" if guards else "no guard was set",
                ),
                *guards,
                *(() if decision.calibration is None else (sections.held(decision.calibration),)),
            )
        ),
        beats=tables.beats(decision),
        partial=f"Partial: {evidence.finished} of {evidence.planned} planned runs have a result. "
        "The decision below rests on these alone."
        if decision.partial
        else "",
        missing=evidence.missing,
        warnings=decision.warnings,
    )
