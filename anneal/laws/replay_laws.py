"""Laws of one source against the rest: how much new data, and how much replay.

A run mixes a source (share r of its tokens) with a replay of what the model already knew. Two
scores matter, the source's own (falls with r) and the general one (rises with r):

    bimix           L = (A / r^alpha) (B / s^beta + C)                       2405.14908
    dcpt            L = E + A N^-alpha + B r^eta D^-beta + C (r + eps)^-gamma  2406.01375
    cmr_domain      dL = a1 T^s1 + b1                                        2407.17467
    cmr_general     dL = a2 T^s2 + a3 T^s3 + b2
    cmr_ratio       R  = a4 T^s4 + b3

`largest_share` answers "how much of the source can I add before the general score rises above a
limit", `scarce_share` "my source has only so many tokens: how much replay makes them count most".
Both take a curve, a fit's or an ensemble's, and answer for every draw.

D-CPT is fitted once with the source's score against the source's share, and once with the general
score against the replay's share, 1 - r: the column is always the share of the scored data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import nnls

from anneal.errors import LawError
from anneal.laws.points import Floats
from anneal.laws.surfaces import Columns, Input, Parameter, Surface, Widths

CMR_UNIT = 0.2e9
"""Tokens: the unit of T in 2407.17467."""
GRID = 2001
"""Shares tried; between two of them the answer is interpolated."""
SMALLEST_SHARE = 1e-3

SHARE = Input("share", "share of tokens", positive=True)
N = Input("n_params", "parameters")
D = Input("d_tokens", "tokens")
STEPS = Input("steps", "optimiser steps (or tokens)")

Curve = Callable[[Mapping[str, ArrayLike]], Floats]
"""Columns -> (n,) or (draws, n) scores: `SurfaceFit.curve` or `SurfaceEnsemble.curve`."""


def _exponent(name: str, high: float = 3.0) -> Parameter:
    return Parameter(name, "1", "log", 1e-4, high, (0.05, 1.0))


# BiMix.


def _bimix(value: Floats, columns: Columns) -> tuple[Floats, Floats]:
    p, q, alpha, beta = (value[:, [i]] for i in range(4))
    log_r, log_s = np.log(columns["share"]), np.log(columns["steps"])
    mix, step = np.exp(-alpha * log_r), np.exp(-beta * log_s)
    score = mix * (p * step + q)
    slope = [mix * step, mix, -score * log_r, -mix * p * step * log_s]
    return score, np.stack(slope, axis=2)


def _bimix_parameters(widths: Widths) -> tuple[Parameter, ...]:
    return (
        Parameter("AB", "score x steps^beta", "log", 1e-9, 1e9, (0.1, 10)),
        Parameter("AC", "score", "log", 1e-9, 1e3, (0.1, 1)),
        _exponent("alpha"),
        _exponent("beta"),
    )


def _bimix_place(values: Floats, columns: Columns, score: Floats) -> Floats:
    ones = np.ones_like(score)
    return _linear_part(_bimix, (0, 1), values, columns, score, ones)


bimix = Surface(
    name="bimix",
    formula="L = r^-alpha (AB s^-beta + AC)",
    source="Ge et al. 2024, arXiv 2405.14908: A, B and C there; only the products A B and A C can "
    "be known from one domain, so these are the parameters",
    identifiable="at least two shares of the scored domain and three numbers of steps",
    inputs=(SHARE, STEPS),
    parameters=_bimix_parameters,
    law=_bimix,
    place=_bimix_place,
)
"""BiMix: one domain's loss by its own share r (above 0) and the steps s; 4 parameters a domain."""


# D-CPT.


def _dcpt(value: Floats, columns: Columns) -> tuple[Floats, Floats]:
    e, a, b, c, alpha, beta, eta, gamma, eps = (value[:, [i]] for i in range(9))
    log_n, log_d = np.log(columns["n_params"]), np.log(columns["d_tokens"])
    r = columns["share"]
    log_r = np.log(r)
    by_n = np.exp(-alpha * log_n)
    by_d = np.exp(eta * log_r - beta * log_d)
    log_near = np.log(r + eps)
    by_r = np.exp(-gamma * log_near)
    slope = [
        *(np.ones_like(by_n), by_n, by_d, by_r),
        -a * by_n * log_n,
        -b * by_d * log_d,
        b * by_d * log_r,
        -c * by_r * log_near,
        -c * gamma * by_r / (r + eps),
    ]
    return e + a * by_n + b * by_d + c * by_r, np.stack(slope, axis=2)


def _dcpt_parameters(widths: Widths) -> tuple[Parameter, ...]:
    return (
        Parameter("E", "score", "log", 1e-6, 1e2, (0.3, 0.98)),
        Parameter("A", "score x parameters^alpha", "log", 1e-9, 1e15, (0.01, 1)),
        Parameter("B", "score x tokens^beta", "log", 1e-9, 1e15, (0.01, 1)),
        Parameter("C", "score", "log", 1e-9, 1e3, (0.01, 1)),
        _exponent("alpha"),
        _exponent("beta"),
        Parameter("eta", "1", "log", 1e-3, 5, (0.05, 1.5)),
        _exponent("gamma"),
        # the paper's small constant against r = 0; the table says little of it
        Parameter("eps", "share", "log", 1e-4, 1, (0.01, 0.3), (0.05, 1.0)),
    )


def _dcpt_place(values: Floats, columns: Columns, score: Floats) -> Floats:
    return _linear_part(_dcpt, (0, 1, 2, 3), values, columns, score, 1.0 / score)


dcpt = Surface(
    name="dcpt",
    formula="L = E + A N^-alpha + B r^eta D^-beta + C (r + eps)^-gamma",
    source="Que et al. 2024, arXiv 2406.01375, D-CPT law",
    identifiable="three model sizes, three numbers of tokens and four shares, varied apart; with "
    "one size A N^-alpha cannot be told from E",
    inputs=(N, D, SHARE),
    parameters=_dcpt_parameters,
    law=_dcpt,
    place=_dcpt_place,
    refuse=lambda columns: (
        "one model size: A N^-alpha and E trade off"
        if np.ptp(columns["n_params"]) <= 0
        else "one number of tokens: B and C trade off"
        if np.ptp(columns["d_tokens"]) <= 0
        else ""
    ),
)
"""D-CPT: score by model size, tokens and the share of the scored data; 9 parameters."""


# CMR.


def _powers(terms: int) -> Surface:
    """sum of `terms` signed powers of T plus a constant; scores of either sign, so fit `plain`."""

    def law(value: Floats, columns: Columns) -> tuple[Floats, Floats]:
        log_t = np.log(columns["d_tokens"] / CMR_UNIT)
        score = np.repeat(value[:, -1:], log_t.size, axis=1)
        slope = []
        for k in range(terms):
            power = np.exp(value[:, [2 * k + 1]] * log_t)
            score = score + value[:, [2 * k]] * power
            slope += [power, value[:, [2 * k]] * power * log_t]
        return score, np.stack([*slope, np.ones_like(score)], axis=2)

    def parameters(widths: Widths) -> tuple[Parameter, ...]:
        pairs = [
            p
            for k in range(terms)
            for p in (
                Parameter(f"a[{k}]", "score", "identity", -1e3, 1e3, (-1, 1)),
                Parameter(f"s[{k}]", "1", "identity", -3, 3, (-1.5, 1.5)),
            )
        ]
        return *pairs, Parameter("b", "score", "identity", -1e3, 1e3, (-1, 1))

    def place(values: Floats, columns: Columns, score: Floats) -> Floats:
        out = values.copy()
        log_t = np.log(columns["d_tokens"] / CMR_UNIT)
        for row in out:
            x = np.column_stack(
                [np.exp(row[2 * k + 1] * log_t) for k in range(terms)] + [np.ones_like(log_t)]
            )
            row[[*range(0, 2 * terms, 2), -1]] = np.linalg.lstsq(x, score, rcond=1e-8)[0]
        return np.clip(out, -1e3, 1e3)

    plus = " + ".join(f"a[{k}] T^s[{k}]" for k in range(terms))
    return Surface(
        name="cmr" if terms == 1 else "cmr_general",
        formula=f"{plus} + b, T = tokens / 2e8",
        source="Gu et al. 2024, arXiv 2407.17467, CMR law",
        identifiable=f"at least {2 * terms + 2} numbers of tokens over a wide range"
        + ("; the two powers trade off where their exponents are near" if terms > 1 else ""),
        inputs=(D,),
        parameters=parameters,
        law=law,
        place=place,
    )


cmr = _powers(1)
"""CMR, 3 parameters: the source's change of loss dL (cmr_domain), or the critical ratio R by T."""
cmr_general = _powers(2)
"""CMR, 5 parameters: the general change of loss at one share; may rise and then fall."""


def critical_ratio(values: ArrayLike, tokens: ArrayLike) -> Floats:
    """Largest share of the source that keeps the general loss within the CMR's limit.

    2407.17467: R = a4 T^s4 + b3, clipped to 0 .. 1.

    Args:
        values: (3,) or (draws, 3): a4, s4, b3 (`cmr` fitted to ratios).
        tokens: (n,) tokens.

    Returns:
        (n,) or (draws, n) shares.
    """
    given = np.asarray(values, dtype=np.float64)
    score, _ = cmr.law(np.atleast_2d(given), {"d_tokens": np.atleast_1d(np.asarray(tokens, float))})
    ratio = np.clip(score, 0.0, 1.0)
    return np.asarray(ratio[0] if given.ndim == 1 else ratio)


# Replay.


@dataclass(frozen=True, eq=False)
class Replay:
    """How much of the source to train on, for every draw of a curve.

    Args:
        share: (draws,) of the source; the replay is the rest. 0 where no share keeps the limit.
        score: (draws,) the score that was limited or minimised, there.
        feasible: share of the draws in which an answer exists.
        interior: share of the draws in which it lies between the ends of the range.
    """

    share: Floats
    score: Floats
    feasible: float
    interior: float


def largest_share(
    general: Curve, *, n_params: float, d_tokens: float, limit: float, high: float = 0.999
) -> Replay:
    """The largest share of a source whose general score stays at or below `limit`.

    D-CPT's first use (2406.01375: domain share under a limit on the general loss). A
    larger share than the answer breaks the limit; smaller ones keep it where the curve is monotone.

    Args:
        general: `dcpt` fitted to general scores against the replay's share.
        limit: highest general score allowed, such as 1.03 times the base's.
        high: largest share considered.

    Raises:
        LawError: `limit` or `high` out of range.
    """
    if not (np.isfinite(limit) and limit > 0 and 0 < high < 1):
        raise LawError(f"replay: limit must be positive and 0 < high < 1, got {limit} and {high}")
    share = np.linspace(SMALLEST_SHARE, high, GRID)
    score = np.atleast_2d(general(_row(n_params, np.full(GRID, d_tokens), 1.0 - share)))
    keeps = score <= limit
    some = keeps.any(axis=1)
    last = GRID - 1 - keeps[:, ::-1].argmax(axis=1)
    after = np.minimum(last + 1, GRID - 1)
    rows = np.arange(score.shape[0])
    rise = score[rows, after] - score[rows, last]
    part = np.where(rise > 0, (limit - score[rows, last]) / np.where(rise > 0, rise, 1.0), 0.0)
    answer = share[last] + part * (share[after] - share[last])
    at = score[rows, last] + part * rise
    return Replay(
        share=np.where(some, answer, 0.0),
        score=np.where(some, at, score[:, 0]),
        feasible=float(some.mean()),
        interior=float((some & (last < GRID - 1)).mean()),
    )


def scarce_share(
    domain: Curve, *, n_params: float, source_tokens: float, low: float = 0.01
) -> Replay:
    """The share at which a fixed number of source tokens lowers the source's score most.

    D-CPT's second use (2406.01375): r D is fixed, so more replay means a longer run,
    D = source_tokens / r. Runs cost what they cost: where the best share is the smallest one
    (`interior` 0), longer is always better and the budget decides.

    Args:
        domain: `dcpt` fitted to the source's scores against its share.
        source_tokens: tokens of the source, each trained once.
        low: smallest share considered.

    Raises:
        LawError: `source_tokens` or `low` out of range.
    """
    if not (source_tokens > 0 and 0 < low < 1):
        raise LawError(f"replay: {source_tokens} tokens, smallest share {low}: out of range")
    share = np.geomspace(low, 1.0, GRID)
    score = np.atleast_2d(domain(_row(n_params, source_tokens / share, share)))
    best = score.argmin(axis=1)
    inside = (best > 0) & (best < GRID - 1)
    lowest = score[np.arange(best.size), best]
    return Replay(share[best], lowest, 1.0, float(inside.mean()))


def _row(n_params: float, d_tokens: Floats, share: Floats) -> dict[str, Floats]:
    return {"n_params": np.full(share.size, n_params), "d_tokens": d_tokens, "share": share}


def _linear_part(
    law: Callable[[Floats, Columns], tuple[Floats, Floats]],
    linear: tuple[int, ...],
    values: Floats,
    columns: Columns,
    score: Floats,
    weights: Floats,
) -> Floats:
    """Non-negative least squares for the parameters that a law is linear in, the others as drawn.

    A coefficient that comes out 0 is kept at a small part of the score, off its bound.
    """
    out = values.copy()
    chosen = list(linear)
    for row in out:
        blank = row.copy()
        blank[chosen] = 1.0
        basis = law(blank[None, :], columns)[1][0][:, chosen]
        size = np.sqrt(((basis * weights[:, None]) ** 2).sum(axis=0))
        best, _ = nnls(basis * weights[:, None] / size, score * weights)
        floor = 1e-3 * float(np.sqrt(((score * weights) ** 2).sum()))
        row[chosen] = np.maximum(best, floor) / size
    return out


REPLAY_LAWS: dict[str, Surface] = {s.name: s for s in (bimix, dcpt, cmr, cmr_general)}
"""Laws of one source against the rest by name."""
