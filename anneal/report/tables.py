"""The tables of supply and of the allocation: a decision in, printed rows out.

The rows of what is bought, of what it beats and of what would change it are printed alike for a
sweep and for a table of anyone's results: `bought_rows`, `beaten_rows`, `changed_rows`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from anneal.report import format as show
from anneal.report.blocks import Column, Table
from anneal.report.decision import AllocationRow, Beats, Decision, Sensitivity

SOURCE = Column("source", "source")


def score_digits(decision: Decision) -> int:
    """Decimals of scores: three, and four where the headline interval needs them."""
    return 4 if decision.score.high - decision.score.low < 0.01 else 3


def numbers(*labels: str) -> tuple[Column, ...]:
    """Right-aligned columns."""
    return tuple(Column(label, "number") for label in labels)


def buy(decision: Decision) -> Table:
    """The recommended allocation, in the decision box: what is bought, and nothing else."""
    return Table(
        caption="Recommended allocation",
        columns=(SOURCE, *numbers("share of tokens", "tokens", "epochs", "USD")),
        rows=bought_rows(decision.allocation),
    )


def bought_rows(allocation: Sequence[AllocationRow]) -> tuple[tuple[str, ...], ...]:
    """Source, share, tokens, epochs and USD of what is bought, the most first."""
    rows = sorted((r for r in allocation if r.tokens > 0), key=lambda r: -r.share)
    return tuple(
        (r.source, share(r), show.count(r.tokens), show.epochs(r.epochs), show.usd(r.usd))
        for r in rows
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
        rows=beaten_rows(decision.beats, 4),
    )


def beaten_rows(beats: Sequence[Beats], digits: int) -> tuple[tuple[str, ...], ...]:
    """Name, P(ours is better), gain, reading and shares of the others."""
    return tuple(
        (
            b.name,
            show.probability(b.probability),
            show.interval(b.gain, digits, sign=True),
            ("tie: below the noise floor" if b.tie else "above the noise floor")
            + ("" if b.within_guards else ", breaks a guard"),
            show.mixture(b.shares),
        )
        for b in beats
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
                    if "\n" not in str(v)  # a prompt's template: in the manifest
                ),
            )
            for s in decision.sources
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
                share(a),
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
    return Table(
        caption="Sensitivity of the allocation",
        columns=(
            Column("change"),
            *numbers("score, bpb"),
            Column("reading"),
            Column("shares"),
        ),
        rows=changed_rows(decision.sensitivity, score_digits(decision)),
    )


def changed_rows(changes: Sequence[Sensitivity], digits: int) -> tuple[tuple[str, ...], ...]:
    """Change, score, reading and shares; no score where nothing can be bought."""
    return tuple(
        (
            s.change,
            show.decimal(s.score, digits) if s.shares else show.NONE,
            "flips: another source gets most" if s.flips else "same source leads",
            show.mixture(s.shares),
        )
        for s in changes
    )


def share(row: AllocationRow) -> str:
    """A share with its interval."""
    low, high = show.percent(row.share_low), show.percent(row.share_high)
    return f"{show.percent(row.share)} [{low}, {high}]"


def _listed(pairs: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {value}" for name, value in pairs) or show.NONE
