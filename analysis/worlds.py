# %% [markdown]
# Simulated worlds: a truth that is known, and the runs that a sweep would make of it.
#
# A world has a few sources and a control (more replay, plentiful). A source's curve is one curve in
# effective tokens D, and two published families say what D and the curve are:
#
#     effective  L = E + (L0 - E) (1 + D / tau_i)^-e_i,  D = U + U R* (1 - exp(-(x/U - 1) / R*))
#                effective data (2305.16264, eq. 5), one R* for all, through the base L0
#     qqt        L = E + (D / s_i)^-e_i,  D = n_1 prod_k (n_(k+1) / n_k)^(0.5^(k / t_i))
#                the quality-quantity trade-off of Goyal et al. (METHODS 4.15), with the floor
#                outside the product: in epoch k + 1 the exponent has decayed by 0.5^(k / t_i), t_i
#                the source's own half-life in epochs; n_k the tokens after k epochs. The base lies
#                above every curve, and on none.
#
# `effective` is a form of `anneal.laws`. `qqt` is not: it repeats by another rule, with a half-life
# of its own for every source. It is what the laws cannot know.
#
# **Mixtures** are defined by the rule that `anneal.allocation.mixture` states: what a token does
# depends on the score that the model has, not on which source brought it there. So a regret
# measured here is that of the law, never that of the rule; the rule itself can only be checked by
# training. The integration is written here once more, with finer steps.
#
# **Planted crossovers**: `scarce` is better than `plenty` while its tokens are new, and its pool is
# chosen so that the curves at natural availability cross at a given budget: inside the ladder,
# beyond it (up to the real budget or the epochs cap, whichever comes first), or nowhere.

# %%
from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anneal.laws import Points

Floats = NDArray[np.float64]
Family = Literal["effective", "qqt"]
Place = Literal["inside", "beyond", "absent"]

LADDER = tuple(1e5 * 2.0**k for k in range(5))
"""Five budgets, 16x apart, source tokens."""
EPOCHS = 16.0
"""Repetition cap: no run and no purchase repeats a pool further."""
PLENTY = 1e12
"""Unique tokens of what never runs out."""
LABELS = ("scarce", "plenty", "middling", "poor", "replay only")
NOISE = 0.006
"""Relative SD of a run."""
FIRST = 1e-4
"""Share of a run at which a curve without a base is started (the rule of `allocation.mixture`)."""
STEPS = 200
"""Of the integration: a single source then meets its own curve to 1e-4 of score (tests)."""
MOST = 64
"""Epochs that the table of decayed exponents holds; further ones are worth what the last is."""


@dataclass(frozen=True, eq=False)
class World:
    """A truth.

    Args:
        family: which of the two.
        floor, base: scores.
        exponent, scale: (m,) e_i; tau_i or s_i, tokens.
        worth: (m,) R* (one value) or half-lives t_i, epochs.
        pool: (m,) unique tokens that exist.
        real: the real budget, source tokens.
        place: where the planted crossover of the first two sources lies.
        crossing: its budget, tokens; None where there is none.
    """

    family: Family
    floor: float
    base: float
    exponent: Floats
    scale: Floats
    worth: Floats
    pool: Floats
    real: float
    place: Place = "absent"
    crossing: float | None = None

    @property
    def span(self) -> float:
        """What the curve's power law multiplies."""
        return self.base - self.floor if self.family == "effective" else 1.0

    @property
    def caps(self) -> Floats:
        """(m,) most tokens trained."""
        return self.pool * EPOCHS

    @property
    def limit(self) -> float:
        """Largest budget at which the planted pair is compared."""
        return float(min(self.real, self.caps[0], self.caps[1]))

    def effective(self, group: ArrayLike, tokens: ArrayLike, unique: ArrayLike) -> Floats:
        """Effective tokens, broadcast over all three."""
        x, pool = np.asarray(tokens, dtype=np.float64), np.asarray(unique, dtype=np.float64)
        worth = self.worth[np.asarray(group)]
        again = np.maximum(x / pool - 1.0, 0.0)
        if self.family == "effective":
            return np.minimum(x, pool) + pool * worth * -np.expm1(-again / worth)
        k = np.clip(np.floor(x / pool), 1, MOST).astype(np.int64)
        # log of the factor by which k full epochs have grown D over the first one
        epoch = np.arange(1, MOST)
        decay = 0.5 ** (epoch / self.worth[:, None])
        grown = np.cumsum(decay * np.log((epoch + 1) / epoch), axis=1)
        grown = np.concatenate([np.zeros((self.worth.size, 1)), grown], axis=1)
        part = 0.5 ** (k / worth) * np.log(np.maximum(x / (k * pool), 1.0))
        return np.minimum(x, pool) * np.exp(grown[np.asarray(group), k - 1] + part)

    def score(self, group: ArrayLike, tokens: ArrayLike, unique: ArrayLike = PLENTY) -> Floats:
        """Scores without noise of runs on one source, broadcast over all three."""
        code = np.asarray(group)
        depth = self.effective(code, tokens, unique) / self.scale[code]
        reach = 1.0 + depth if self.family == "effective" else depth
        return np.asarray(self.floor + self.span * reach ** -self.exponent[code])

    def mixture(self, tokens: Floats) -> Floats:
        """(c,) scores of purchases (c, m) out of the pools that exist; the rule above."""
        total = tokens.sum(axis=1, keepdims=True)
        m = np.arange(tokens.shape[1])
        knots = np.geomspace(FIRST, 1.0, STEPS + 1)
        if self.family == "effective":
            knots = np.concatenate([[0.0], knots])
            above = np.zeros(tokens.shape[0])  # log of (L - E) / span
        else:
            own = -self.exponent * np.log(FIRST * total / self.scale)
            above = (own * tokens / total).sum(axis=1)
        before = self._gained(m, tokens * knots[0])
        for knot in knots[1:]:
            after = self._gained(m, tokens * knot)
            # where on its own curve each source would be at this score; midpoint rule
            force = self._force(above, after - before)
            force = self._force(above - 0.5 * force, after - before)
            above, before = above - force, after
        return np.asarray(self.floor + self.span * np.exp(above))

    def _gained(self, m: NDArray[np.int64], tokens: Floats) -> Floats:
        return self.effective(m[None, :], tokens, self.pool[None, :])

    def _force(self, above: Floats, gained: Floats) -> Floats:
        reach = self.scale * np.exp(-above[:, None] / self.exponent)
        return np.asarray((self.exponent * gained / reach).sum(axis=1))


def world(
    rng: np.random.Generator, family: Family, place: Place, *, extrapolation: float = 16.0
) -> World:
    """Draw a world until it has what is asked: the crossover where it should be, and clear.

    "Clear" means that either curve leads by two run SDs somewhere before and somewhere after the
    crossing; without a crossing one leads by two run SDs all along. A crossing within the noise
    would be a tie, and no table could tell.

    Args:
        extrapolation: the real budget over the largest of the ladder.
    """
    low, top = LADDER[0], LADDER[-1]
    for _ in range(2000):
        drawn = _draw(rng, family, top * extrapolation)
        if place == "absent":
            pool = float(np.exp(rng.uniform(np.log(2 * low), np.log(4 * drawn.real))))
            found = _with_pool(drawn, pool)
            gap = _gap(found)
            if np.ptp(np.sign(gap)) == 0 and np.abs(gap).min() >= 2 * NOISE * found.floor:
                return replace(found, place=place)
            continue
        edges = (1.5 * low, top / 1.5) if place == "inside" else (2 * top, 0.7 * drawn.real)
        at = float(np.exp(rng.uniform(*np.log(edges))))
        planted = _planted(drawn, at)
        if planted is None:
            continue
        gap, clear = _gap(planted), 2 * NOISE * planted.floor
        turns = np.flatnonzero(np.diff(np.sign(gap)) != 0)
        if turns.size == 1 and gap.min() <= -clear and gap.max() >= clear:
            return replace(planted, place=place, crossing=at)
    raise RuntimeError(f"no {family} world with a crossover {place} in 2000 draws")


def runs(truth: World, rng: np.random.Generator, *, noise: float = NOISE, seeds: int = 3) -> Points:
    """The runs that `anneal.plan` lays out: matched pools at every budget with `seeds` in the
    middle, natural pools at the middle and the top where they differ, the control likewise.

    Matched: pool x budget / real budget, but no smaller than the cap's epochs allow.
    """
    middle = len(LADDER) // 2
    rows: list[tuple[int, float, float, int]] = []
    for group, pool in enumerate(truth.pool):
        for index, x in enumerate(LADDER):
            scaled = max(pool * x / truth.real, x / EPOCHS)
            matched = pool if scaled >= min(x, pool) else scaled
            rows += [(group, x, matched, s) for s in range(seeds if index == middle else 1)]
            within = x <= pool * EPOCHS
            if matched < pool and within and index in (middle, len(LADDER) - 1):
                rows.append((group, x, pool, 0))
    group, tokens, unique, seed = (np.array(column) for column in zip(*rows, strict=True))
    clean = truth.score(group, tokens, unique)
    score = clean * np.exp(noise * rng.standard_normal(group.size))
    return Points(LABELS, group, tokens, unique, score, seed, anchor=truth.base)


def asked(truth: World, tokens: float) -> Floats:
    """(m,) pools of runs that repeat as the real budget does, for curves at `tokens`."""
    return np.maximum(truth.pool * min(1.0, tokens / truth.real), tokens / EPOCHS)


def oracle(truth: World) -> tuple[Floats, float]:
    """The best purchase (m,) of the real budget and its score: a dense search on the truth.

    All mixtures in sixteenths within the caps, then exchanges between pairs down to 1/1024 of the
    budget from the five best of them.
    """
    m = truth.pool.size
    grid = _simplex(m, 16) * truth.real
    grid = grid[(grid <= truth.caps).all(axis=1)]
    scores = truth.mixture(grid)
    best: tuple[Floats, float] = (grid[0], float("inf"))
    giver, taker = np.nonzero(~np.eye(m, dtype=bool))
    for start in np.argsort(scores)[:5]:
        here, value = grid[start], float(scores[start])
        step = truth.real / 32
        while step >= truth.real / 1024:
            near = np.tile(here, (giver.size, 1))
            part = np.minimum(step, near[np.arange(giver.size), giver])
            near[np.arange(giver.size), giver] -= part
            near[np.arange(giver.size), taker] += part
            near = near[(near <= truth.caps).all(axis=1)]
            tried = truth.mixture(near)
            if tried.min() < value - 1e-9:
                here, value = near[int(tried.argmin())], float(tried.min())
            else:
                step /= 2
        if value < best[1]:
            best = (here, value)
    return best


def _draw(rng: np.random.Generator, family: Family, real: float) -> World:
    """Curves, with the scarce source good, the poor one bad and the control worst."""
    m = len(LABELS)
    floor = float(rng.uniform(1.0, 1.8))
    exponent = np.exp(rng.normal(np.log(0.35), 0.2, m))
    middle = LADDER[2]
    # score above the floor at the middle budget, as a share of what there is to gain
    good = np.array([0.42, 0.50, 0.50, 0.60, 0.70]) * np.exp(rng.normal(0.0, 0.06, m))
    worth = np.full(m, np.exp(rng.normal(np.log(10.0), 0.5)))
    span = float(rng.uniform(1.0, 2.0))
    scale = middle / (good ** (-1 / exponent) - 1)
    base = floor + span
    if family == "qqt":
        worth = np.concatenate([[rng.uniform(1.5, 5.0)], rng.uniform(2.0, 8.0, m - 1)])
        scale = middle * (span * good) ** (1 / exponent)
        base = floor + float(((LADDER[0] / 20 / scale) ** -exponent).mean())
    pool = np.full(m, PLENTY)
    pool[2] = np.exp(rng.uniform(np.log(real / 12), np.log(real)))
    return World(family, floor, base, exponent, scale, worth, pool, real)


def _with_pool(drawn: World, pool: float) -> World:
    return replace(drawn, pool=np.concatenate([[pool], drawn.pool[1:]]))


def _gap(truth: World) -> Floats:
    """(200,) scarce minus plenty at natural availability, from the ladder's foot to the limit."""
    x = np.geomspace(LADDER[0], truth.limit, 200)
    return truth.score(0, x, truth.pool[0]) - truth.score(1, x, truth.pool[1])


def _planted(drawn: World, at: float) -> World | None:
    """The pool with which the curves of the first two meet at `at`, within the cap's epochs."""

    def gap(pool: float) -> float:
        return float(drawn.score(0, at, pool) - drawn.score(1, at))

    low, high = np.log(at / EPOCHS), np.log(at)
    if gap(np.exp(high)) >= 0 or gap(np.exp(low)) <= 0:
        return None
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if gap(np.exp(middle)) > 0 else (low, middle)
    return _with_pool(drawn, float(np.exp(0.5 * (low + high))))


def _simplex(m: int, parts: int) -> Floats:
    """All shares of m members in whole parts, (c, m)."""
    bars = np.array(list(combinations(range(parts + m - 1), m - 1)))
    edges = np.concatenate(
        [np.full((len(bars), 1), -1), bars, np.full((len(bars), 1), parts + m - 1)], axis=1
    )
    return np.asarray((np.diff(edges, axis=1) - 1) / parts)
