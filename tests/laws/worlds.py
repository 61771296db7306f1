"""Planted worlds for tests: curves written here once more, independently of the package."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anneal.laws import Points

BUDGETS = (5e4, 1e5, 2e5, 4e5, 8e5)
PLENTY = 1e12


@dataclass(frozen=True)
class World:
    """L = floor + (base - floor) (1 + D / scale)^-exponent, with effective data D."""

    floor: float
    base: float
    exponent: np.ndarray
    scale: np.ndarray
    r_star: float = 1e9

    def score(self, group, tokens, unique=PLENTY):
        group = np.asarray(group)
        tokens = np.asarray(tokens, float)
        unique = np.broadcast_to(np.asarray(unique, float), tokens.shape)
        again = np.maximum(tokens - unique, 0) / unique
        first = np.minimum(tokens, unique)
        d = first + unique * self.r_star * -np.expm1(-again / self.r_star)
        reach = 1 + d / self.scale[group]
        return self.floor + (self.base - self.floor) * reach ** -self.exponent[group]


def random_world(rng, *, groups=6, exponent=0.35, spread=0.25, r_star=1e9) -> World:
    floor = rng.uniform(1.2, 2.0)
    return World(
        floor=floor,
        base=floor + rng.uniform(1.2, 2.2),
        exponent=np.exp(rng.normal(np.log(exponent), spread, groups)),
        scale=np.exp(rng.normal(np.log(2e4), 0.6, groups)),
        r_star=r_star,
    )


def measured(world, rng, *, noise=0.006, budgets=BUDGETS, pools=None, seeds=3, matched=None):
    """A table: one run a budget, `seeds` at the middle one.

    pools: unique tokens per group; matched: epochs at which every budget is run once more.
    """
    m = world.exponent.size
    pools = np.full(m, PLENTY) if pools is None else np.asarray(pools, float)
    rows = []
    for g in range(m):
        for k, x in enumerate(budgets):
            rows += [(g, x, pools[g], s) for s in range(seeds if k == len(budgets) // 2 else 1)]
            if matched is not None and pools[g] < PLENTY:
                rows.append((g, x, x / matched, 0))
    g, x, u, s = (np.array(c) for c in zip(*rows, strict=True))
    y = world.score(g, x, u) * np.exp(noise * rng.standard_normal(x.size))
    return Points(tuple("abcdefgh"[:m]), g, x, u, y, s, anchor=world.base)
