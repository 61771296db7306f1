"""Sources against one another: ranks at single budgets, ties at the noise floor, crossovers.

A crossover is looked for on every axis that the table speaks of. On the axes of FLOPs and USD a
source's cost is read off its own runs as fixed + per token x tokens; where that is more than 5% off
on any run the axis is left out, and the notes say so. The range reaches from what the dearer source
costs at the smallest budget to what the cheaper one costs at the largest, so that neither curve is
stretched beyond the budgets asked for.
"""

from __future__ import annotations

from itertools import combinations
from typing import Literal

import numpy as np

from anneal.laws import Law, band, crossover, predict
from anneal.laws.points import Floats
from anneal.report.law_rows import Interval
from anneal.table.measured import Measured
from anneal.table.read import CONTROL
from anneal.table.values import At, Crossing, RankRow, Tie

LEVEL = 0.9
"""Level of every interval."""
LINEAR = 0.05
"""Largest relative error of a source's costs as a straight line."""


def interval(samples: Floats) -> Interval:
    """Median of the draws (draws,) with equal tails."""
    low, high = band(samples, level=LEVEL)
    return Interval(value=float(np.median(samples)), low=float(low), high=float(high), level=LEVEL)


def scores_at(measured: Measured, law: Law, tokens: float) -> tuple[Floats, Floats]:
    """Scores (draws, m) of every label at a budget, and the unique tokens (m,) that go with it."""
    labels = measured.labels
    unique = np.array([measured.pool(label, tokens) for label in labels])
    codes = np.array([law.code(label) for label in labels], np.int64)
    return predict(law, codes, np.full(len(labels), tokens), unique), unique


def ties_at(measured: Measured, law: Law, at: At, noise: float) -> tuple[Tie, ...]:
    """Pairs of sources whose median difference is below the noise floor."""
    scores, _ = scores_at(measured, law, at.tokens)
    column = {label: i for i, label in enumerate(measured.labels)}
    order = [r.source for r in at.rows if r.source != CONTROL]
    out = []
    for first, second in combinations(order, 2):
        gap = scores[:, column[second]] - scores[:, column[first]]
        if abs(float(np.median(gap))) < noise:
            out.append(Tie(first=first, second=second, gap=interval(gap)))
    return tuple(out)


def single_scale(measured: Measured, pick: str, noise: float) -> tuple[RankRow, ...]:
    """Sources by mean score at each budget; where a budget was run with several pools, the largest
    pool, which is what someone who ran that budget alone would have used."""
    points, rows = measured.points, []
    rung = np.array([measured.rung(x) for x in points.tokens])
    for at, budget in enumerate(measured.ladder):
        means: list[tuple[float, str]] = []
        for code, label in enumerate(measured.labels):
            own = (points.group == code) & (rung == at)
            if own.any() and label != CONTROL:
                own &= points.unique >= points.unique[own].max() * (1 - 1e-9)
                means.append((float(points.score[own].mean()), label))
        if len(means) < 2:
            continue
        means.sort()
        rows.append(
            RankRow(
                budget=budget,
                sources=tuple(label for _, label in means),
                scores=tuple(score for score, _ in means),
                agrees=means[0][1] == pick,
                clear=means[1][0] - means[0][0] >= noise,
            )
        )
    return tuple(rows)


def crossings(
    measured: Measured, law: Law, high: float, noise: float
) -> tuple[tuple[Crossing, ...], list[str]]:
    """Every pair of sources on every axis that the table speaks of, and what was left out."""
    out: list[Crossing] = []
    for first, second in combinations(measured.sources, 2):
        out += _crossing(
            measured, law, (first, second), "tokens", (measured.ladder[0], high), noise
        )
    notes = []
    axes: tuple[tuple[Literal["flops", "usd"], Floats | None], ...] = (
        ("flops", measured.flops),
        ("usd", measured.usd),
    )
    for axis, costs in axes:
        if costs is None:
            continue
        lines = {label: _price(measured, label, costs) for label in measured.sources}
        bent = [label for label, (*_, error) in lines.items() if error > LINEAR]
        if bent:
            notes.append(
                f"crossovers in {axis} left out: the costs of `{bent[0]}` are no fixed amount plus "
                f"an amount per token (up to {lines[bent[0]][2]:.0%} off)"
            )
            continue
        for pair in combinations(measured.sources, 2):
            own = [lines[label][:2] for label in pair]
            low = max(fixed + each * measured.ladder[0] for fixed, each in own)
            top = min(fixed + each * high for fixed, each in own)
            if min(each for _, each in own) > 0 and 0 < low < top:
                out += _crossing(measured, law, pair, axis, (low, top), noise, (own[0], own[1]))
    return tuple(out), notes


def _price(measured: Measured, label: str, costs: Floats) -> tuple[float, float, float]:
    """Fixed cost, cost per token (both 0 or more) and the largest relative error of the two."""
    from scipy.optimize import nnls

    own = (measured.points.group == measured.labels.index(label)) & (costs > 0)
    if own.sum() < 2:
        return 0.0, 0.0, 0.0
    tokens, spent = measured.points.tokens[own], costs[own]
    scale = float(tokens.max())
    design = np.column_stack([np.ones(tokens.size), tokens / scale]) / spent[:, None]
    found, _ = nnls(design, np.ones(tokens.size))
    error = float(np.abs(design @ found - 1).max())
    return float(found[0]), float(found[1]) / scale, error


def _crossing(
    measured: Measured,
    law: Law,
    pair: tuple[str, str],
    axis: Literal["tokens", "flops", "usd"],
    span: tuple[float, float],
    noise: float,
    prices: tuple[tuple[float, float], tuple[float, float]] | None = None,
) -> list[Crossing]:
    low, high = span
    if not low < high:
        return []
    most = high if prices is None else max((high - fixed) / each for fixed, each in prices)
    pools = [measured.pool(label, max(most, high)) for label in pair]
    axes = None
    if prices is not None:
        (f0, e0), (f1, e1) = prices
        axes = (lambda x: f0 + e0 * x, lambda x: f1 + e1 * x)
    found = crossover(
        law,
        law.code(pair[0]),
        law.code(pair[1]),
        low=low,
        high=high,
        unique=(pools[0], pools[1]),
        axes=axes,
        noise=noise,
        level=LEVEL,
    )
    at = None
    if found.at is not None:
        at = Interval(value=found.at[0], low=found.at[1], high=found.at[2], level=LEVEL)
    return [
        Crossing(
            first=pair[0],
            second=pair[1],
            axis=axis,
            found=found.found,
            at=at,
            probability=found.probability,
            first_ahead=found.first_ahead,
            tie=found.tie,
            low=low,
            high=high,
        )
    ]
