"""Levelled pools: what few sources teach well and what nearly all of them teach.

    L = E + S^-a + T^-b,   S = sum_j w_j r_j^g_j,   T = e + v sum_j w_j^q r_j^g_j

Two pools say that a target has two parts, and need two worths of every source for it. Often the
second says nothing new: the sources are in the same order, only closer together. So here it is made
from the first: w_j^q. At q = 1 both parts rank the sources alike, at q = 0 any source serves the
second part as well as another, and a negative q would turn the order round. That leaves enough
parameters for every source to have its own g_j, how fast its worth is used up: 2m + 6 in all.

On the 512 RegMix runs at 1M (Pile-CC) q came out at 0.3: mixtures low in text like the target are
still worth something for being text. It orders unseen mixtures better than `two_pools` at 1M and
60M (.996 and .992 against .993 and .988) and worse at 1B with 25 times the tokens (.971, .979):
where exponents are each source's own, the order depends on how many tokens a share stands for.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.optimize import nnls

from anneal.laws.mixture_pools import SHARES, TINY, powers, unseen_source
from anneal.laws.points import Floats
from anneal.laws.surfaces import Columns, Parameter, Surface, Widths

FIRST = 6
"""Parameters before the g_j: E, a, b, q, v, e."""


def levelled(name: str, *, source: str, spread: float = 3.0) -> Surface:
    """L = E + S^-a + T^-b with w_j and w_j^q: one row of `MIXTURE_LAWS`.

    E and L in units of the score; a, b, q, g_j without unit; w_j, v and e in units that make the
    powers scores. Mixtures that hold a source at several shares of the rest tell g_j and w_j; a and
    b are told apart by mixtures with and without the best sources.

    Args:
        source: as reports print it.
        spread: SD of the log weights' prior about log 1; v and e have it too, and at least 2.
    """
    return Surface(
        name=name,
        formula="E + (w . r^g)^-a + (e + v sum_j w_j^q r_j^g_j)^-b",
        source=source,
        identifiable="more mixtures than parameters, each source at several shares",
        inputs=(SHARES,),
        parameters=partial(_parameters, spread),
        law=_law,
        place=_place,
        refuse=unseen_source,
    )


def _parameters(spread: float, widths: Widths) -> tuple[Parameter, ...]:
    m, wide = widths["shares"], max(spread, 2.0)
    return (
        Parameter("E", "score", "log", 1e-3, 1e2, (0.4, 0.98)),
        Parameter("a", "1", "log", 0.02, 5, (0.15, 1.0), (0.5, 1.5)),
        Parameter("b", "1", "log", 0.02, 5, (0.15, 1.0), (0.5, 1.5)),
        Parameter("q", "1", "identity", -3, 3, (0.0, 0.8), (0.3, 0.5)),
        Parameter("v", "S", "log", 1e-6, 1e6, (0.3, 3.0), (1.0, wide)),
        Parameter("e", "S", "log", 1e-9, 1e4, (0.02, 0.5), (0.1, wide)),
        *(Parameter(f"g[{j}]", "1", "log", 0.02, 3, (0.3, 1.0), (0.6, 0.7)) for j in range(m)),
        *(Parameter(f"w[{j}]", "S", "log", 1e-9, 1e6, (0.1, 3.0), (1.0, spread)) for j in range(m)),
    )


def _law(value: Floats, columns: Columns) -> tuple[Floats, Floats]:
    shares = columns["shares"]
    m = shares.shape[1]
    floor, a, b, q, v, e = (value[:, i, None] for i in range(FIRST))
    inner, weight = value[:, FIRST : FIRST + m], value[:, FIRST + m :]
    power, log_share = powers(shares, inner)
    level = weight**q
    summed, by_q = (_dot(power, x) for x in (level, level * np.log(weight)))
    amounts = _dot(power, weight), e + v * summed
    one, by_a, by_one = _part(amounts[0], a)
    two, by_b, by_two = _part(amounts[1], b)
    by_level = by_two * v
    # of both sums, by r_j^g_j
    by_power = by_one[:, :, None] * weight[:, None] + by_level[:, :, None] * level[:, None]
    by_weight = by_one[:, :, None] + (by_level * q)[:, :, None] * (level / weight)[:, None]
    by_v = by_two * summed
    own = np.stack([np.ones_like(one), by_a, by_b, by_level * by_q, by_v, by_two], axis=2)
    slope = np.concatenate([own, by_power * power * log_share, by_weight * power], axis=2)
    return floor + one + two, slope


def _dot(power: Floats, weight: Floats) -> Floats:
    """(B, n) sums over the sources of (B, n, m) powers times (B, m) weights."""
    return np.asarray(np.matmul(power, weight[:, :, None])[:, :, 0])


def _part(amount: Floats, outer: Floats) -> tuple[Floats, Floats, Floats]:
    """amount^-outer and its derivatives by outer and by amount, (B, n) each."""
    some = np.maximum(amount, TINY)
    log_amount = np.log(some)
    term = np.exp(np.clip(-outer * log_amount, -60.0, 60.0))
    return term, -term * log_amount, -outer * term / some


def _place(values: Floats, columns: Columns, score: Floats) -> Floats:
    """Half of the score above the floor to each part, w by non-negative least squares.

    E was drawn as a share of the smallest score; v and e so that four fifths of T come from the
    sources at the middle row.
    """
    shares = columns["shares"]
    m = shares.shape[1]
    out = values.copy()
    out[:, 0] *= score.min()
    half = 0.5 * np.maximum(score - out[:, :1], 0.02 * np.ptp(score))
    power, _ = powers(shares, out[:, FIRST : FIRST + m])
    for row in range(out.shape[0]):
        _, a, b, q = out[row, :4]
        amount = half[row] ** (-1.0 / a)
        heavy = a * half[row] / amount  # an error of S weighs as much as it moves the score
        best, _ = nnls(power[row] * heavy[:, None], heavy * amount)
        best = np.maximum(best, 1e-2 * max(float(best.max()), 1e-6))
        total = np.median(half[row]) ** (-1.0 / b)
        out[row, 4] = 0.8 * total / np.median(power[row] @ best**q)
        out[row, 5] = 0.2 * total
        out[row, FIRST + m :] = best
    return out
