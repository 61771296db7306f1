"""The tables: one function a table, a decision in, printed rows out."""

from __future__ import annotations

from collections.abc import Iterable

from anneal.report import format as show
from anneal.report.blocks import Column, Table
from anneal.report.decision import AllocationRow, Crossover, Decision, EffectRow, Interval

SOURCE = Column("source", "source")


def score_digits(decision: Decision) -> int:
    """Decimals of scores: three, and four where the headline interval needs them."""
    return 4 if decision.score.high - decision.score.low < 0.01 else 3


def numbers(*labels: str) -> tuple[Column, ...]:
    """Right-aligned columns."""
    return tuple(Column(label, "number") for label in labels)


def buy(decision: Decision) -> Table:
    """The recommended allocation, in the decision box: what is bought, and nothing else."""
    rows = sorted((r for r in decision.allocation if r.tokens > 0), key=lambda r: -r.share)
    return Table(
        caption="Recommended allocation",
        columns=(SOURCE, *numbers("share of tokens", "tokens", "epochs", "USD")),
        rows=tuple(
            (r.source, _share(r), show.count(r.tokens), show.epochs(r.epochs), show.usd(r.usd))
            for r in rows
        ),
    )


def beats(decision: Decision) -> Table:
    """The recommended allocation against the others."""
    return Table(
        caption="Against other allocations, on the same draws",
        columns=(
            Column("other allocation"),
            *numbers("P(ours is better)", "gain, bpb"),
            Column("reading"),
            Column("its shares"),
        ),
        rows=tuple(
            (
                b.name,
                show.probability(b.probability),
                show.interval(b.gain, 4, sign=True),
                "tie: below the noise floor" if b.tie else "above the noise floor",
                show.mixture(b.shares),
            )
            for b in decision.beats
        ),
    )


def sources(decision: Decision) -> Table:
    """What exists and what it costs."""
    return Table(
        caption="Candidate sources",
        columns=(
            SOURCE,
            Column("kind"),
            *numbers(
                "unique tokens",
                "documents",
                "USD fixed",
                "USD per 1M tokens",
                "FLOPs per token",
                "s per 1M tokens",
                "most epochs",
            ),
            Column("licence"),
            Column("left out"),
            Column("curation"),
        ),
        rows=tuple(
            (
                s.name,
                s.kind.replace("_", " "),
                show.count(s.tokens),
                show.count(s.documents),
                show.usd(s.usd_fixed),
                show.usd(s.usd_per_million_tokens),
                show.flops(s.flops_per_token),
                show.significant(s.seconds_per_million_tokens),
                show.epochs(s.max_epochs),
                s.licence,
                _listed((k, f"{v:,}") for k, v in s.dropped.items()),
                _listed(
                    (k, show.significant(v) if isinstance(v, float) else str(v))
                    for k, v in s.notes.items()
                ),
            )
            for s in decision.sources
        ),
    )


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
    digits, names = score_digits(decision), list(
        dict.fromkeys(name for s in decision.fit.sources for name in s.parameters)
    )  # fmt: skip
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


def allocation(decision: Decision) -> Table:
    """Tokens, repetition and cost of every source, bought or not."""
    return Table(
        caption="Allocation in full",
        columns=(
            SOURCE,
            *numbers(
                "share of tokens",
                "largest share allowed",
                "tokens",
                "unique tokens",
                "available",
                "epochs",
                "epochs cap",
                "USD",
                "training FLOPs",
                "acquisition FLOPs",
            ),
        ),
        rows=tuple(
            (
                a.source,
                _share(a),
                show.NONE if a.share_cap is None else show.percent(a.share_cap),
                show.count(a.tokens),
                show.count(a.unique_tokens),
                show.count(a.available),
                show.epochs(a.epochs),
                show.epochs(a.epochs_cap),
                show.usd(a.usd),
                show.flops(a.flops),
                show.flops(a.acquisition_flops),
            )
            for a in decision.allocation
        ),
    )


def binding(decision: Decision) -> Table:
    """The limits that hold the allocation back."""
    return Table(
        caption="Binding limits and what lifting them is worth",
        columns=(Column("limit"), Column("in words"), *numbers("bpb per unit"), Column("unit")),
        rows=tuple(
            (b.limit, b.shadow_price, show.significant(b.value, sign=True), b.unit)
            for b in decision.binding
        ),
    )


def sensitivity(decision: Decision) -> Table:
    """What the allocation becomes when an assumption changes."""
    digits = score_digits(decision)
    return Table(
        caption="Sensitivity of the allocation",
        columns=(
            Column("change"),
            *numbers("score, bpb"),
            Column("reading"),
            Column("shares"),
        ),
        rows=tuple(
            (
                s.change,
                show.decimal(s.score, digits),
                "flips: another source gets most" if s.flips else "same source leads",
                show.mixture(s.shares),
            )
            for s in decision.sensitivity
        ),
    )


def _share(row: AllocationRow) -> str:
    low, high = show.percent(row.share_low), show.percent(row.share_high)
    return f"{show.percent(row.share)} [{low}, {high}]"


def _listed(pairs: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {value}" for name, value in pairs) or show.NONE
