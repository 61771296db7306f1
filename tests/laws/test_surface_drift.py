"""Drift: what a law of the wrong shape does beyond its data, and what a right one does not."""

from __future__ import annotations

import numpy as np
import pytest

from anneal.errors import LawError
from anneal.laws.catalogue import SURFACES
from anneal.laws.surface_drift import measure_drift

TOKENS = np.geomspace(1e7, 1e10, 40)


def score(shape: str, rng: np.random.Generator, at: np.ndarray) -> np.ndarray:
    """A power law with a floor, or one whose slope falls off: log-quadratic."""
    x = np.log(at / 1e7)
    curve = 2.0 + 3.0 * np.exp(-0.3 * x) if shape == "right" else 5.0 * np.exp(-0.12 * x)
    if shape == "wrong":
        curve = curve * np.exp(0.008 * x**2)
    return np.asarray(curve * np.exp(0.003 * rng.standard_normal(at.size)))


def drift(shape: str, seed: int) -> float:
    rng = np.random.default_rng(seed)
    y = score(shape, rng, TOKENS)
    # without a floor the falling slope is the wrong shape
    name = "power_tokens" if shape == "right" else "pure_power_tokens"
    table = {"d_tokens": TOKENS}
    return measure_drift(SURFACES[name], table, y, by=("d_tokens",), rng=rng, draws=60).sd


def test_a_wrong_shape_drifts_and_a_right_one_hardly() -> None:
    right, wrong = (np.mean([drift(s, i) for i in range(4)]) for s in ("right", "wrong"))
    assert right < 0.003
    assert wrong > 4 * right


def test_intervals_widen_with_the_reach_only() -> None:
    rng = np.random.default_rng(0)
    y = score("wrong", rng, TOKENS)
    table = {"d_tokens": TOKENS}
    found = measure_drift(SURFACES["pure_power_tokens"], table, y, by=("d_tokens",), rng=rng)
    at = {"d_tokens": np.array([1e8, 1e10 * np.e, 1e10 * np.e**2])}
    np.testing.assert_allclose(found.reach(at), [0.0, 1.0, 2.0], atol=1e-9)
    spread = np.log(found.apply(np.ones((4000, 3)), at, rng=rng)).std(axis=0)
    assert spread[0] == 0.0
    assert spread[2] == pytest.approx(2 * spread[1])
    assert spread[1] > found.sd


def test_what_few_origins_cannot_rule_out_is_added() -> None:
    y = score("right", np.random.default_rng(0), TOKENS)
    table, law = {"d_tokens": TOKENS}, SURFACES["power_tokens"]

    def measured(prior: float, shares: tuple[float, ...]) -> float:
        rng = np.random.default_rng(1)
        return measure_drift(
            *(law, table, y), by=("d_tokens",), rng=rng, draws=60, prior=prior, shares=shares
        ).sd

    none, one, two = (measured(prior, (0.5, 0.65, 0.8)) ** 2 for prior in (0.0, 1.0, 2.0))
    assert two - none == pytest.approx(4 * (one - none))
    assert one - none == pytest.approx(0.003**2 / 4, rel=0.5)  # its noise is 0.003
    few = measured(1.0, (0.8,)) ** 2 - measured(0.0, (0.8,)) ** 2
    assert few == pytest.approx(2 * (one - none))


def test_a_table_that_is_too_small_is_one_clear_error() -> None:
    table = {"d_tokens": TOKENS[:4]}
    y = score("right", np.random.default_rng(1), TOKENS[:4])
    with pytest.raises(LawError, match="drift cannot be measured"):
        measure_drift(
            *(SURFACES["power_tokens"], table, y), by=("d_tokens",), rng=np.random.default_rng(1)
        )
    with pytest.raises(LawError, match="no column flops"):
        measure_drift(
            *(SURFACES["power_tokens"], table, y), by=("flops",), rng=np.random.default_rng(1)
        )
