"""A rising price: what one more token costs depends on how many are bought already.

The first tokens of a source are often cheap and the next ones dearer: pages that are clean as they
are, then scans to correct; what volunteers wrote, then what must be commissioned. A price is then a
list of tiers, (tokens, USD per token) each, cheapest first, and what is paid for u unique tokens is
convex and piecewise linear in u. A falling price, a discount for volume, is refused: it would have
to be bought from the dear end, which no order of cheap tokens first describes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator, Field

Tier = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(ge=0)]]
"""How many tokens, and USD for each of them."""


def rising(tiers: tuple[Tier, ...]) -> tuple[Tier, ...]:
    """The same tiers.

    Raises:
        ValueError: a tier that is cheaper than the one before.
    """
    for number, ((_, before), (_, after)) in enumerate(pairwise(tiers), 1):
        if after < before:
            raise ValueError(
                f"usd_tiers must rise: tier {number + 1} at {after:g} USD a token is cheaper than "
                f"tier {number} at {before:g}"
            )
    return tiers


Tiers = Annotated[tuple[Tier, ...], AfterValidator(rising)]


def steps(tiers: tuple[Tier, ...], each: float = 0.0) -> tuple[Tier, ...]:
    """Tiers with `each` USD a token added to all, the last without end; one step without tiers."""
    last = tiers[-1][1] if tiers else 0.0
    return (*((tokens, price + each) for tokens, price in tiers[:-1]), (float("inf"), last + each))


def tiers_usd(tiers: tuple[Tier, ...], unique: float) -> float:
    """USD for `unique` tokens, the cheapest first."""
    paid, left = 0.0, unique
    for tokens, price in steps(tiers):
        part = min(left, tokens)
        paid, left = paid + part * price, left - part
    return paid


def affords(money: float, prices: tuple[Tier, ...], *, exist: float, train: float) -> float:
    """Tokens that money buys: each is trained on, and paid for while it is a new one.

    Args:
        money: left for it, in any unit.
        prices: steps of the price of new tokens, the last without end.
        exist: new tokens there are; beyond them they are repeated.
        train: price of training on one; infinitely many are bought where all is free.
    """
    bought, left = 0.0, max(0.0, money)
    for tokens, price in prices:
        part, each = min(tokens, exist - bought), price + train
        if part * each > left:
            return bought + left / each
        bought, left = bought + part, left - part * each
    return bought + left / train if train else float("inf")


def add_tiers(one: tuple[Tier, ...], other: tuple[Tier, ...]) -> tuple[Tier, ...]:
    """What both charge for the same tokens together."""
    if not one or not other:
        return one or other
    out: list[Tier] = []
    mine, theirs = list(steps(one)), list(steps(other))
    while mine and theirs:
        tokens = min(mine[0][0], theirs[0][0])
        out.append((tokens, mine[0][1] + theirs[0][1]))
        for left in (mine, theirs):
            whole, each = left.pop(0)
            if whole > tokens:
                left.insert(0, (whole - tokens, each))
    # the last goes on for ever: written as a tier its tokens are any number
    return (*out[:-1], (1.0, out[-1][1]))
