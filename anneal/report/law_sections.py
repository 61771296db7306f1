"""The sections about the law: curves, what single budgets would have said, and the model check."""

from __future__ import annotations

from collections.abc import Collection

from anneal.report import format as show
from anneal.report import law_tables
from anneal.report.blocks import Block, Fact, Facts, Note, Section
from anneal.report.decision import Decision
from anneal.report.law_rows import RuleError
from anneal.report.sections import figure
from anneal.report.tables import score_digits


def curves(decision: Decision, charts: Collection[str]) -> Section:
    """The law: curves, parameters, marginal gains, crossovers."""
    fit = decision.fit
    starts = f"{fit.agreeing_starts} of {fit.starts} starts agree"
    blocks: list[Block] = [
        *figure(
            "curves",
            "Draw against",
            (
                ("tokens", "curves-tokens"),
                ("training FLOPs", "curves-training-flops"),
                ("total FLOPs", "curves-total-flops"),
                ("USD", "curves-usd"),
            ),
            "Score against budget: one mark a run (circle: matched repetition, triangle: natural), "
            "lines the law, bands its interval, rings the largest budget, which is held out and "
            "predicted first. Choose a name in the legend to see that source alone.",
            charts,
        ),
        Facts(
            facts=(
                Fact("law", f"average of {len(fit.forms)} forms" if fit.forms else fit.form),
                Fact("heaviest form", fit.form, fit.formula),
                Fact("held out", fit.reason),
                Fact("beyond the data", fit.drift or show.NONE),
                *(
                    Fact(f"shared {name}", show.interval_significant(value))
                    for name, value in fit.shared.items()
                ),
                Fact("residual SD", f"{show.decimal(fit.residual_sd, 4)} bpb"),
                Fact("fit", "converged" if fit.converged else "did not converge", starts),
                Fact("repetition", decision.repetition),
            )
        ),
    ]
    if fit.message:
        blocks.append(Note(text=fit.message, warning=not fit.converged))
    averaged = [law_tables.forms(decision)] if fit.forms else []
    blocks += [*averaged, law_tables.parameters(decision), law_tables.runs(decision)]
    blocks += figure(
        "marginal",
        "Gain per",
        (("million tokens", "marginal-tokens"), ("USD", "marginal-usd")),
        "Marginal gain: what the next tokens, or the next USD, of a source are worth when it "
        "already has this many.",
        charts,
    )
    blocks.append(
        law_tables.crossovers(decision)
        if decision.crossovers
        else Note(text="No pair of sources was searched for a crossover.")
    )
    return Section(
        name="curves",
        title="Curves",
        lead="Follow a source from left to right: lower is better, steeper gains more from the "
        "next tokens, and where two lines cross the better buy changes.",
        blocks=tuple(blocks),
    )


def point_estimates(decision: Decision) -> Section:
    """What each single budget would have bought."""
    stable = decision.rank_stability
    return Section(
        name="point-estimates",
        title="What a point estimate would have said",
        lead="Each row ranks the sources at one budget alone and buys its winner; the last row is "
        "the law at the real budget.",
        blocks=(
            law_tables.ranks(decision),
            Facts(
                facts=(
                    Fact(
                        "rank stability",
                        show.NONE if stable is None else show.decimal(stable, 2),
                        "mean rank correlation between neighbouring budgets; 1 is the same order",
                    ),
                )
            ),
        ),
    )


def check(decision: Decision, charts: Collection[str]) -> Section:
    """Whether the law deserves belief."""
    blocks: list[Block] = [
        *figure(
            "predicted",
            "",
            (("observed against predicted", "predicted"),),
            "Observed against predicted score, one mark a run: hollow diamonds are the held-out "
            "largest budget with the interval predicted for it, and the dashed line is equality.",
            charts,
        ),
        law_tables.hold_out(decision),
    ]
    if decision.mixture_checks:
        blocks.append(law_tables.mixture_checks(decision))
    blocks += [Note(text=rule_words(row, decision)) for row in decision.rule_errors]
    return Section(
        name="check",
        title="Model check",
        lead="The largest budget was hidden, predicted from the smaller ones, then looked at: a "
        "law worth believing has errors near the noise floor and beats the plain baselines.",
        blocks=tuple(blocks),
    )


def rule_words(row: RuleError, decision: Decision) -> str:
    """What the uniform runs showed of the mixture rule, and what that did to the score."""
    digits = score_digits(decision)
    name = "the score" if row.score == "score" else f"guard {row.score}"
    if row.budgets:
        first, last, trend = (
            show.decimal(100 * x, 1, sign=True) + "%"
            for x in (row.off[0], row.off[-1], row.slope.value)
        )
        shown = (
            f"For {name}, the uniform mix measured {first} off the mixture rule at "
            f"{show.count(row.budgets[0])} source tokens and {last} at "
            f"{show.count(row.budgets[-1])} (negative is better than the rule says): {trend} a "
            f"doubling, which goes on to the real budget with probability "
            f"{show.probability(row.lasts)}."
        )
    else:
        shown = f"For {name}, no uniform mix was measured: how wrong the rule is, is assumed."
    if row.part == 0:
        return f"{shown} The allocation is one source alone and gets none of it."
    return (
        f"{shown} The allocation is {show.percent(row.part)} as mixed and gets that part of it: "
        f"{show.interval(row.rule, digits)} bpb by the rule alone, "
        f"{show.interval(row.corrected, digits)} with it. Shares, regrets, comparisons and "
        "probabilities are the rule's own."
    )
