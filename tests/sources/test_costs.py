"""Costs add up: over tiers, over chained sources, and a falling price is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from anneal.sources.tiers import affords, steps
from anneal.sources.values import Cost

PARTS = ["usd_fixed", "usd_per_token", "flops_fixed", "flops_per_token", "seconds_fixed"]


@st.composite
def costs(draw):
    prices = sorted(draw(st.lists(st.integers(0, 50), max_size=4)))
    tiers = tuple((float(draw(st.integers(1, 1000))), float(price)) for price in prices)
    return Cost(usd_tiers=tiers, **{name: float(draw(st.integers(0, 20))) for name in PARTS})


def test_usd_of_tiers_by_hand():
    cost = Cost(usd_fixed=3, usd_per_token=1, usd_tiers=((10, 0), (10, 2), (5, 4)))
    for tokens, usd in [(0, 3), (4, 7), (10, 13), (15, 28), (20, 43), (25, 68), (30, 93)]:
        assert cost.usd(tokens) == usd
    assert cost.usd(30, bought=False) == 0


@given(costs(), costs(), st.floats(0.1, 20), st.floats(0, 5000))
def test_costs_of_chained_sources_are_those_of_the_tokens_each_takes(own, other, ratio, unique):
    both = own.plus(other, ratio)
    assert both.usd(unique) == pytest.approx(own.usd(unique) + other.usd(unique * ratio))
    assert both.flops(unique) == pytest.approx(own.flops(unique) + other.flops(unique * ratio))
    assert both.seconds_fixed == own.seconds_fixed + other.seconds_fixed
    prices = [price for _, price in both.usd_tiers]
    assert prices == sorted(prices)


@given(costs(), st.floats(0, 1e5), st.integers(1, 3000), st.sampled_from([0.0, 0.5]))
def test_what_money_buys_costs_that_money(cost, money, exist, train):
    prices = steps(cost.usd_tiers, cost.usd_per_token)
    bought = affords(money, prices, exist=exist, train=train)
    if bought == float("inf"):
        assert train == 0
        assert cost.usd(exist) - cost.usd_fixed <= money * (1 + 1e-9)
        return
    spent = cost.usd(min(bought, exist)) - cost.usd_fixed + train * bought
    assert spent == pytest.approx(money, rel=1e-9, abs=1e-9)


BAD = {
    "falling": ([(5, 2.0), (5, 1.0)], "tier 2 at 1 USD a token is cheaper than tier 1 at 2"),
    "no tokens": ([(0, 1.0)], "greater than 0"),
    "below nothing": ([(5, -1.0)], "greater than or equal to 0"),
    "endless": ([(float("inf"), 1.0)], "finite"),
    "no price": ([(5,)], "Field required"),
}


@pytest.mark.parametrize("case", BAD)
def test_prices_that_are_none_are_refused(case):
    tiers, words = BAD[case]
    with pytest.raises(ValidationError, match=words):
        Cost(usd_tiers=tiers)
