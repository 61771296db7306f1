"""The tables of the law and its evidence: noise, effects, parameters, runs, ranks, hold-outs."""

from __future__ import annotations

from collections.abc import Iterable

from anneal.report import format as show
from anneal.report.blocks import Column, Table
from anneal.report.decision import Decision, EffectRow
from anneal.report.law_rows import Crossover, Interval
from anneal.report.tables import SOURCE, numbers, score_digits


def noise(decision: Decision) -> Table:
    """Seed noise of every target and guard."""
    return Table(
        caption="Noise floor by target",
        columns=(
            Column("target"),
            Column("role"),
            *numbers("seeds", "degrees of freedom", "seed SD, bpb", "SD between arms", "SNR"),
            Column("kept"),
            Column("why"),
        ),
        rows=tuple(
            (
                n.target,
                "guard" if n.guard else "target",
                str(n.seeds),
                str(n.degrees),
                show.interval(n.sd, 4),
                show.decimal(n.signal, 4),
                show.decimal(n.snr, 1),
                "yes" if n.kept else "no",
                n.reason,
            )
            for n in decision.noise
        ),
    )


def effects(decision: Decision) -> tuple[Table, ...]:
    """Lift over the matched control: the largest budget of each source and target, then all."""
    last: dict[tuple[str, str, str], EffectRow] = {}
    for row in decision.effects:
        key = (row.target, row.source, row.repetition)
        if key not in last or row.budget > last[key].budget:
            last[key] = row
    tables = [_effects("Lift over the matched control, at the largest budget", last.values())]
    if len(last) < len(decision.effects):
        tables.append(
            _effects("Lift at every budget", decision.effects, folded=True),
        )
    return tuple(tables)


def _effects(caption: str, rows: Iterable[EffectRow], *, folded: bool = False) -> Table:
    return Table(
        caption=caption,
        columns=(
            SOURCE,
            Column("target"),
            *numbers("budget"),
            Column("repetition"),
            *numbers("epochs", "lift, bpb", "pairs", "lift per 1B tokens", "lift per USD"),
            Column("reading"),
        ),
        rows=tuple(
            (
                e.source,
                e.target,
                show.count(e.budget),
                e.repetition,
                show.epochs(e.epochs),
                show.interval(e.lift, 4, sign=True),
                str(e.pairs),
                show.significant(e.per_billion_tokens, sign=True),
                show.NONE if e.per_usd is None else show.significant(e.per_usd, sign=True),
                _reading(e),
            )
            for e in rows
        ),
        folded=folded,
    )


def _reading(effect: EffectRow) -> str:
    if not effect.significant:
        return "within noise"
    return "better" if effect.lift.value > 0 else "worse"


def parameters(decision: Decision) -> Table:
    """The law's parameters of every source, and what it says of the real budget."""
    digits = score_digits(decision)
    names = list(dict.fromkeys(name for s in decision.fit.sources for name in s.parameters))
    return Table(
        caption="The law, source by source",
        columns=(
            SOURCE,
            *numbers(*names, "score if it got the real budget", "P(best single source)"),
        ),
        rows=tuple(
            (
                s.source,
                *(
                    show.interval_significant(s.parameters[n]) if n in s.parameters else show.NONE
                    for n in names
                ),
                show.interval(s.at_real_budget, digits),
                show.probability(s.probability_best),
            )
            for s in decision.fit.sources
        ),
        marked=frozenset(
            i for i, s in enumerate(decision.fit.sources) if s.source == decision.law_pick
        ),
    )


def forms(decision: Decision) -> Table:
    """The forms that the law averages."""
    return Table(
        caption="The forms that are averaged",
        columns=(
            Column("form", "code"),
            Column("formula"),
            *numbers("weight", "error of its predictions", "budgets predicted"),
        ),
        rows=tuple(
            (
                f.form,
                f.formula,
                show.percent(f.weight),
                show.NONE if f.error is None else f"{f.error:.2%}",
                show.count(f.predicted),
            )
            for f in decision.fit.forms
        ),
    )


def runs(decision: Decision) -> Table:
    """Every run behind the curves: the figure as a table."""
    return Table(
        caption="Every run behind the curves",
        columns=(
            SOURCE,
            *numbers("tokens", "unique", "seed"),
            Column("repetition"),
            *numbers("training FLOPs", "total FLOPs", "USD", "score", "fitted", "held out"),
            Column("run", "code"),
        ),
        rows=tuple(
            (
                p.source,
                show.count(p.tokens) + (" (largest)" if p.largest else ""),
                show.count(p.unique),
                str(p.seed),
                p.repetition,
                show.flops(p.flops),
                show.flops(p.total_flops),
                show.usd(p.usd),
                show.decimal(p.score, 4),
                show.decimal(p.predicted, 4),
                show.interval(p.held_out_prediction, 4) if p.held_out_prediction else show.NONE,
                p.run,
            )
            for p in decision.points
        ),
        folded=True,
    )


def crossovers(decision: Decision) -> Table:
    """Where the curves of two sources cross."""
    axes = {
        "tokens": "tokens",
        "training_flops": "training FLOPs",
        "total_flops": "total FLOPs",
        "usd": "USD",
    }
    return Table(
        caption="Crossovers",
        columns=(
            Column("first", "source"),
            Column("second", "source"),
            Column("axis"),
            *numbers("cross at", "P(crossing in range)", "range searched"),
        ),
        rows=tuple(
            (
                c.first,
                c.second,
                axes[c.axis],
                _amounts(c, c.at) if c.found and c.at else "no crossover in range",
                show.probability(c.probability),
                f"{_amount(c, c.low)} to {_amount(c, c.high)}",
            )
            for c in decision.crossovers
        ),
    )


def _amount(crossover: Crossover, value: float) -> str:
    if crossover.axis == "tokens":
        return show.count(value)
    return show.usd(value) if crossover.axis == "usd" else show.flops(value)


def _amounts(crossover: Crossover, at: Interval) -> str:
    low, high = _amount(crossover, at.low), _amount(crossover, at.high)
    return f"{_amount(crossover, at.value)} [{low}, {high}]"


def ranks(decision: Decision) -> Table:
    """What each single budget would have bought, and what the law buys."""
    digits = score_digits(decision)
    law = sorted(decision.fit.sources, key=lambda s: s.at_real_budget.value)
    ranked = [(s.source, s.at_real_budget.value) for s in law]
    rows = [
        (
            show.count(r.budget),
            r.pick,
            "same as the law" if r.agrees else "differs from the law",
            show.interval(r.regret, 4, sign=True),
            _ranking(zip(r.ranking, r.scores, strict=False), digits),
        )
        for r in decision.ranks
    ]
    final = f"law at {show.count(decision.real_tokens)}"
    rows.append((final, decision.law_pick, show.NONE, show.NONE, _ranking(ranked, digits)))
    return Table(
        caption="The point-estimate pick at each single budget, beside the law's",
        columns=(
            Column("at budget", "number"),
            Column("pick", "source"),
            Column("reading"),
            Column("loss from buying it alone, bpb", "number"),
            Column("ranking with scores, best first"),
        ),
        rows=tuple(rows),
        marked=frozenset({len(rows) - 1}),
    )


def _ranking(pairs: Iterable[tuple[str, float]], digits: int) -> str:
    return ", ".join(f"{source} {show.decimal(score, digits)}" for source, score in pairs)


def hold_out(decision: Decision) -> Table:
    """How well each approach predicted the largest budget from the smaller ones."""
    return Table(
        caption="Predicting the largest budget from the smaller ones",
        columns=(
            Column("approach"),
            *numbers("mean absolute error, bpb", "rank correlation", "regret of its pick, bpb"),
            *numbers("interval coverage"),
            Column("used"),
        ),
        rows=tuple(
            (
                h.approach,
                show.decimal(h.mae, 4),
                show.NONE if h.rank_correlation is None else show.decimal(h.rank_correlation, 2),
                show.decimal(h.top1_regret, 4),
                show.NONE if h.coverage is None else show.percent(h.coverage),
                "yes" if h.chosen else "no",
            )
            for h in decision.hold_out
        ),
        marked=frozenset(i for i, h in enumerate(decision.hold_out) if h.chosen),
    )


def mixture_checks(decision: Decision) -> Table:
    """The rule for mixtures against mixtures that were run."""
    digits = score_digits(decision)
    return Table(
        caption="Mixtures predicted and run",
        columns=numbers("budget", "predicted, bpb", "measured, bpb"),
        rows=tuple(
            (
                show.count(m.budget),
                show.interval(m.predicted, digits),
                show.decimal(m.measured, digits),
            )
            for m in decision.mixture_checks
        ),
    )
