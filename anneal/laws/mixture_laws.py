"""Mixture laws: the score of a run as a function of the shares of its sources.

The shares r_1 .. r_m of a run sum to 1. Two families of laws read them (column `shares`, (n, m)):

    exponential  L = c + exp(f_1(r) t_1 + f_2(r) t_2 + ...)      Data Mixing Laws, 2403.16952
    pools        L = E + sum_k S_k(r)^-a_k + b . r               2507.09404 and ours
                 S_k = e_k + sum_j w_kj r_j^g_j

In a pool every source brings effective data, w_j r_j^g_j, and the score falls as a power of the
sum: the second thousand tokens of a source are worth less than the first (g < 1), and a source is
worth less where others have already taught the same thing. An exponential has no such brake: it
puts the slope of its middle at its edges. Which form is right is a question to a table, answered by
holding out what lies at its edge (`mixture_choice`).

What these forms cannot say: how the best mixture moves with model size or run length. Fitted at one
size they predict an order; the level at another size is another fit (or `additive_sized`).

Priors are weak and reported: logarithms of weights about 1 with SD `spread` (in log units), the
coefficients of an exponential about 0 with SD `spread`. They are what keeps 40 parameters on a few
hundred runs from chasing noise; `mixture_choice` chooses the spread with the form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.optimize import nnls

from anneal.errors import LawError
from anneal.laws.points import Floats
from anneal.laws.surfaces import Columns, Input, Parameter, Surface, Widths

SHARES = Input("shares", "share of tokens", wide=True, positive=False)
N = Input("n_params", "parameters")
D = Input("d_tokens", "tokens")

DELTA = 0.02
"""Huber's delta on log losses for mixture laws: 2403.16952 uses 0.01 to 0.08. At 1e-3 the fit would
be a median, and mixtures that a form cannot describe are as many as the others."""
SMALL_SHARE = 0.003
"""Offset of `data_mixing_log`: published shares are rounded to 0.001, below it a share is 0."""
TINY = 1e-300


def shares_of(given: Floats) -> Floats:
    """(n, m) shares that sum to 1, from weights that need not (published ones are rounded).

    Raises:
        LawError: a negative or non-finite weight, or a row without any.
    """
    weights = np.asarray(given, dtype=np.float64)
    if weights.ndim != 2:
        raise LawError(f"shares: (n, m) asked, got {weights.shape}")
    total = weights.sum(axis=1)
    bad = ~np.isfinite(weights).all(axis=1) | (weights < 0).any(axis=1) | ~(total > 0)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise LawError(
            f"shares, row {row}: must be 0 or more and not all 0, got {weights[row]}",
            hint="a share is the part of a run's tokens that a source gave",
        )
    return np.asarray(weights / total[:, None])


# The exponential family.

Features = Callable[[Floats], Floats]


def _plain(shares: Floats) -> Floats:
    return shares


def _log_shares(shares: Floats) -> Floats:
    return np.asarray(np.log1p(shares / SMALL_SHARE))


def _root(shares: Floats) -> Floats:
    return np.sqrt(shares)


def exponential(
    name: str, features: tuple[tuple[str, Features], ...], *, formula: str, spread: float = 3.0
) -> Surface:
    """L = c + exp(sum of t_j f(r_j) over features f and sources j): one row of `MIXTURE_LAWS`.

    c and L in units of the score, t_j in logarithms of it. Published with a factor k before the
    exponential (2403.16952, equation 1; olmix 2602.12237 as here, with c = exp(log c)); shares sum
    to 1, so k exp(t . r) = exp((t + log k) . r) and k is not a parameter of its own.

    Args:
        features: letter of the coefficients, and the function of the shares they multiply.
        formula: as reports print it.
        spread: SD of the coefficients' prior about 0.
    """

    def parameters(widths: Widths) -> tuple[Parameter, ...]:
        m = widths["shares"]
        floor = Parameter("c", "score", "log", 1e-3, 1e2, (0.5, 0.99))
        return floor, *(
            Parameter(f"{letter}[{j}]", "log score", "identity", -60, 60, (-1, 1), (0.0, spread))
            for letter, _ in features
            for j in range(m)
        )

    def law(value: Floats, columns: Columns) -> tuple[Floats, Floats]:
        x = np.hstack([f(columns["shares"]) for _, f in features])
        above = np.exp(np.clip(value[:, 1:] @ x.T, -60.0, 20.0))
        slope = np.concatenate([np.ones((*above.shape, 1)), above[:, :, None] * x], axis=2)
        return value[:, :1] + above, slope

    def place(values: Floats, columns: Columns, score: Floats) -> Floats:
        """The floor was drawn as a share of the smallest score; the rest is a ridge regression."""
        x = np.hstack([f(columns["shares"]) for _, f in features])
        out = values.copy()
        out[:, 0] *= score.min()
        goal = np.log(score[:, None] - out[:, 0])
        weight = np.exp(goal - goal.max(axis=0))  # an error of log(L - c) weighs as much as L - c
        for k in range(out.shape[0]):
            part = x * weight[:, k, None]
            ridge = 1e-3 * float((part**2).sum(axis=0).mean()) * np.eye(x.shape[1])
            out[k, 1:] = np.linalg.solve(
                part.T @ part + ridge, part.T @ (weight[:, k] * goal[:, k])
            )
        return out

    return Surface(
        name=name,
        formula=formula,
        source="Ye et al. 2024, arXiv 2403.16952, equation 1"
        + ("" if len(features) == 1 else "; the added terms are ours"),
        identifiable="more mixtures than parameters, and no source's share follows from the others",
        inputs=(SHARES,),
        parameters=parameters,
        law=law,
        place=place,
        refuse=_refuse,
    )


def _refuse(columns: Columns) -> str:
    """A source that is in no run has no worth that the table could know."""
    missing = np.flatnonzero(columns["shares"].max(axis=0) <= 0)
    if missing.size:
        return f"source {int(missing[0])} (of {missing.size}) has share 0 in every run"
    return ""


# The pools.


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
        refuse=_refuse,
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


def _powers(shares: Floats, inner: Floats) -> tuple[Floats, Floats]:
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
    power, log_share = _powers(shares, value[:, at["g"]])
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
    power, _ = _powers(shares, out[:, at["g"]])
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


# The table.

_OURS = "ours, in the spirit of Shukor et al. 2025, arXiv 2507.09404"


def mixture_laws(*, spread: float = 3.0) -> dict[str, Surface]:
    """Every law of the shares alone by name, with priors of this spread.

    Args:
        spread: SD of the priors, in logarithms; see `exponential` and `pooled`.
    """
    log = f"t . r + s . log(1 + r / {SMALL_SHARE})"
    rows = [
        exponential("data_mixing", (("t", _plain),), formula="c + exp(t . r)", spread=spread),
        exponential(
            "data_mixing_sqrt",
            (("t", _plain), ("s", _root)),
            formula="c + exp(t . r + s . sqrt(r))",
            spread=spread,
        ),
        exponential(
            "data_mixing_log",
            (("t", _plain), ("s", _log_shares)),
            formula=f"c + exp({log})",
            spread=spread,
        ),
        pooled("pool", Pools(), formula="E + (e + w . r^g)^-a", source=_OURS, spread=spread),
        pooled(
            "pool_own",
            Pools(inner="own"),
            formula="E + (e + sum_j w_j r_j^g_j)^-a",
            source=_OURS,
            spread=spread,
        ),
        pooled(
            "pool_linear",
            Pools(linear=True),
            formula="E + (e + w . r^g)^-a + b . r",
            source=_OURS,
            spread=spread,
        ),
        pooled(
            "two_pools",
            Pools(pools=2),
            formula="E + (e1 + w1 . r^g)^-a1 + (e2 + w2 . r^g)^-a2",
            source=_OURS,
            spread=spread,
        ),
        pooled(
            "additive",
            Pools(inner="own", outer=False, offset=False),
            formula="E + 1 / sum_j C_j r_j^g_j",
            source="Shukor et al. 2025, arXiv 2507.09404, additive law at one N and D",
            spread=spread,
        ),
    ]
    return {row.name: row for row in rows}


MIXTURE_LAWS: dict[str, Surface] = mixture_laws()
"""Laws of the shares at one model size and run length."""

additive_sized = pooled(
    "additive_sized",
    Pools(inner="own", outer=False, offset=False, sized=True),
    formula="E + 1 / sum_j C_j r_j^g_j + A N^-alpha + B D^-beta",
    source="Shukor et al. 2025, arXiv 2507.09404, additive law (the joint law, whose A and B "
    "depend on the shares, could not be confirmed from the source and is left out)",
)
"""Apple's additive law over shares, parameters and tokens: 2m + 5 parameters."""
