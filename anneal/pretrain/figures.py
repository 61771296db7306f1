"""What a full run would take: tokens, steps, FLOPs, hours, money, disk, each by its formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from anneal.plan.audit import AuditRow, LaidOut
from anneal.plan.budget import Prices
from anneal.plan.flops import TRAINING_FORMULA, attention_flops, training_flops
from anneal.plan.means import Means
from anneal.plan.schedule import learning_rate
from anneal.plan.values import LlamaShape, Phase, Schedule
from anneal.sources.values import Name
from anneal.values import Value

STATE_BYTES = 12
"""Bytes a parameter of a state to go on from: fp32 weights and Adam's two moments."""
WEIGHT_BYTES = 4
"""Bytes a parameter of fp32 weights alone."""


class PortionFigures(Value):
    """One source in one phase."""

    source: Name
    tokens: int
    epochs: float | None
    """Passes over what it draws on; None where nobody knows yet how much there is."""


class PhaseFigures(Value):
    """One phase."""

    name: Name
    tokens: int
    steps: int
    batch: int
    """Sequences a step."""
    sequence: int
    mixture: tuple[PortionFigures, ...]
    schedule: str
    """Learning rate in words."""
    optimiser_state: Literal["kept", "reset"]
    trainable: Literal["all", "embeddings"]
    flops: float
    hours: float
    """Wall-clock, on all devices together."""
    attention: float
    """Attention's quadratic term, left out of `flops`, over them."""


class Lack(Value):
    """A source of which there is not enough, as far as anyone knows."""

    source: Name
    asked: int
    """Trained tokens, over all phases."""
    needed: int
    """Unique tokens that would do."""
    exist: int | None
    """None: not prepared yet."""
    limit: float
    """Epochs allowed."""
    phases: dict[str, int]


class Figures(Value):
    """A full run before anything is spent."""

    phases: tuple[PhaseFigures, ...]
    audit: tuple[AuditRow, ...]
    left_out: dict[str, str]
    lacks: tuple[Lack, ...]
    parameters: int
    vocabulary: int
    devices: int
    tokens: int
    steps: int
    flops: float
    hours: float
    device_hours: float
    usd: float
    state_bytes: int
    """Of one state to go on from."""
    states: int
    """Most of them on disk at once."""
    weights: int
    """Further copies of the weights alone."""
    disk_bytes: int
    formulas: dict[str, str]


def figures(
    laid: LaidOut,
    *,
    engine: Means,
    parameters: int,
    vocabulary: int,
    prices: Prices,
    shape: LlamaShape | None = None,
    unknown: Sequence[str] = (),
    limits: Mapping[str, float] | None = None,
) -> Figures:
    """Prices a full run.

    Args:
        laid: its phases.
        engine: how it is carried out.
        parameters: of the model.
        vocabulary: its entries.
        prices: of a device hour, and what a device does.
        shape: of the model, for attention's share.
        unknown: sources whose tokens nobody has counted yet.
        limits: epochs allowed, of those.
    """
    speed = engine.processes * prices.flops_per_second
    phases = tuple(
        _phase(phase, laid, parameters, speed, shape, frozenset(unknown)) for phase in laid.phases
    )
    flops = sum(phase.flops for phase in phases)
    states, weights = _kept(laid, engine)
    hours = flops / speed / 3600
    return Figures(
        phases=phases,
        audit=laid.audit,
        left_out=laid.left_out,
        lacks=_lacks(laid, unknown, limits or {}),
        parameters=parameters,
        vocabulary=vocabulary,
        devices=engine.processes,
        tokens=laid.tokens,
        steps=sum(phase.steps for phase in phases),
        flops=flops,
        hours=hours,
        device_hours=hours * engine.processes,
        usd=hours * engine.processes * prices.usd_per_hour,
        state_bytes=STATE_BYTES * parameters,
        states=states,
        weights=weights,
        disk_bytes=(STATE_BYTES * states + WEIGHT_BYTES * weights) * parameters,
        formulas=_formulas(parameters, engine, prices, states, weights),
    )


def _phase(
    phase: Phase,
    laid: LaidOut,
    parameters: int,
    speed: float,
    shape: LlamaShape | None,
    unknown: frozenset[str],
) -> PhaseFigures:
    epochs = {row.source: row.epochs for row in laid.audit if row.phase == phase.name}
    flops = training_flops(parameters, phase.tokens)
    left = attention_flops(shape, phase.tokens, phase.sequence) if shape else 0.0
    return PhaseFigures(
        name=phase.name,
        tokens=phase.tokens,
        steps=phase.steps,
        batch=phase.batch,
        sequence=phase.sequence,
        mixture=tuple(
            PortionFigures(
                source=part.source,
                tokens=part.tokens or 0,
                # a phase that names its epochs is known to repeat so often
                epochs=None
                if part.source in unknown and part.pool is None
                else (part.tokens or 0) / part.pool
                if part.pool is not None
                else epochs[part.source],
            )
            for part in phase.mixture
        ),
        schedule=told(phase.schedule, phase.steps),
        optimiser_state=phase.optimiser_state,
        trainable=phase.trainable,
        flops=flops,
        hours=flops / speed / 3600,
        attention=left / flops,
    )


def told(schedule: Schedule, steps: int) -> str:
    """A learning-rate schedule in words."""
    last = learning_rate(schedule, 1.0, 1.0)
    shape = {
        "constant": f"constant {schedule.peak:.4g}",
        "one_minus_sqrt": f"1 - sqrt from {schedule.peak:.4g} to {last:.4g}",
        "wsd": f"constant {schedule.peak:.4g}, linear to {last:.4g} over the last "
        f"{schedule.decay:.0%}",
    }.get(schedule.kind, f"{schedule.kind} from {schedule.peak:.4g} to {last:.4g}")
    warm = round(schedule.warmup * steps)
    if not schedule.warmup:
        return shape
    return f"{warm:,} steps up from {schedule.peak * schedule.start:.4g}, then {shape}"


def _kept(laid: LaidOut, engine: Means) -> tuple[int, int]:
    """States, and copies of the weights alone, that lie on disk at the end of a run."""
    keep = engine.keep
    states = keep.newest + 1  # the next is whole before the oldest goes
    states += len(laid.phases) if keep.boundaries else 0
    weights = laid.tokens // keep.every if keep.every else 0
    return states, weights + (1 if keep.best else 0)


def _lacks(laid: LaidOut, unknown: Sequence[str], limits: Mapping[str, float]) -> tuple[Lack, ...]:
    short = [
        Lack(
            source=s.source,
            asked=s.asked,
            needed=s.needed,
            exist=s.exist,
            limit=s.limit,
            phases=s.phases,
        )
        for s in laid.shortages
        if s.source not in unknown
    ]
    for name in unknown:
        mine = {row.phase: row.tokens for row in laid.audit if row.source == name}
        if not mine:
            continue
        asked, limit = sum(mine.values()), limits.get(name, 1.0)
        # a phase may repeat less often than the source allows
        parts = [p for x in laid.phases for p in x.mixture if p.source == name and p.pool]
        needs = [(int(-(-asked // limit)), limit)]
        needs += [(p.pool or 0, (p.tokens or 0) / (p.pool or 1)) for p in parts]
        needed, limit = max(needs)
        short.append(
            Lack(source=name, asked=asked, needed=needed, exist=None, limit=limit, phases=mine)
        )
    return tuple(short)


def _formulas(
    parameters: int, engine: Means, prices: Prices, states: int, weights: int
) -> dict[str, str]:
    return {
        "flops": f"{TRAINING_FORMULA} ({parameters:,} parameters)",
        "hours": f"FLOPs / ({engine.processes} devices x {prices.flops_per_second:.3g} FLOP/s)",
        "device_hours": f"hours x {engine.processes} devices",
        "usd": f"device-hours x {prices.usd_per_hour:g} USD/h",
        "disk": f"parameters x ({STATE_BYTES} bytes x {states} states"
        + (f" + {WEIGHT_BYTES} bytes x {weights:,} copies of weights)" if weights else ")")
        + f"; of the states {engine.keep.newest} are the newest, 1 is being written, "
        + f"{states - engine.keep.newest - 1} are boundaries",
    }
