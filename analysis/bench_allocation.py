# %% [markdown]
# The allocation against other ways to the same optimum, and its price at size. One run:
#
#     python analysis/bench_allocation.py
#
# Worlds are planted laws (power curves through a base, repetition priced, 10% spread of every
# exponent and scale over the draws), so the objective is the same for every side. Seconds are CPU
# seconds of this process: other work on the machine does not count.

# %%
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import differential_evolution

from anneal.allocation import (
    Candidate,
    Problem,
    Supply,
    allocate,
    mixture_score,
    mixture_slope,
    next_runs,
)
from anneal.allocation.purchase import fill
from anneal.allocation.search import candidates, optimise
from anneal.allocation.view import View, survey
from anneal.laws import FORMS, Ensemble, Fit
from anneal.laws.forms import Frame, layout

BASE, FLOOR, LARGEST = 3.4, 1.4, 8e5


def world(m: int, draws: int, seed: int, spread: float = 0.1) -> Ensemble:
    """An ensemble of m planted curves."""
    rng = np.random.default_rng(seed)
    labels = tuple(f"s{i}" for i in range(m))
    form = FORMS["shifted_power_repeated"]
    frame = Frame(labels, BASE, 1e5, FLOOR, 0.98 * BASE, 5e4, LARGEST, 1e5)
    where = layout(form, labels)
    theta = np.zeros((draws, where.size))
    share = FLOOR / frame.ceiling
    theta[:, where.floor] = np.log(share / (1 - share))
    theta[:, where.exponent] = np.log(rng.uniform(0.35, 0.45, m))
    theta[:, where.scale] = rng.uniform(9.5, 10.5, m)
    theta[:, where.repeats] = np.log(8.0)
    own = np.concatenate([where.exponent, where.scale])
    theta[:, own] += spread * rng.standard_normal((draws, own.size))
    fit = Fit(form, frame, theta.mean(axis=0), {}, "ok", converged=True)
    return Ensemble(fit, theta, np.full(draws, 0.005), 0, 0)


def question(m: int, draws: int, seed: int, *, priced: bool = False) -> Problem:
    """Scarce sources and a budget that repeats them; with `priced`, in money with fixed costs."""
    rng = np.random.default_rng(seed + 1)
    supplies = tuple(
        Supply(
            f"s{i}",
            int(10 ** rng.uniform(4.5, 6)),
            max_epochs=8.0,
            usd_fixed=float(rng.choice([0.0, 0.2, 0.6])) if priced else 0.0,
            usd_per_token=float(rng.choice([0.0, 1e-6])) if priced else 0.0,
        )
        for i in range(m)
    )
    law = world(m, draws, seed)
    if priced:
        return Problem(supplies, law, budget=6.0, noise=0.003, axis="usd", usd_per_trained=1e-6)
    return Problem(supplies, law, budget=4e6, noise=0.003)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.process_time()
    out = work()
    return out, time.process_time() - began


def evolved(problem: Problem, draws: int, generations: int) -> tuple[float, int]:
    """scipy's differential evolution on the same objective; directions, filled to the budget.

    A quarter of each coordinate's range buys none of the source, so that fixed costs can be saved.
    """
    view, calls = View.of(problem, draws=draws), 0

    def objective(rows: np.ndarray) -> np.ndarray:
        nonlocal calls
        tokens, possible = fill(problem, np.maximum(rows.T - 0.25, 0.0) + 1e-10)
        calls += len(tokens)
        return np.where(possible, view.scores(tokens).mean(axis=0), BASE)

    found = differential_evolution(
        objective,
        [(0.0, 1.0)] * len(problem.supplies),
        vectorized=True,
        updating="deferred",
        maxiter=generations,
        popsize=10,
        tol=1e-10,
        polish=False,
        rng=np.random.default_rng(0),
    )
    return float(found.fun), calls


# %%
def against_evolution() -> None:
    print("the same objective (100 draws), ours against scipy differential_evolution")
    print(f"{'':24}{'ours s':>8}{'DE s':>8}{'ratio':>7}  score(DE) - score(ours)")
    for m, priced in ((4, False), (4, True), (8, False), (8, True), (20, False), (20, True)):
        problem = question(m, 100, seed=m, priced=priced)
        pool = candidates(problem, rng=np.random.default_rng(0))
        (_, ours), mine = timed(lambda p=problem, c=pool: optimise(p, c))
        (other, calls), theirs = timed(lambda p=problem: evolved(p, 100, 60))
        name = f"{m} sources{', fixed costs' if priced else ''}"
        print(
            f"{name:24}{mine:8.2f}{theirs:8.2f}{theirs / mine:7.0f}  {other - ours:+.2e}"
            f"  ({calls:,} evaluations)"
        )


def against_grid() -> None:
    problem = question(3, 100, seed=3)
    step = np.linspace(0, 1, 141)
    rows = np.array([(a, b, 1 - a - b) for a in step for b in step if a + b <= 1 + 1e-12])
    pool = candidates(problem, rng=np.random.default_rng(0))
    (_, ours), mine = timed(lambda: optimise(problem, pool))

    def grid() -> float:
        tokens, possible = fill(problem, np.clip(rows, 0, 1))
        return float(View.of(problem).scores(tokens[possible]).mean(axis=0).min())

    best, theirs = timed(grid)
    print(
        f"3 sources, dense grid of {len(rows):,}: ours {mine:.2f} s, grid {theirs:.2f} s, ratio "
        f"{theirs / mine:.0f}, score(grid) - score(ours) {best - ours:+.2e}"
    )


def slopes() -> None:
    problem = question(20, 1000, seed=0)
    law, pools = problem.target, problem.available
    tokens = np.full(20, 2e5)
    _, exact = timed(lambda: [mixture_slope(law, tokens, pools) for _ in range(10)])
    rows = tokens + 20.0 * np.eye(20)
    _, differences = timed(lambda: [mixture_score(law, rows, pools) for _ in range(10)])
    print(
        f"slope of 20 sources x 1000 draws: exact {exact / 10 * 1e3:.0f} ms, by differences "
        f"{differences / 10 * 1e3:.0f} ms, ratio {differences / exact:.1f}"
    )


def regrets() -> None:
    problem = question(20, 40, seed=2)
    pool = candidates(problem, rng=np.random.default_rng(0))
    view = View.of(problem)
    best, before = survey(view, pool), view.judge(pool).scores.min(axis=1)

    def alone(draw: int) -> float:
        law = problem.target
        assert isinstance(law, Ensemble)
        one = replace(law, thetas=law.thetas[[draw]], noise=law.noise[[draw]])
        return optimise(replace(problem, target=one), pool)[1]

    truth = np.array([alone(d) for d in range(40)])
    print(
        f"each draw's least score, 20 sources, mean excess over its own SLSQP optimum: pool alone "
        f"{np.mean(before - truth):.1e}, survey {np.mean(best.least - truth):.1e}"
    )


def at_size() -> None:
    for priced in (False, True):
        problem = question(20, 1000, seed=0, priced=priced)
        for explained in (False, True):
            answer, seconds = timed(
                lambda p=problem, e=explained: allocate(
                    p, rng=np.random.default_rng(0), explained=e
                )
            )
            print(
                f"allocate, 20 sources x 1000 draws{', fixed costs' if priced else ''}"
                f"{', with limits, sensitivity and flips' if explained else ''}: {seconds:.2f} s "
                f"(score {answer.score.value:.5f}, expected regret {answer.expected_regret:.5f})"
            )
    problem = question(20, 1000, seed=0)
    runs = [
        Candidate(name, float(x), float(x), 6e6 * float(x))
        for name in problem.names
        for x in np.geomspace(1e4, 8e5, 10)
    ]
    found, seconds = timed(lambda: next_runs(problem, runs, rng=np.random.default_rng(0)))
    print(
        f"next_runs, {len(runs)} candidates: {seconds:.2f} s ({found.reason}; "
        f"{found.draws} draws, {found.purchases} purchases)"
    )


# %%
if __name__ == "__main__":
    slopes()
    regrets()
    against_grid()
    against_evolution()
    at_size()
