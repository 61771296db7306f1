# %% [markdown]
# The 4000-draw bootstrap of Chinchilla's law (240 runs, 5 parameters) against a loop over scipy.
#
#     python -m analysis.bench_surfaces [DRAWS]
#
# The loop is what papers do: for every draw `scipy.optimize.minimize` (BFGS, log-sum-exp objective
# of 2203.15556, section 3.3, with its exact gradient) from each point of the paper's start grid
# (alpha, beta 0 to 2 by 0.5; e -1 to 1 by 0.5; a, b 0 to 25 by 5: 4500 starts), the best kept. It
# would take days, so a few draws and a random part of the grid are timed and scaled; the scaling is
# printed. Two kinder loops stand beside it: one start a draw, at the optimum of the whole table,
# with BFGS and with L-BFGS-B. Objectives are compared on the same draws, with the same weights, and
# the same function; the loop's answer is the best of everything it tried for that draw.

# %%
from __future__ import annotations

import csv
import itertools
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from anneal.laws.catalogue import SURFACES
from anneal.laws.engine import huber
from anneal.laws.surface_draws import bootstrap_surface
from anneal.laws.surface_fits import fit_surface
from anneal.laws.surface_search import solve

RUNS = Path(__file__).parents[1] / "../shared/runs/chinchilla_epoch/runs.csv"
DELTA = 1e-3
GRID_DRAWS, GRID_STARTS, LOOP_DRAWS = 4, 60, 60
SETTLE = 1e-8
"""Tolerance of our search here: tight enough to compare objectives."""


def read() -> tuple[dict[str, np.ndarray], np.ndarray]:
    with RUNS.open() as file:
        rows = [r for r in csv.DictReader(file) if r["used_in_published_fit"] == "True"]
    columns = {n: np.array([float(r[n]) for r in rows]) for n in ("n_params", "d_tokens")}
    return columns, np.array([float(r["loss"]) for r in rows])


def objective(theta, weights, log_n, log_d, log_loss):
    """(value, gradient) at (e, a, b, alpha, beta), logarithms as in the paper."""
    e, a, b, alpha, beta = theta
    terms = np.stack([np.full_like(log_n, e), a - alpha * log_n, b - beta * log_d])
    top = terms.max(axis=0)
    raised = np.exp(terms - top)
    total = raised.sum(axis=0)
    residual = top + np.log(total) - log_loss
    share = raised / total
    pull = weights * np.clip(residual, -DELTA, DELTA)
    gradient = np.array(
        [
            (pull * share[0]).sum(),
            (pull * share[1]).sum(),
            (pull * share[2]).sum(),
            -(pull * share[1] * log_n).sum(),
            -(pull * share[2] * log_d).sum(),
        ]
    )
    return float((weights * huber(residual, DELTA)).sum()), gradient


def grid() -> np.ndarray:
    """(4500, 5) starts of 2203.15556 in the order e, a, b, alpha, beta."""
    half, five = np.arange(0, 2.01, 0.5), np.arange(0, 25.1, 5)
    return np.array(list(itertools.product(np.arange(-1, 1.01, 0.5), five, five, half, half)))


def main(draws: int) -> list[tuple[str, str]]:
    rng = np.random.default_rng(0)
    columns, loss = read()
    logs = (np.log(columns["n_params"]), np.log(columns["d_tokens"]), np.log(loss))
    surface = SURFACES["chinchilla"]
    began = time.perf_counter()
    fit = fit_surface(surface, columns, loss, rng=rng)
    one_fit = time.perf_counter() - began
    began = time.perf_counter()
    ensemble = bootstrap_surface(fit, columns, loss, rng=rng, draws=draws)
    whole = time.perf_counter() - began

    weights = rng.multinomial(loss.size, np.full(loss.size, 1 / loss.size), size=draws) * 1.0
    began = time.perf_counter()
    found = solve(
        surface,
        columns,
        np.tile(fit.theta, (draws, 1)),
        logs[2][None, :],
        weights=weights,
        noise=fit.residual_sd,
        delta=DELTA,
        residual="log",
        tolerance=SETTLE,
    )
    ours = time.perf_counter() - began
    best = np.empty(draws)
    for k in range(draws):
        e, a, b, alpha, beta = found.theta[k]
        theta = np.array([e, a, b, np.exp(alpha), np.exp(beta)])
        best[k] = objective(theta, weights[k], *logs)[0]

    start = np.array([*fit.theta[:3], *np.exp(fit.theta[3:])])
    theirs = np.full(draws, np.inf)
    seconds = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for method in ("BFGS", "L-BFGS-B"):
            began = time.perf_counter()
            for k in range(LOOP_DRAWS):
                got = minimize(objective, start, (weights[k], *logs), method, jac=True)
                theirs[k] = min(theirs[k], got.fun)
            seconds[method] = (time.perf_counter() - began) / LOOP_DRAWS
        points = grid()
        began = time.perf_counter()
        for k in range(GRID_DRAWS):
            for point in points[rng.choice(len(points), GRID_STARTS, replace=False)]:
                got = minimize(objective, point, (weights[k], *logs), "BFGS", jac=True)
                if np.isfinite(got.fun):
                    theirs[k] = min(theirs[k], got.fun)
        start_seconds = (time.perf_counter() - began) / (GRID_DRAWS * GRID_STARTS)
    loop = start_seconds * len(points) * draws
    worse = (best[:LOOP_DRAWS] / theirs[:LOOP_DRAWS]) - 1.0
    errors = {n: v.std() for n, v in ensemble.parameters().items()}
    return [
        ("one fit, 64 starts, seconds", f"{one_fit:.2f}"),
        (
            f"bootstrap_surface, {draws} draws x {min(2, len(fit.optima))} starts, seconds",
            f"{whole:.2f}",
        ),
        (f"our search alone, {draws} draws x 1 start, tolerance {SETTLE:g}", f"{ours:.2f}"),
        ("draws of ours that settled", f"{int(found.converged.sum())} of {draws}"),
        (
            f"scipy BFGS, {len(points)} starts a draw, seconds",
            f"{loop:.0f} = {start_seconds * 1e3:.2f} ms x {len(points)} x {draws}, "
            f"from {GRID_DRAWS} draws x {GRID_STARTS} starts",
        ),
        ("ratio to bootstrap_surface", f"{loop / whole:.0f}x"),
        *(
            (
                f"scipy {method}, one warm start a draw, seconds",
                f"{s * draws:.1f} = {s * 1e3:.2f} ms x {draws}, from {LOOP_DRAWS} draws; "
                f"{s * draws / ours:.0f}x our search from the same start",
            )
            for method, s in seconds.items()
        ),
        (
            f"our objective over scipy's best, {LOOP_DRAWS} draws",
            f"largest {worse.max():+.1e}, smallest {worse.min():+.1e}, "
            f"worse by more than 1e-6 on {int((worse > 1e-6).sum())}",
        ),
        (
            "standard errors (published E .0257, alpha .0154, beta .0206)",
            ", ".join(f"{n} {errors[n]:.4f}" for n in ("E", "alpha", "beta")),
        ),
    ]


# %%
if __name__ == "__main__":
    for name, value in main(int(sys.argv[1]) if len(sys.argv) > 1 else 4000):
        print(f"{name:68s} {value}")
