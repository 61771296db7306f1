"""Planted runs in, decision out: the law is learnt from noisy runs, the regret is the truth's."""

import numpy as np
import pytest
from planted import LABELS, PLENTY, falling

from anneal.allocation import Problem, Supply, allocate, mixture_score
from anneal.laws import Points, bootstrap, fit, hold_out, noise_floor, predict

EXPONENT, SCALE, R_STAR = [0.42, 0.40, 0.38, 0.36], [7e3, 2.5e4, 2e4, 4e4], 6.0
AVAILABLE = [60_000, PLENTY, 300_000, PLENTY]
REAL = 6_400_000


def runs(truth, rng, noise=0.006):
    """Five budgets, three seeds at one; every source once with the epochs of the real budget."""
    rows = []
    for g, pool in enumerate(AVAILABLE):
        for x in (5e4, 1e5, 2e5, 4e5, 8e5):
            for seed in range(3 if x == 2e5 else 1):
                rows.append((g, x, min(x, max(x * pool / REAL, x / 16)), seed))
            if x >= 4e5 and pool < x:
                rows.append((g, x, float(pool), 0))
    g, x, u, seed = (np.array(c) for c in zip(*rows, strict=True))
    score = predict(truth, g, x, u)[0] * np.exp(noise * rng.standard_normal(x.size))
    return Points(LABELS[:4], g, x, u, score, seed, anchor=3.4)


@pytest.mark.parametrize("seed", range(3))
def test_the_allocation_learnt_from_runs_has_little_true_regret(seed):
    rng = np.random.default_rng(seed)
    truth = falling(EXPONENT, SCALE, r_star=R_STAR)
    points = runs(truth, rng)
    names = ["shifted_power", "shifted_power_repeated", "shifted_power_one_exponent_repeated"]
    choice = hold_out(names, points, rng=rng, draws=60, repeats=True)
    law = bootstrap(fit(choice.chosen, points, rng=rng), points, draws=200, rng=rng)
    supplies = tuple(Supply(n, a) for n, a in zip(LABELS, AVAILABLE, strict=False))
    noise = noise_floor(points).sd
    problem = Problem(supplies, law, budget=REAL, noise=noise)
    answer = allocate(problem, rng=rng, explained=False)

    best = allocate(
        Problem(supplies, truth, budget=REAL, noise=noise), rng=rng, explained=False
    ).score.value
    tokens = np.array([[float(r.tokens) for r in answer.rows]])
    real = mixture_score(truth, tokens, problem.available)[0, 0]
    assert real - best < 3 * noise
    assert answer.score.low - noise <= real <= answer.score.high + noise
    single = np.eye(4) * np.minimum(problem.caps, REAL)
    alone = mixture_score(truth, single, problem.available)[0]
    largest = points.tokens == points.largest
    ranking = [points.score[largest & (points.group == g)].min() for g in range(4)]
    assert real <= alone[int(np.argmin(ranking))] + 1e-9
