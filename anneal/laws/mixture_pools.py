"""Pools: laws in which the sources of a mixture add up to effective data.

    L = E + sum_k S_k(r)^-a_k + b . r [+ A N^-alpha + B D^-beta],   S_k = e_k + sum_j w_kj r_j^g_j

One pool says that all sources teach the same thing, some better: what one has taught, another need
not. Two pools say that the target has two parts that different sources teach. `mixture_laws` holds
the members that compete; here is the family, its exact derivatives and its starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.optimize import nnls

from anneal.laws.points import Floats
from anneal.laws.surfaces import Columns, Input, Parameter, Surface, Widths

SHARES = Input("shares", "share of tokens", wide=True, positive=False)
N = Input("n_params", "parameters")
D = Input("d_tokens", "tokens")
TINY = 1e-300


@dataclass(frozen=True)
class Pools:
    """Which member of the family L = E + sum_k S_k^-a_k + b . r [+ A N^-alpha + B D^-beta].

    Args:
        pools: how many sums S_k.
        inner: `one` g for all sources, or each its `own`.
        outer: whether a_k is fitted; 1 where not.
        offset: whether S_k has e_k, the effective data a run has without any listed source.
        linear: whether b . r is added.
        sized: whether the terms in model size N and tokens D are added.
    """

    pools: int = 1
    inner: str = "one"
    outer: bool = True
    offset: bool = True
    linear: bool = False
    sized: bool = False

    def columns_of(self, m: int) -> dict[str, slice]:
        """Where each kind of parameter lies in a row, in the order of the surface."""
        sizes = {
            "E": 1,
            "a": self.pools * self.outer,
            "e": self.pools * self.offset,
            "g": 1 if self.inner == "one" else m,
            "w": self.pools * m,
            "b": m * self.linear,
            "size": 4 * self.sized,
        }
        ends = np.cumsum(list(sizes.values()))
        return {k: slice(int(e) - n, int(e)) for (k, n), e in zip(sizes.items(), ends, strict=True)}


def pooled(name: str, shape: Pools, *, formula: str, source: str, spread: float = 3.0) -> Surface:
    """L = E + sum_k (e_k + sum_j w_kj r_j^g_j)^-a_k + b . r: one row of `MIXTURE_LAWS`.

    E, b and L in units of the score; a_k, g_j without unit; w_kj and e_k in the unit that makes
    S_k^-a_k a score. Apple's additive law (2507.09404) is one pool with own g_j, a = 1, e = 0.
    Mixtures that hold one source alone at several shares of the rest tell g_j; a form with one
    common g needs about 2m runs, one with own g_j about 5m (2602.12237 advises 3 (m + 1)).

    Args:
        shape: the member of the family.
        formula, source: as reports print them.
        spread: SD of the log weights and offsets about log 1 (and half of it for b about 0).
    """
    return Surface(
        name=name,
        formula=formula,
        source=source,
        identifiable="more mixtures than parameters, each source at several shares"
        + ("; N and D vary apart" if shape.sized else ""),
        inputs=(SHARES, N, D) if shape.sized else (SHARES,),
        parameters=partial(_pool_parameters, shape, spread),
        law=partial(_pool_law, shape),
        place=partial(_pool_place, shape),
        refuse=unseen_source,
    )


def _pool_parameters(shape: Pools, spread: float, widths: Widths) -> tuple[Parameter, ...]:
    m = widths["shares"]
    out = [Parameter("E", "score", "log", 1e-3, 1e2, (0.4, 0.98))]
    if shape.outer:
        out += [
            Parameter(f"a[{k}]", "1", "log", 0.02, 5, (0.15, 1.0), (0.5, 1.5))
            for k in range(shape.pools)
        ]
    if shape.offset:
        out += [
            Parameter(f"e[{k}]", "S", "log", 1e-9, 1e4, (0.02, 0.5), (0.1, max(spread, 2.0)))
            for k in range(shape.pools)
        ]
    inner = 1 if shape.inner == "one" else m
    out += [
        Parameter(f"g[{j}]" if inner > 1 else "g", "1", "log", 0.02, 3, (0.3, 1.0), (0.6, 0.7))
        for j in range(inner)
    ]
    out += [
        Parameter(f"w[{k},{j}]", "S", "log", 1e-9, 1e6, (0.1, 3.0), (1.0, spread))
        for k in range(shape.pools)
        for j in range(m)
    ]
    if shape.linear:
        out += [
            Parameter(f"b[{j}]", "score", "identity", -20, 20, (-0.01, 0.01), (0.0, spread / 2))
            for j in range(m)
        ]
    if shape.sized:
        out += [
            Parameter("A", "score x parameters^alpha", "log", 1e-6, 1e15, (0.05, 0.5)),
            Parameter("alpha", "1", "log", 0.01, 3, (0.1, 0.8)),
            Parameter("B", "score x tokens^beta", "log", 1e-6, 1e15, (0.05, 0.5)),
            Parameter("beta", "1", "log", 0.01, 3, (0.1, 0.8)),
        ]
    return tuple(out)


def powers(shares: Floats, inner: Floats) -> tuple[Floats, Floats]:
    """r^g (B, n, m) for inner (B, 1 or m), and log r (n, m) with 0 where r is 0."""
    some = shares > 0
    log_share = np.where(some, np.log(np.maximum(shares, TINY)), 0.0)
    return np.where(some, np.exp(inner[:, None, :] * log_share), 0.0), log_share


def _pool_law(shape: Pools, value: Floats, columns: Columns) -> tuple[Floats, Floats]:
    shares = columns["shares"]
    n, m = shares.shape
    at = shape.columns_of(m)
    slope = np.zeros((value.shape[0], n, value.shape[1]))
    score = np.repeat(value[:, at["E"]], n, axis=1)
    slope[:, :, 0] = 1.0
    power, log_share = powers(shares, value[:, at["g"]])
    weights = value[:, at["w"]].reshape(-1, shape.pools, m)
    for k in range(shape.pools):
        amount = np.matmul(power, weights[:, k, :, None])[:, :, 0]
        if shape.offset:
            amount = amount + value[:, at["e"]][:, k, None]
        amount = np.maximum(amount, TINY)
        outer = value[:, at["a"]][:, k, None] if shape.outer else np.ones((value.shape[0], 1))
        log_amount = np.log(amount)
        term = np.exp(np.clip(-outer * log_amount, -60.0, 60.0))
        score += term
        by_amount = -outer * term / amount
        if shape.outer:
            slope[:, :, at["a"].start + k] = -term * log_amount
        if shape.offset:
            slope[:, :, at["e"].start + k] = by_amount
        by_weight = by_amount[:, :, None] * power
        first = at["w"].start + k * m
        slope[:, :, first : first + m] = by_weight
        by_inner = by_weight * weights[:, None, k] * log_share
        slope[:, :, at["g"]] += (
            by_inner.sum(axis=2, keepdims=True) if shape.inner == "one" else by_inner
        )
    if shape.linear:
        score += value[:, at["b"]] @ shares.T
        slope[:, :, at["b"]] = shares
    if shape.sized:
        first = at["size"].start
        for i, name in ((first, "n_params"), (first + 2, "d_tokens")):
            log_x = np.log(columns[name])
            base = np.exp(-value[:, i + 1, None] * log_x)
            score += value[:, i, None] * base
            slope[:, :, i] = base
            slope[:, :, i + 1] = -value[:, i, None] * base * log_x
    return score, slope


def _pool_place(shape: Pools, values: Floats, columns: Columns, score: Floats) -> Floats:
    """Weights by non-negative least squares, given the drawn exponents, floor and size terms.

    E was drawn as a share of the smallest score, A and B as shares of the scores' range at the
    middle row. With two or more pools the sum is split by weights that keep the drawn spread.
    """
    shares = columns["shares"]
    m = shares.shape[1]
    at = shape.columns_of(m)
    out = values.copy()
    out[:, 0] *= score.min()
    power, _ = powers(shares, out[:, at["g"]])
    rest = np.tile(score, (out.shape[0], 1))
    if shape.sized:
        first = at["size"].start
        for i, name in ((first, "n_params"), (first + 2, "d_tokens")):
            log_x = np.log(columns[name])
            out[:, i] *= np.ptp(score) * np.exp(out[:, i + 1] * log_x.mean())
            rest = rest - out[:, i, None] * np.exp(-out[:, i + 1, None] * log_x)
    rest = np.maximum(rest - out[:, :1], 0.02 * np.ptp(score)) / shape.pools
    for k in range(shape.pools):
        outer = out[:, at["a"]][:, k] if shape.outer else np.ones(out.shape[0])
        amount = rest ** (-1.0 / outer[:, None])
        for row in range(out.shape[0]):
            # an error of S weighs as much as it moves the score
            weight = outer[row] * rest[row] / amount[row]
            matrix = power[row] * weight[:, None]
            if shape.offset:
                matrix = np.hstack([matrix, weight[:, None]])
            best, _ = nnls(matrix, weight * amount[row])
            best = np.maximum(best, 1e-3 * max(float(best.max()), 1e-6))
            drawn = values[row, at["w"]][k * m : (k + 1) * m] if shape.pools > 1 else np.ones(m)
            out[row, at["w"].start + k * m : at["w"].start + (k + 1) * m] = best[:m] * drawn
            if shape.offset:
                out[row, at["e"].start + k] = best[m]
    return out


def unseen_source(columns: Columns) -> str:
    """A source that is in no run has no worth that the table could know."""
    missing = np.flatnonzero(columns["shares"].max(axis=0) <= 0)
    if missing.size:
        return f"source {int(missing[0])} (of {missing.size}) has share 0 in every run"
    return ""
