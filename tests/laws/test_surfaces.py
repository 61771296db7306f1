"""Surfaces: derivatives, recovery, named outcomes, bootstraps, against published fits."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anneal.errors import LawError
from anneal.laws.catalogue import SURFACES
from anneal.laws.engine import minimise
from anneal.laws.schedule_laws import annealing_areas, annealing_drops
from anneal.laws.surface_draws import bootstrap_surface, extrapolation, predict_surface
from anneal.laws.surface_fits import SurfaceFit, fit_surface
from anneal.laws.surfaces import Columns

RUNS = Path(__file__).parents[2] / "../shared/runs"


def schedules() -> list[np.ndarray]:
    """Three schedules of 400 steps: constant then linear to 0.1, cosine, two steps down."""
    step = np.arange(400)
    constant = np.where(step < 300, 1.0, 1.0 - 0.9 * (step - 300) / 100)
    cosine = 0.1 + 0.45 * (1.0 + np.cos(np.pi * step / 400))
    two = np.where(step < 150, 1.0, np.where(step < 300, 0.5, 0.15))
    return [3e-4 * constant, 3e-4 * cosine, 3e-4 * two]


def table(name: str, rng: np.random.Generator, rows: int = 60) -> Columns:
    """Columns that determine the surface `name`."""
    columns = {
        "n_params": np.exp(rng.uniform(np.log(2e7), np.log(5e9), rows)),
        "u_tokens": np.exp(rng.uniform(np.log(5e7), np.log(1e10), rows)),
        "loss": rng.uniform(2.0, 4.5, rows),
        "s1": np.exp(rng.uniform(np.log(0.5), np.log(200.0), rows)),
        "s2": rng.uniform(0.0, 900.0, rows),
    }
    columns["d_tokens"] = columns["u_tokens"] * np.exp(rng.uniform(-1.0, np.log(40.0), rows))
    columns["flops"] = 6.0 * columns["n_params"] * columns["d_tokens"]
    columns["tokens_per_param"] = columns["d_tokens"] / columns["n_params"]
    at = np.linspace(20, 400, 20).astype(int)
    if name == "tissue":
        parts = [annealing_areas(s, at) for s in schedules()]
    elif name == "multi_power":
        parts = [annealing_drops(s, at, nodes=32) for s in schedules()]
    else:
        return {c.name: columns[c.name] for c in SURFACES[name].inputs}
    return {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}


TRUTH: dict[str, tuple[float, ...]] = {
    "power_compute": (1.8, 200.0, 0.12),
    "pure_power_compute": (60.0, 0.07),
    "power_tokens": (2.0, 400.0, 0.3),
    "pure_power_tokens": (30.0, 0.1),
    "shifted_tokens": (2.0, 3.0, 8e8, 0.5),
    "bounded_tokens": (1.8, 8.0, 2000.0, 0.4),
    "chinchilla": (1.8, 480.0, 2085.0, 0.35, 0.37),
    "overtraining": (1.7, 60.0, 90.0, 0.12),
    "bounded": (1.7, 10.5, 200.0, 300.0, 0.35, 0.33),
    "bounded_repeats": (1.7, 10.5, 200.0, 300.0, 0.35, 0.33, 0.05, 0.4, 0.5),
    "effective_data": (1.8, 480.0, 2085.0, 0.35, 0.37, 8.0),
    "datablations": (1.87, 520.0, 1488.0, 0.35, 0.36, 15.0, 5.0),
    "qqt": (1.8, 400.0, 0.3, 4.0),
    "tissue": (2.4, 0.3, 0.5, 9.0),
    "multi_power": (2.4, 0.3, 0.5, 600.0, 1.5, 0.6, 0.5),
    "annealed_effective": (1.8, 480.0, 1.3, 0.35, 0.5, 3e-4, 8.0),
    "annealed_overfit": (1.8, 480.0, 1.3, 0.35, 0.5, 3e-4, 0.01, 0.6, 1.0),
    "sigmoid": (0.25, 0.9, 3.0, 3.2),
    "exponential": (0.85, 3.0, 0.9),
    "shifted_power": (1.0, 1.2, 1.6, 1.1),
}
NOT_TO_PARTS_IN_THOUSAND = {"bounded_repeats", "datablations", "multi_power"}
"""Weakly identified even without noise: the curve is what is recovered."""


def planted(name: str, rng: np.random.Generator, rows: int = 60) -> tuple[Columns, np.ndarray]:
    columns = table(name, rng, rows)
    surface = SURFACES[name]
    score, _ = surface.law(np.array([TRUTH[name]]), columns)
    return columns, score[0]


def test_every_surface_has_a_planted_truth() -> None:
    assert set(TRUTH) <= set(SURFACES)


@pytest.mark.parametrize("name", TRUTH)
def test_derivatives_are_exact(name: str) -> None:
    rng = np.random.default_rng(3)
    columns = table(name, rng, 25)
    surface = SURFACES[name]
    theta = surface.free(TRUTH[name], columns) + 0.05 * rng.standard_normal((3, len(TRUTH[name])))
    score, slope = surface.evaluate(theta, columns)
    assert slope.shape == (*score.shape, theta.shape[1])
    for p in range(theta.shape[1]):
        step = np.zeros_like(theta)
        step[:, p] = 1e-5
        up, _ = surface.evaluate(theta + step, columns)
        down, _ = surface.evaluate(theta - step, columns)
        np.testing.assert_allclose(slope[:, :, p], (up - down) / 2e-5, rtol=2e-5, atol=2e-8)


@pytest.mark.parametrize("name", TRUTH)
def test_planted_parameters_come_back(name: str) -> None:
    columns, score = planted(name, np.random.default_rng(5))
    plain = name in ("sigmoid", "exponential")
    fit = fit_surface(
        SURFACES[name],
        columns,
        score,
        rng=np.random.default_rng(6),
        starts=32,
        residual="plain" if plain else "log",
    )
    assert fit.outcome == "ok", fit.message
    assert fit.agreeing >= 1
    np.testing.assert_allclose(fit.curve(columns), score, rtol=2e-4)
    if name not in NOT_TO_PARTS_IN_THOUSAND:
        found = [fit.parameters[n] for n in SURFACES[name].names(columns)]
        np.testing.assert_allclose(found, TRUTH[name], rtol=5e-3)


def test_over_fitting_asks_for_three_sizes_a_falling_rate_and_repeats() -> None:
    columns, score = planted("annealed_overfit", np.random.default_rng(7))
    surface = SURFACES["annealed_overfit"]
    for change, says in (
        ({"n_params": np.where(columns["n_params"] > 3e8, 1e9, 1e8)}, "three sizes"),
        ({"s2": np.zeros_like(score)}, "never falls"),
        ({"u_tokens": columns["d_tokens"]}, "no run sees its pool twice"),
    ):
        fit = fit_surface(surface, {**columns, **change}, score, rng=np.random.default_rng(8))
        assert fit.outcome == "underdetermined"
        assert says in fit.message
    # on new text it is the law of a schedule over sizes, and every epoch more costs
    value = np.array([TRUTH["annealed_overfit"]])
    at = {n: np.repeat(x[:1], 4) for n, x in columns.items()}
    at["u_tokens"] = at["d_tokens"] / np.array([0.5, 1.0, 4.0, 44.0])
    once, again, four, many = surface.law(value, at)[0][0]
    assert once == again < four < many


def chinchilla_runs() -> tuple[Columns, np.ndarray]:
    path = RUNS / "chinchilla_epoch/runs.csv"
    if not path.exists():
        pytest.skip("published runs are not on this machine")
    with path.open() as file:
        rows = [r for r in csv.DictReader(file) if r["used_in_published_fit"] == "True"]
    columns = {n: np.array([float(r[n]) for r in rows]) for n in ("n_params", "d_tokens")}
    return columns, np.array([float(r["loss"]) for r in rows])


def test_the_published_chinchilla_refit() -> None:
    """2404.10102's notebook: same minimum, to all printed digits; errors of 4000 pairs draws."""
    columns, score = chinchilla_runs()
    fit = fit_surface(SURFACES["chinchilla"], columns, score, rng=np.random.default_rng(0))
    assert fit.value == pytest.approx(0.00101827403, rel=1e-6)
    wanted = {"E": 1.81724, "A": 477.84, "B": 2143.86, "alpha": 0.34731, "beta": 0.36718}
    for name, value in wanted.items():
        assert fit.parameters[name] == pytest.approx(value, rel=5e-4), name
    assert fit.agreeing > fit.starts // 2
    draws = bootstrap_surface(fit, columns, score, draws=400, rng=np.random.default_rng(1))
    errors = {n: float(v.std()) for n, v in draws.parameters().items()}
    for name, published in (("E", 0.02566), ("alpha", 0.0154), ("beta", 0.0206)):
        assert errors[name] == pytest.approx(published, rel=0.2), name


def test_one_ratio_of_tokens_to_parameters_is_underdetermined() -> None:
    size = np.geomspace(1e7, 1e10, 12)
    columns = {"n_params": size, "d_tokens": 20.0 * size}
    fit = fit_surface(SURFACES["chinchilla"], columns, 2.0 + 1e9 / size, rng=rng0())
    assert (fit.outcome, fit.usable) == ("underdetermined", False)
    assert "one line" in fit.message
    with pytest.raises(LawError, match="cannot predict"):
        fit.curve(columns)


def test_as_many_rows_as_parameters_is_underdetermined() -> None:
    columns, score = planted("power_tokens", rng0(), rows=3)
    fit = fit_surface(SURFACES["power_tokens"], columns, score, rng=rng0())
    assert fit.outcome == "underdetermined"
    assert "3 distinct rows cannot carry 3 parameters" in fit.message


def test_parameters_that_no_column_parts_are_named() -> None:
    """One size of model: the floor and the size term are one number."""
    tokens = np.geomspace(1e8, 1e11, 20)
    columns = {"flops": 6e9 * tokens, "tokens_per_param": np.full(20, 20.0)}
    fit = fit_surface(SURFACES["overtraining"], columns, 2 + tokens**-0.1, rng=rng0())
    assert fit.outcome == "underdetermined"
    assert "power_compute" in fit.message
    unguarded = replace(SURFACES["overtraining"], refuse=lambda _: "")
    fit = fit_surface(unguarded, columns, 2 + tokens**-0.1, rng=rng0())
    assert fit.outcome == "underdetermined"
    assert "a, b" in fit.message


def test_equal_scores_and_unrepeated_pools_are_named() -> None:
    columns, score = planted("power_tokens", rng0(), rows=9)
    fit = fit_surface(SURFACES["power_tokens"], columns, np.full(9, 2.5), rng=rng0())
    assert (fit.outcome, fit.message) == ("constant", "all 9 scores are 2.5")
    columns, score = planted("qqt", rng0(), rows=9)
    once = {**columns, "u_tokens": columns["d_tokens"]}
    fit = fit_surface(SURFACES["qqt"], once, score, rng=rng0())
    assert fit.outcome == "underdetermined"
    assert "no run sees its pool twice" in fit.message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_tokens": None}, "column `d_tokens`: missing"),
        ({"d_tokens": np.ones((9, 2))}, r"\(n,\) asked, got \(9, 2\)"),
        ({"d_tokens": np.full(9, np.nan)}, "row 0: must be finite and positive, got nan"),
        ({"d_tokens": np.ones(4)}, "columns must be equally long"),
    ],
)
def test_bad_columns_are_one_clear_error(change: dict[str, object], message: str) -> None:
    columns, score = planted("chinchilla", rng0(), rows=9)
    given = {k: v for k, v in {**columns, **change}.items() if v is not None}
    with pytest.raises(LawError, match=message):
        fit_surface(SURFACES["chinchilla"], given, score, rng=rng0())  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [np.nan, -1.0, np.inf])
def test_bad_scores_are_one_clear_error(bad: float) -> None:
    columns, score = planted("power_tokens", rng0(), rows=9)
    score[4] = bad
    with pytest.raises(LawError, match="row 4: score must be a positive number"):
        fit_surface(SURFACES["power_tokens"], columns, score, rng=rng0())


def rng0() -> np.random.Generator:
    return np.random.default_rng(0)


def noisy_fit(sd: float, seed: int, rows: int = 40) -> tuple[SurfaceFit, Columns, np.ndarray]:
    rng = np.random.default_rng(seed)
    columns, score = planted("power_tokens", rng, rows)
    score = score * np.exp(sd * rng.standard_normal(score.size))
    return fit_surface(SURFACES["power_tokens"], columns, score, rng=rng, starts=6), columns, score


@pytest.mark.parametrize("method", ["pairs", "residual", "wild"])
def test_intervals_cover_the_truth(method: str) -> None:
    """25 worlds x 3 places, 90% intervals of the curve and of a run; SD of the share about 5%."""
    inside, own = [], []
    for seed in range(25):
        fit, columns, score = noisy_fit(0.01, seed)
        rng = np.random.default_rng(seed)
        draws = bootstrap_surface(fit, columns, score, draws=100, rng=rng, method=method, starts=1)  # type: ignore[arg-type]
        at = {"d_tokens": np.array([1e8, 3e9, 6e11])}
        truth = SURFACES["power_tokens"].law(np.array([TRUTH["power_tokens"]]), at)[0][0]
        seen = predict_surface(draws, at, rng=rng)
        inside.append((seen.low <= truth) & (truth <= seen.high))
        run = truth * np.exp(0.01 * rng.standard_normal(3))
        own.append((seen.run_low <= run) & (run <= seen.run_high))
    assert 0.78 <= np.mean(inside) <= 0.99
    assert 0.78 <= np.mean(own) <= 0.99


def test_rows_of_one_run_count_once() -> None:
    """Every row ten times: by rows the errors shrink, by runs they do not."""
    fit, columns, score = noisy_fit(0.01, 1)
    many = {"d_tokens": np.repeat(columns["d_tokens"], 10)}
    again = np.repeat(score, 10)
    fit10 = fit_surface(SURFACES["power_tokens"], many, again, rng=rng0(), starts=12)
    runs = np.repeat(np.arange(score.size), 10)

    def error(f: SurfaceFit, c: Columns, y: np.ndarray, cluster: np.ndarray | None) -> float:
        d = bootstrap_surface(f, c, y, draws=300, rng=rng0(), cluster=cluster, starts=1)
        return float(np.log(d.parameters()["alpha"]).std())

    one = error(fit, columns, score, None)
    assert error(fit10, many, again, runs) == pytest.approx(one, rel=0.15)
    assert error(fit10, many, again, None) < 0.6 * one


def test_draws_are_the_minima_of_their_tables() -> None:
    """One draw refitted by itself, from many starts, is no better."""
    fit, columns, score = noisy_fit(0.01, 2)
    rng = np.random.default_rng(9)
    draws = bootstrap_surface(fit, columns, score, draws=20, rng=rng, tolerance=1e-9)
    rng = np.random.default_rng(9)
    rng.chisquare(max(fit.degrees, 2.0), 20)
    times = rng.multinomial(40, np.full(40, 1 / 40), size=20)
    for row in range(3):
        own = fit_surface(
            SURFACES["power_tokens"], columns, score, rng=rng, starts=24, weights=times[row]
        )
        ours = SURFACES["power_tokens"].evaluate(draws.thetas[[row]], columns)[0][0]
        np.testing.assert_allclose(ours, own.curve(columns), rtol=1e-4)


def test_extrapolation_is_a_factor_beyond_the_table() -> None:
    fit, columns, _ = noisy_fit(0.01, 3)
    largest, smallest = columns["d_tokens"].max(), columns["d_tokens"].min()
    at = {"d_tokens": np.array([largest * 4, smallest / 3, np.sqrt(largest * smallest)])}
    np.testing.assert_allclose(extrapolation(fit, at)["d_tokens"], [4.0, 3.0, 1.0])


def test_too_few_runs_have_no_intervals() -> None:
    fit, columns, score = noisy_fit(0.01, 4)
    with pytest.raises(LawError, match="3 runs, intervals need 4"):
        bootstrap_surface(
            fit, columns, score, draws=10, rng=rng0(), cluster=np.arange(score.size) % 3
        )


def test_the_engine_takes_weights_by_fit_and_plain_residuals() -> None:
    """Weighted least squares of a line, against its closed form."""
    rng = rng0()
    x, y = rng.standard_normal(30), rng.standard_normal(30)
    weights = rng.uniform(0.2, 3.0, (5, 30))
    design = np.column_stack([np.ones(30), x])

    def line(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return theta @ design.T, np.broadcast_to(design, (theta.shape[0], 30, 2))

    found = minimise(
        line,
        np.zeros((5, 2)),
        y[None, :],
        weights=weights,
        information=1.0,
        delta=1e3,
        centre=np.zeros((1, 2)),
        precision=np.zeros((2, 2)),
        low=np.full(2, -10.0),
        high=np.full(2, 10.0),
        tolerance=1e-12,
        plain=True,
    )
    for row, w in enumerate(weights):
        exact = np.linalg.solve((design.T * w) @ design, (design.T * w) @ y)
        np.testing.assert_allclose(found.theta[row], exact, atol=1e-6)


def test_gathered_drops_are_close_to_every_drop() -> None:
    """256 groups of a cosine's 4000 drops give the loss of all 4000 to 1e-4."""
    step = np.arange(4000)
    rate = 3e-4 * (0.1 + 0.45 * (1.0 + np.cos(np.pi * step / 4000)))
    law = SURFACES["multi_power"].law
    value = np.array([TRUTH["multi_power"]])
    full = law(value, annealing_drops(rate, [1000, 4000], nodes=4000))[0]
    few = law(value, annealing_drops(rate, [1000, 4000], nodes=256))[0]
    np.testing.assert_allclose(few, full, rtol=1e-4)


def test_annealing_areas_by_hand() -> None:
    """Rates 1, 1, 0.5 with lambda 0.5: momenta 0, 0, 0.5; then 0.25 + 0.5 for a drop to 0."""
    areas = annealing_areas([1.0, 1.0, 0.5, 0.0], [1, 2, 3, 4], forgetting=0.5)
    np.testing.assert_allclose(areas["s1"], [1.0, 2.0, 2.5, 2.5])
    np.testing.assert_allclose(areas["s2"], [0.0, 0.0, 0.5, 1.25])
    with pytest.raises(LawError, match="points must be steps 1 to 4"):
        annealing_areas([1.0, 1.0, 0.5, 0.0], [5])
    with pytest.raises(LawError, match=r"step 2: -1\.0"):
        annealing_drops([1.0, -1.0], [1])
