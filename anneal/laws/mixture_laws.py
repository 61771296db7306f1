"""Mixture laws: the score of a run as a function of the shares of its sources.

The shares r_1 .. r_m of a run sum to 1. Three families of laws read them (column `shares`, (n, m)):

    exponential  L = c + exp(f_1(r) t_1 + f_2(r) t_2 + ...)      Data Mixing Laws, 2403.16952
    pools        L = E + sum_k S_k(r)^-a_k + b . r               2507.09404 and ours
                 S_k = e_k + sum_j w_kj r_j^g_j
    levels       two pools, the second with the first's worths levelled (`mixture_levels`)   ours

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

import numpy as np

from anneal.errors import LawError
from anneal.laws.mixture_levels import levelled
from anneal.laws.mixture_pools import SHARES, Pools, pooled, unseen_source
from anneal.laws.points import Floats
from anneal.laws.surfaces import Columns, Parameter, Surface, Widths

DELTA = 0.02
"""Huber's delta on log losses for mixture laws; 2403.16952 and olmix have 0.02 on plain losses in
their code. At 1e-3 the fit would be a median, and mixtures that a form cannot describe are as many
as the others."""
SMALL_SHARE = 0.003
"""Offset of `data_mixing_log`: published shares are rounded to 0.001, below it a share is 0."""


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
        refuse=unseen_source,
    )


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
        levelled("levelled_pools", source=_OURS, spread=spread),
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
