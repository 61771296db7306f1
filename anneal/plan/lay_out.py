"""From an allocation to phases: whole sequences, whole steps, and an account of every token.

The decision buys tokens of each source; phases are a whole number of steps, each step a whole
number of sequences. So what is laid out differs from what was asked for, and every difference is
told with its reason:

- a source that was bought is trained on to the whole sequence: never more than was bought, and less
  by under one sequence over all phases that have it;
- the slack that makes a phase a whole number of steps is replay's; a phase without replay gives up
  the sequences beyond its last whole step, by largest remainder over its sources;
- a fixed mixture is divided by largest remainder over the whole steps nearest to its tokens.

Over all phases together no source may be repeated more often than it may be (the pain of others:
weights that implied 1,750 epochs, noticed by outsiders).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil

from anneal.errors import PlanError
from anneal.plan.audit import AuditRow, LaidOut, Shortage
from anneal.plan.budget import Supply
from anneal.plan.place import Place, place, sequences, split
from anneal.plan.pretraining import PhaseAsked, Pretraining, members
from anneal.plan.processes import check_processes
from anneal.plan.values import Phase, Portion, Schedule


@dataclass
class _Table:
    """What is known while phases are laid out."""

    supplies: Mapping[str, Supply]
    replay: str
    by_phase: Mapping[str, Mapping[str, Supply]]
    audit: list[AuditRow] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    shortages: list[Shortage] = field(default_factory=list)

    def supply(self, phase: str, name: str) -> Supply:
        return self.by_phase.get(phase, {}).get(name, self.supplies[name])


@dataclass
class _Counted:
    """One phase in tokens as asked and in sequences as laid out, by source."""

    asked: dict[str, int]
    counts: dict[str, int]
    slack: str = ""
    """Why sources, replay apart, have fewer or more than asked."""


def lay_out(
    asked: Pretraining,
    *,
    supplies: Mapping[str, Supply],
    replay: str,
    replay_share: float,
    allocated: Mapping[str, int] | None = None,
    by_phase: Mapping[str, Mapping[str, Supply]] | None = None,
    before: Mapping[str, int] | None = None,
    throw: bool = True,
) -> LaidOut:
    """The phases of a full run.

    Args:
        asked: what a person asks for.
        supplies: every source by name, replay among them.
        replay: the replay source's name.
        replay_share: share of trained tokens that is replay, in phases of the allocation.
        allocated: source tokens that the decision buys; under replay's name, replay that it buys
            besides. Not needed where no phase is the allocation's.
        by_phase: by phase, supplies that lie otherwise there (another layout, so another content).
        before: tokens by source that the start was trained on already: they count as epochs.
        throw: whether a source that does not suffice is an error; else it is in `shortages`.

    Raises:
        PlanError: a phase that would get nothing, a source repeated too often, a mixture that names
            what there is not, processes that do not divide a batch.
    """
    table = _Table(supplies, replay, by_phase or {})
    given = dict(allocated or {})
    if unknown := sorted(set(given) - set(supplies)):
        raise PlanError(
            f"the decision buys `{unknown[0]}`, which the sweep does not have",
            hint=f"it has {', '.join(supplies)}: decide again, with `python -m anneal sweep`",
        )
    bought = _bought(asked, table, given, replay_share)
    phases = []
    for phase in asked.phases:
        counted = bought.get(phase.name) or _fixed(phase, asked.scale, table, given)
        phases.append(_phase(phase, asked.scale, counted, table))
    _name_the_unused(asked, table, given)
    check_processes(asked.engine, phases)
    _caps(table, before or {})
    if table.shortages and throw:
        raise PlanError(
            table.shortages[0].message,
            hint="lower pretrain.scale, the phases' tokens or the real budget, or raise "
            f"source.{table.shortages[0].source}.max_epochs",
        )
    return LaidOut(
        phases=tuple(phases),
        audit=tuple(table.audit),
        left_out=table.left_out,
        shortages=tuple(table.shortages),
    )


def _bought(
    asked: Pretraining, table: _Table, given: Mapping[str, int], replay_share: float
) -> dict[str, _Counted]:
    """The phases that share what the decision buys."""
    mine = [phase for phase in asked.phases if phase.mixture == "allocation"]
    if not mine:
        return {}
    tokens = {name: count for name, count in given.items() if count > 0}
    if not set(tokens) - {table.replay}:
        raise PlanError(
            f"phase `{mine[0].name}`: the decision buys no source, so it would get nothing",
            hint="give the phase a fixed mixture and tokens, or decide first: "
            "`python -m anneal sweep`",
        )
    for name in given:
        if name not in tokens and name != table.replay:
            table.left_out[name] = "the decision buys none of it"
    places = [
        Place(
            part=Fraction(phase.part),
            first=frozenset(
                n for n in tokens if table.supplies[n].kind in phase.kinds and n != table.replay
            ),
            sequence=phase.sequence,
        )
        for phase in mine
    ]
    placed = place(tokens, places)
    counts = sequences(placed, places)
    found = {}
    for phase, want, count in zip(mine, placed, counts, strict=True):
        share = replay_share if phase.replay_share is None else phase.replay_share
        found[phase.name] = _whole_steps(phase, want, count, share, table)
    for name, bought in tokens.items():
        if name != table.replay and not any(c.counts.get(name) for c in found.values()):
            table.left_out[name] = f"{bought:,} tokens make no sequence in any phase"
    return found


def _whole_steps(
    phase: PhaseAsked,
    want: Mapping[str, int],
    counts: dict[str, int],
    replay_share: float,
    table: _Table,
) -> _Counted:
    """A phase of the allocation as a whole number of steps."""
    more_replay = want.get(table.replay, 0)
    asked = {name: tokens for name, tokens in want.items() if name != table.replay}
    own = {name: count for name, count in counts.items() if name != table.replay and count}
    total = sum(own.values())
    if not total:
        raise PlanError(
            f"phase `{phase.name}`: its part of the allocation is {sum(asked.values()):,} tokens, "
            f"less than one sequence of {phase.sequence}: it would get nothing",
            hint=f"raise pretrain.phases.{phase.name}.part, or take the phase out",
        )
    share = Fraction(replay_share)
    replayed = Fraction(sum(asked.values())) * share / (1 - share) + more_replay
    if replayed:
        asked[table.replay] = round(replayed)
        steps = round((total + replayed / phase.sequence) / phase.batch)
        steps = max(steps, -(-total // phase.batch))
        left = steps * phase.batch - total
        return _Counted(asked, own | ({table.replay: left} if left else {}))
    steps, surplus = divmod(total, phase.batch)
    if not steps:
        raise PlanError(
            f"phase `{phase.name}`: {total:,} sequences are less than one step of {phase.batch}, "
            "and there is no replay to fill it: it would get nothing",
            hint=f"raise pretrain.phases.{phase.name}.part or lower its batch",
        )
    if not surplus:
        return _Counted(asked, own)
    fewer = split(steps * phase.batch, list(own.values()))
    return _Counted(
        asked,
        {name: count for name, count in zip(own, fewer, strict=True) if count},
        slack=f"whole steps: {surplus} sequences beyond the last, and no replay to give to",
    )


def _fixed(phase: PhaseAsked, scale: float, table: _Table, given: Mapping[str, int]) -> _Counted:
    """A phase whose tokens and shares were fixed beforehand."""
    assert phase.tokens is not None
    tokens = Fraction(phase.tokens) * Fraction(scale)
    steps = round(tokens / (phase.batch * phase.sequence))
    if not steps:
        raise PlanError(
            f"phase `{phase.name}`: {round(tokens):,} tokens are less than half a step of "
            f"{phase.batch} x {phase.sequence}: it would get nothing",
            hint="raise pretrain.scale or the phase's tokens, or lower its batch",
        )
    shares = _shares(phase, table, given)
    asked = split(round(tokens), list(shares.values()))
    counts = split(steps * phase.batch, list(shares.values()))
    for name, share, count in zip(shares, shares.values(), counts, strict=True):
        if not count:
            table.left_out[name] = f"phase {phase.name}: its share of {float(share):.3g} makes none"
    return _Counted(
        dict(zip(shares, asked, strict=True)),
        {name: count for name, count in zip(shares, counts, strict=True) if count},
        slack="whole steps",
    )


def _shares(phase: PhaseAsked, table: _Table, given: Mapping[str, int]) -> dict[str, Fraction]:
    """Shares by source: a kind's is divided as the decision divides, or by what there is."""
    if not isinstance(phase.mixture, dict):
        return {table.replay: Fraction(1)}
    kinds = {name: supply.kind for name, supply in table.supplies.items()}
    shares = {}
    for key, names in members(phase, kinds, table.replay).items():
        weights = [given.get(name, 0) for name in names]
        if not any(weights):
            weights = [table.supply(phase.name, name).tokens for name in names]
        for name, weight in zip(names, weights, strict=True):
            if weight:
                shares[name] = Fraction(phase.mixture[key]) * Fraction(weight, sum(weights))
            else:
                table.left_out[name] = f"phase {phase.name}: the decision buys none of it"
    everything = sum(shares.values(), Fraction(0))
    return {name: share / everything for name, share in shares.items()}


def _phase(phase: PhaseAsked, scale: float, counted: _Counted, table: _Table) -> Phase:
    """The phase of a run, its rows in the audit written."""
    total = sum(counted.counts.values())
    portions = []
    for name, count in counted.counts.items():
        supply, tokens = table.supply(phase.name, name), count * phase.sequence
        pool = None if name == table.replay else _pool(phase, supply, count, table)
        portions.append(
            Portion(
                source=name, content=supply.content, share=count / total, pool=pool, tokens=tokens
            )
        )
        asked = counted.asked.get(name, 0)
        table.audit.append(
            AuditRow(
                phase=phase.name,
                source=name,
                asked=asked,
                tokens=tokens,
                unique=min(pool or supply.tokens, supply.tokens),
                reason=_reason(phase, name, tokens - asked, counted, table),
            )
        )
    return Phase(
        name=phase.name,
        mixture=tuple(portions),
        tokens=total * phase.sequence,
        batch=phase.batch,
        sequence=phase.sequence,
        schedule=_schedule(phase, scale, total // phase.batch),
        optimiser_state=phase.optimiser_state,
        trainable=phase.trainable,
    )


def _pool(phase: PhaseAsked, supply: Supply, count: int, table: _Table) -> int | None:
    """Unique tokens that a phase with `epochs` draws on; None for all of the source."""
    if phase.epochs is None:
        return None
    pool = ceil(count / Fraction(phase.epochs)) * phase.sequence
    if pool > supply.tokens:
        tokens = count * phase.sequence
        table.shortages.append(
            Shortage(
                source=supply.name,
                asked=tokens,
                exist=supply.tokens,
                needed=pool,
                limit=phase.epochs,
                phases={phase.name: tokens},
            )
        )
    return pool


def _reason(phase: PhaseAsked, name: str, difference: int, counted: _Counted, table: _Table) -> str:
    if not difference:
        return ""
    if counted.slack:
        return counted.slack
    if name == table.replay:
        return f"takes what makes whole steps of {phase.batch} x {phase.sequence}"
    return f"whole sequences of {phase.sequence}"


def _schedule(phase: PhaseAsked, scale: float, steps: int) -> Schedule:
    """The phase's schedule, a warm-up in steps or tokens made a share of its steps."""
    warmup = phase.warmup_steps
    if phase.warmup_tokens is not None:
        wanted = Fraction(phase.warmup_tokens) * Fraction(scale) / (phase.batch * phase.sequence)
        warmup = max(1, round(wanted))
        if wanted < steps:  # so few steps that rounding alone could fill them
            warmup = min(warmup, steps - 1)
    if not warmup:
        return phase.schedule
    if warmup >= steps:
        raise PlanError(
            f"phase `{phase.name}`: a warm-up of {warmup:,} steps in {steps:,} steps",
            hint=f"lower pretrain.phases.{phase.name}.warmup_"
            + ("tokens" if phase.warmup_steps is None else "steps"),
        )
    return phase.schedule.model_copy(update={"warmup": warmup / steps})


def _name_the_unused(asked: Pretraining, table: _Table, given: Mapping[str, int]) -> None:
    used = {row.source for row in table.audit}
    for name in table.supplies:
        if name not in used and name != table.replay:
            none = "no phase asks for it"
            if given.get(name):
                none += f", though the decision buys {given[name]:,} tokens of it"
            table.left_out.setdefault(name, none)


def _caps(table: _Table, before: Mapping[str, int]) -> None:
    """Notes each source that the phases together repeat more often than it may be."""
    used: dict[str, dict[str, int]] = defaultdict(dict)
    epochs: dict[str, Fraction] = defaultdict(Fraction)
    for name, tokens in before.items():
        if tokens and name in table.supplies:
            used[name]["the base"] = tokens
            epochs[name] += Fraction(tokens, table.supplies[name].tokens)
    for row in table.audit:
        used[row.source][row.phase] = row.tokens
        epochs[row.source] += Fraction(row.tokens, row.unique)
    known = {shortage.source for shortage in table.shortages}
    for name, phases in used.items():
        supply = table.supplies[name]
        if epochs[name] <= Fraction(supply.max_epochs) or name in known:
            continue
        table.shortages.append(
            Shortage(
                source=name,
                asked=sum(phases.values()),
                exist=supply.tokens,
                needed=ceil(epochs[name] * supply.tokens / Fraction(supply.max_epochs)),
                limit=supply.max_epochs,
                phases=phases,
            )
        )
