"""Curves of a law on every axis: tokens, training FLOPs, total FLOPs and money.

Curves are drawn for the miniature that the matched runs are: at x of X real tokens a source has
x / X of its unique tokens, so its epochs are those of the real run all along, and at X the curve
is the real run itself. Costs are those of the unique tokens that go with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from anneal.laws import Law, band, crossover, predict
from anneal.plan.budget import Supply, real_tokens
from anneal.plan.flops import training_flops
from anneal.plan.runs import CONTROL, Design
from anneal.report.law_rows import Crossover, CurveLine, Interval

Floats = NDArray[np.float64]
Axis = Literal["tokens", "training_flops", "total_flops", "usd"]
AXES: tuple[Axis, ...] = ("tokens", "training_flops", "total_flops", "usd")
GRID = 48
"""Points of a drawn curve, log-spaced."""


@dataclass(frozen=True)
class Arm:
    """A curve's source as the axes need it: the control costs nothing but training.

    Args:
        name: label of the law's curve.
        supply: how much exists and what it costs.
        real: source tokens the real budget buys of it alone, within its cap.
        bought: whether acquiring it is charged.
    """

    name: str
    supply: Supply
    real: float
    bought: bool


def arms_of(design: Design) -> tuple[Arm, ...]:
    """The control and every source."""
    out = []
    for name, supply in [(CONTROL, design.replay), *((s.name, s) for s in design.sources)]:
        real = real_tokens(
            design.budget.real,
            supply,
            prices=design.prices,
            parameters=design.parameters,
            replay_share=design.anneal.replay_share,
        )
        bought = name != CONTROL
        out.append(Arm(name, supply, max(1.0, min(real, supply.limit)), bought))
    return tuple(out)


def fitted(design: Design, law: Law) -> list[Arm]:
    """The arms that the law has a curve for: a source whose runs all failed has none."""
    return [arm for arm in arms_of(design) if arm.name in law.labels]


def axis_value(design: Design, arm: Arm, axis: Axis, tokens: Floats, unique: Floats) -> Floats:
    """What `tokens` source tokens, `unique` of them different, come to on an axis."""
    per_token = training_flops(design.parameters, 1.0) / (1 - design.anneal.replay_share)
    train = per_token * tokens
    cost = arm.supply.cost
    if axis == "tokens":
        return tokens
    if axis == "training_flops":
        return train
    if axis == "total_flops":
        return train + (cost.flops_fixed + cost.flops_per_token * unique if arm.bought else 0.0)
    usd = train * design.prices.usd_per_flop
    if arm.bought:
        price = np.vectorize(lambda u: design.prices.acquisition_usd(cost, u), otypes=[float])
        usd = usd + price(unique)
    return usd


def lines(design: Design, law: Law, *, level: float) -> list[CurveLine]:
    """The miniature's curve of every arm, from the smallest budget to the real one."""
    out = []
    for arm in fitted(design, law):
        grid = np.geomspace(design.budget.ladder[0], arm.real, GRID)
        pool = np.minimum(grid, np.maximum(1.0, arm.supply.tokens * grid / arm.real))
        scores = predict(law, law.code(arm.name), grid, pool)
        out.append(_line(design, arm, grid, pool, scores, level))
    return out


def marginals(design: Design, law: Law, *, level: float) -> tuple[list[CurveLine], list[CurveLine]]:
    """What one more million tokens, and one more USD, of a source alone are worth at a budget.

    At natural availability: beyond the tokens that exist, more means repeating.

    Returns:
        Gains of score per million tokens, and per USD; `score` and the band hold them.
    """
    per_token, per_usd = [], []
    for arm in fitted(design, law):
        grid = np.geomspace(design.budget.ladder[0], arm.real, GRID)
        ends = np.stack([grid, grid * 1.01])
        pool = np.minimum(ends, arm.supply.tokens)
        here, there = (
            predict(law, law.code(arm.name), tokens, unique)
            for tokens, unique in zip(ends, pool, strict=True)
        )
        gain = (here - there) / (ends[1] - ends[0])
        usd = [
            axis_value(design, arm, "usd", tokens, unique)
            for tokens, unique in zip(ends, pool, strict=True)
        ]
        spent = usd[1] - usd[0]
        per_token.append(_line(design, arm, grid, pool[0], gain * 1e6, level))
        if (spent > 0).all():
            dollars = gain * (ends[1] - ends[0]) / spent
            per_usd.append(_line(design, arm, grid, pool[0], dollars, level))
    return per_token, per_usd


def _line(
    design: Design, arm: Arm, grid: Floats, pool: Floats, values: Floats, level: float
) -> CurveLine:
    low, high = band(values, level=level)
    flops, total, usd = (
        tuple(axis_value(design, arm, axis, grid, pool).tolist()) for axis in AXES[1:]
    )
    return CurveLine(
        source=arm.name,
        tokens=tuple(grid.tolist()),
        flops=flops,
        total_flops=total,
        usd=usd,
        score=tuple(np.median(values, axis=0).tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
    )


def crossovers(design: Design, law: Law, *, noise: float, level: float) -> list[Crossover]:
    """Where the curves of two sources cross at natural availability, on every axis."""
    out = []
    arms = [arm for arm in fitted(design, law) if arm.bought]
    for first, second in combinations(arms, 2):
        for axis in AXES:
            out.append(_crossover(design, law, first, second, axis, noise, level))
    return out


def _crossover(
    design: Design,
    law: Law,
    first: Arm,
    second: Arm,
    axis: Axis,
    noise: float,
    level: float,
) -> Crossover:
    def spend(arm: Arm, tokens: Floats) -> Floats:
        return axis_value(design, arm, axis, tokens, np.minimum(tokens, arm.supply.tokens))

    smallest, pair = np.array([float(design.budget.ladder[0])]), (first, second)
    low = max(float(spend(arm, smallest)[0]) for arm in pair)
    high = max(float(spend(arm, np.array([arm.real]))[0]) for arm in pair)
    if not 0 < low < high:
        return Crossover(
            first=first.name,
            second=second.name,
            axis=axis,
            found=False,
            at=None,
            probability=0.0,
            low=low,
            high=high,
        )
    found = crossover(
        law,
        law.code(first.name),
        law.code(second.name),
        low=low,
        high=high,
        unique=(float(first.supply.tokens), float(second.supply.tokens)),
        axes=None
        if axis == "tokens"
        else (
            lambda x: spend(first, x),
            lambda x: spend(second, x),
        ),
        noise=noise,
        level=level,
    )
    at = None
    if found.at is not None:
        at = Interval(value=found.at[0], low=found.at[1], high=found.at[2], level=level)
    return Crossover(
        first=first.name,
        second=second.name,
        axis=axis,
        found=found.found,
        at=at,
        probability=found.probability,
        low=low,
        high=high,
    )
