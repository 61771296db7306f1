"""A full run before anything is spent: `pretrain --dry-run`.

It tells what a run would take whether or not this machine could feed it: where text is missing, or
nobody has counted it yet, the table stands all the same, and a list says what is not enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from anneal.curation.values import PrepareStep
from anneal.errors import SourceError
from anneal.plan.budget import Supply, real_tokens
from anneal.plan.lay_out import lay_out
from anneal.plan.pretraining import variants
from anneal.plan.values import LlamaShape
from anneal.pretrain.figures import Figures, Lack, PhaseFigures, figures
from anneal.pretrain.size import check_model, parameters_of, vocabulary_of
from anneal.pretrain.supplies import allocated, asked_of, find_decision, trained_before
from anneal.sources.values import Manifest
from anneal.store import Store, read_value
from anneal.sweep.prepare import steps_of
from anneal.sweep.show import wide_console
from anneal.sweep.tasks import supply_of
from anneal.sweep.values import Sweep


@dataclass(frozen=True)
class Known:
    """What is known of the sources before a full run.

    Args:
        supplies: every source, replay among them; made up where `unknown` names it.
        unknown: sources that are not prepared yet.
        notes: what should be said of that.
    """

    supplies: Mapping[str, Supply]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]


def show(ask: Sweep, decision: Path | None = None) -> None:
    """Prints the phases of a full run, the account of their tokens, and what they would take.

    Raises:
        AnnealError: for what the user can mend; too little text is none of it.
    """
    found, notes = dry_run(ask, decision)
    out = wide_console()
    out.print(Text(f"{ask.name}: {ask.question}", style="bold"))
    out.print(_table(found))
    out.print(_audit(found))
    for name, why in found.left_out.items():
        _say(out, f"left out   {name}: {why}")
    for line in _totals(found, ask):
        _say(out, line)
    for note in notes:
        _say(out, f"note       {note}")
    if found.lacks:
        _say(out, "not enough:")
    for lack in found.lacks:
        _say(out, f"  {_lack(lack)}")


def _say(out: Console, line: str) -> None:
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def dry_run(ask: Sweep, decision: Path | None = None) -> tuple[Figures, tuple[str, ...]]:
    """The figures of a full run, and what should be said of them.

    Raises:
        AnnealError: for what the user can mend; too little text is none of it.
    """
    asked, replay = asked_of(ask), ask.replay[0].name
    check_model(ask)
    made = find_decision(ask, decision)
    known = known_of(ask, Store(ask.store))
    vocabulary = vocabulary_of(ask)
    parameters = parameters_of(ask, vocabulary)
    notes = list(known.notes)
    bought, share = dict[str, int](), ask.phase.replay_share
    if made is not None:
        bought, share = allocated(made, replay), made.replay_share
    elif any(phase.mixture == "allocation" for phase in asked.phases):
        bought = supposed(ask, known, parameters)
        notes.append(
            "no decision yet: the real budget in equal parts over the sources is supposed; "
            "`python -m anneal sweep` decides"
        )
    laid = lay_out(
        asked,
        supplies=known.supplies,
        replay=replay,
        replay_share=share,
        allocated=bought,
        before=trained_before(ask),
        throw=False,
    )
    for variant in variants(asked, ask.source, ask.replay[0]):
        used = {p.source for x in laid.phases if x.name == variant.phase for p in x.mixture}
        if variant.source in used:
            notes.append(f"phase {variant.phase}: {variant.source} is laid out again for it")
    shape = ask.model if isinstance(ask.model, LlamaShape) else None
    found = figures(
        laid,
        engine=asked.engine,
        parameters=parameters,
        vocabulary=vocabulary,
        prices=ask.prices,
        shape=shape,
        unknown=known.unknown,
        limits={s.name: s.max_epochs for s in known.supplies.values()},
    )
    return found, (*notes, *_attention(found))


def known_of(ask: Sweep, store: Store) -> Known:
    """The sources as far as they are prepared; none needs to be."""
    notes: list[str] = []
    steps: tuple[PrepareStep, ...] = ()
    try:
        steps = steps_of(ask, store)
    except SourceError as error:
        notes.append(f"sources cannot be read here: {error.what}")
    done = {
        step.work.name: read_value(step.done(store), Manifest)
        for step in steps
        if step.work.kind == "tokens" and step.done(store).exists()
    }
    sources = (*ask.source, *ask.replay)
    unknown = tuple(s.name for s in sources if s.name not in done)
    counted = [done[s.name].tokens for s in sources if s.name in done]
    # stands for what nobody knows: kinds are divided by it, nothing else
    typical = max(1, sum(counted) // len(counted)) if counted else 1
    supplies = {}
    for source in sources:
        if source.name in done:
            manifest = done[source.name].model_copy(
                update={"name": source.name, "kind": source.kind}
            )
            supplies[source.name] = supply_of(source.max_epochs, manifest)
        else:
            supplies[source.name] = Supply(
                name=source.name,
                kind=source.kind,
                content="not prepared",
                tokens=typical,
                max_epochs=source.max_epochs,
                cost=source.cost,
            )
    return Known(supplies, unknown, tuple(notes))


def supposed(ask: Sweep, known: Known, parameters: int) -> dict[str, int]:
    """An allocation where none was decided: every source gets an equal part of the budget."""
    each = {
        source.name: real_tokens(
            ask.budget.real,
            known.supplies[source.name],
            prices=ask.prices,
            parameters=parameters,
            replay_share=ask.phase.replay_share,
        )
        for source in ask.source
    }
    return {name: max(1, int(tokens / len(each))) for name, tokens in each.items()}


def _table(found: Figures) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("phase")
    for name in ("tokens", "steps", "batch"):
        table.add_column(name, justify="right")
    for name in ("mixture: tokens, epochs", "learning rate", "moments", "learns"):
        table.add_column(name)
    for name in ("FLOPs", "hours"):
        table.add_column(name, justify="right")
    for phase in found.phases:
        table.add_row(
            Text(phase.name),
            f"{phase.tokens:,}",
            f"{phase.steps:,}",
            f"{phase.batch:,} x {phase.sequence:,}",
            Text(_mixture(phase)),
            phase.schedule,
            phase.optimiser_state,
            phase.trainable,
            f"{phase.flops:.3g}",
            _hours(phase.hours),
        )
    return table


def _mixture(phase: PhaseFigures) -> str:
    return "\n".join(
        f"{part.source} {part.tokens:,}, {'?' if part.epochs is None else f'{part.epochs:.3g}'}"
        for part in phase.mixture
    )


def _audit(found: Figures) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("phase", "source"):
        table.add_column(name)
    for name in ("tokens asked", "laid out", "difference"):
        table.add_column(name, justify="right")
    table.add_column("reason")
    for row in found.audit:
        table.add_row(
            Text(row.phase),
            Text(row.source),
            f"{row.asked:,}",
            f"{row.tokens:,}",
            f"{row.difference:+,}" if row.difference else "0",
            row.reason,
        )
    asked = sum(row.asked for row in found.audit)
    table.add_row(
        "all", "", f"{asked:,}", f"{found.tokens:,}", f"{found.tokens - asked:+,}", "", style="bold"
    )
    return table


def _totals(found: Figures, ask: Sweep) -> tuple[str, ...]:
    formulas = found.formulas
    return (
        f"model      {found.parameters:,} parameters, vocabulary {found.vocabulary:,} "
        f"(tokenizer {ask.tokenizer.kind})",
        f"training   {found.tokens:,} tokens in {found.steps:,} steps",
        f"compute    {found.flops:.3g} FLOPs = {formulas['flops']}",
        f"time       {_hours(found.hours)} hours = {formulas['hours']}",
        f"devices    {_hours(found.device_hours)} device-hours = {formulas['device_hours']}",
        f"money      {found.usd:,.2f} USD = {formulas['usd']}",
        f"disk       {_bytes(found.disk_bytes)} = {formulas['disk']}",
    )


def _attention(found: Figures) -> tuple[str, ...]:
    told = [f"{p.name} {p.attention:+.0%}" for p in found.phases if p.attention >= 0.1]
    if not told:
        return ()
    return (f"attention over long sequences is not in these FLOPs: {', '.join(told)}",)


def _lack(lack: Lack) -> str:
    where = ", ".join(f"{name} {tokens:,}" for name, tokens in lack.phases.items())
    exist = "none is prepared yet" if lack.exist is None else f"{lack.exist:,} exist"
    return (
        f"{lack.source}: {lack.asked:,} tokens asked ({where}), {exist}; "
        f"{lack.needed:,} unique would do (limit {lack.limit:g} epochs)"
    )


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.3g}"


def _bytes(count: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e6:,.1f} MB"
