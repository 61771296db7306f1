"""The split of the budget, as tables and facts."""

from __future__ import annotations

from anneal.report import format as show
from anneal.report.blocks import (
    Block,
    Choice,
    Column,
    Fact,
    Facts,
    Figure,
    Note,
    Section,
    Table,
)
from anneal.report.next_sections import following
from anneal.table.fit_words import fit_sections
from anneal.table.values import Allocated
from anneal.table.words import SOURCE, digits, numbers, remarks

AXES = {"tokens": "tokens", "usd": "USD", "flops": "FLOPs"}


def allocation_sections(found: Allocated) -> tuple[Section, ...]:
    """The decision's sections first, then those of the law it rests on."""
    fitted = found.fitted
    law = [s for s in fit_sections(fitted) if s.name != "remarks"]
    last = remarks(fitted.notes, (*found.warnings, *fitted.warnings), fitted)
    return (split(found), sensitivity(found), following(found.next_best), *law, last)


def buy(found: Allocated) -> Table:
    """What is bought, and nothing else."""
    rows = sorted((r for r in found.rows if r.tokens > 0), key=lambda r: -r.share)
    return Table(
        caption="Recommended split",
        columns=(SOURCE, *numbers("share of tokens [90%]", "tokens", "epochs", "USD")),
        rows=tuple(
            (
                r.source,
                f"{show.percent(r.share)} [{show.percent(r.share_low)}, "
                f"{show.percent(r.share_high)}]",
                show.count(r.tokens),
                show.epochs(r.epochs),
                show.usd(r.usd),
            )
            for r in rows
        ),
    )


def facts(found: Allocated) -> Facts:
    """The headline numbers."""
    places = digits(found.fitted)
    base = found.fitted.base
    guards = tuple(
        Fact(
            f"guard: {name}",
            show.interval(score, places),
            f"limit {show.decimal(found.guard_limits[name], places)}",
        )
        for name, score in found.guards.items()
    )
    kept = (Fact("P(every guard holds)", show.probability(found.probability_guard)),)
    return Facts(
        facts=(
            Fact(
                "predicted score",
                show.interval(found.score, places),
                "" if base is None else f"the base: {show.decimal(base, places)}",
            ),
            Fact(
                "P(best within the noise floor)",
                show.probability(found.probability_best),
                f"of {found.examined:,} splits examined",
            ),
            Fact(
                "expected regret",
                show.decimal(found.expected_regret, places + 1),
                f"95th percentile {show.decimal(found.regret_95, places + 1)}",
            ),
            Fact("extrapolation", f"{show.decimal(found.extrapolation, 1)}-fold"),
            *guards,
            *(kept if guards else ()),
        )
    )


def beats(found: Allocated) -> Table:
    """The split against others, on the same draws."""
    places = digits(found.fitted)
    return Table(
        caption="Against other splits, on the same draws",
        columns=(
            Column("other split"),
            *numbers("P(ours is better)", "gain [90%]"),
            Column("reading"),
            Column("its shares"),
        ),
        rows=tuple(
            (
                b.name,
                show.probability(b.probability),
                show.interval(b.gain, places, sign=True),
                ("tie: below the noise floor" if b.tie else "above the noise floor")
                + ("" if b.within_guards else ", breaks a guard"),
                show.mixture(b.shares),
            )
            for b in found.beats
        ),
    )


def split(found: Allocated) -> Section:
    """Everything about what is bought."""
    blocks: list[Block] = [
        Figure(
            name="split",
            switch="",
            choices=(Choice("share", "split"),),
            caption="Share of the budget's tokens: bars are recommended, thin lines their 90% "
            "intervals, and a tall mark the largest share that the cap on epochs allows.",
        ),
        Table(
            caption="The split in full",
            columns=(
                SOURCE,
                *numbers("share [90%]", "tokens", "unique", "available", "epochs", "most epochs"),
                *numbers("USD", "FLOPs"),
            ),
            rows=tuple(
                (
                    r.source,
                    f"{show.percent(r.share)} [{show.percent(r.share_low)}, "
                    f"{show.percent(r.share_high)}]",
                    f"{r.tokens:,}",
                    show.count(r.unique_tokens),
                    show.count(r.available),
                    show.epochs(r.epochs),
                    show.epochs(r.epochs_cap),
                    show.usd(r.usd),
                    show.flops(r.flops),
                )
                for r in found.rows
            ),
        ),
        Facts(
            facts=(
                Fact(
                    "budget",
                    f"{show.significant(found.budget)} {AXES[found.axis]}"
                    if found.axis != "tokens"
                    else f"{found.budget:,.0f} source tokens",
                ),
                Fact(
                    "trained",
                    f"{show.count(found.trained)} tokens",
                    f"{show.percent(found.replay)} of them replay",
                ),
                Fact("cost", f"USD {show.usd(found.usd)}", f"{show.flops(found.flops)} FLOPs"),
            )
        ),
        Table(
            caption="Binding limits and what lifting them is worth",
            columns=(Column("limit"), Column("shadow price")),
            rows=tuple((b.limit, b.shadow_price) for b in found.binding),
        )
        if found.binding
        else Note(text="No limit binds: the split would be the same without them."),
    ]
    if found.licences:
        blocks.append(
            Table(
                caption="By licence",
                columns=(Column("licence"), Column("sources"), *numbers("tokens", "USD")),
                rows=tuple(
                    (
                        e.licence,
                        ", ".join(e.sources),
                        "excluded" if e.excluded else f"{e.tokens:,}",
                        show.usd(e.usd),
                    )
                    for e in found.licences
                ),
            )
        )
    return Section(
        name="split",
        title="The split",
        lead="What to buy, how far the draws disagree about it, and which limits hold it back.",
        blocks=tuple(blocks),
    )


def sensitivity(found: Allocated) -> Section:
    """One assumption changed at a time."""
    places = digits(found.fitted)
    return Section(
        name="sensitivity",
        title="Sensitivity",
        lead="One assumption changed at a time: where the reading flips, the decision rests on it.",
        blocks=(
            Table(
                caption="What the split becomes",
                columns=(
                    Column("change"),
                    *numbers("score"),
                    Column("reading"),
                    Column("shares"),
                ),
                rows=tuple(
                    (
                        s.change,
                        show.decimal(s.score, places) if s.shares else show.NONE,
                        "flips: another source gets most" if s.flips else "same source leads",
                        show.mixture(s.shares),
                    )
                    for s in found.sensitivity
                ),
            ),
        ),
    )
