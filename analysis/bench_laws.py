# %% [markdown]
# Bootstrap of a three-parameter law, L = E + A x^-a, all starts of all draws at once (the engine
# of `laws`) against a loop over `scipy.optimize.minimize`. Six sources of 12 points, 1000 draws
# each, 64 starts a draw: 384,000 fits. Both sides minimise the same sum of Huber losses of log
# residuals (delta 1e-3) within the same bounds, from the same starts, in seconds of processor time
# (the machine may be shared). The loop runs on a sample of the draws, every start of each, and its
# time is scaled up; ours runs in full, and every draw of the sample is compared by the objective,
# evaluated by one function for both. The loop gets analytic derivatives, written for this one
# form: what a user writes (numerical derivatives, or a general form) is slower.
#
#     OMP_NUM_THREADS=1 python analysis/bench_laws.py

# %%
from __future__ import annotations

import time

import numpy as np
from scipy.optimize import minimize

from anneal.laws import FORMS, Points
from anneal.laws.engine import huber
from anneal.laws.forms import Frame, evaluate, starting_points
from anneal.laws.search import USUAL, Task, search_draws

SOURCES, POINTS, DRAWS, STARTS, SAMPLE = 6, 12, 1000, 64, 8
NOISE, DELTA = 0.005, 1e-3


def table(rng: np.random.Generator) -> tuple[Points, np.ndarray]:
    """One source's measured points, and the log scores of its draws."""
    tokens = np.geomspace(1e6, 1e9, POINTS)
    floor, exponent = rng.uniform(1.5, 2.5), rng.uniform(0.15, 0.6)
    truth = floor + rng.uniform(0.5, 1.5) * (tokens / 1e6) ** -exponent
    score = truth * np.exp(NOISE * rng.standard_normal(POINTS))
    codes = np.zeros(POINTS, dtype=np.int64)
    points = Points(("source",), codes, tokens, tokens, score, codes)
    drawn = np.log(truth) + NOISE * rng.standard_normal((DRAWS, POINTS))
    return points, drawn


class Plain:
    """The same objective for one draw, as a loop needs it: value and gradient of a (3,) row."""

    def __init__(self, points: Points, frame: Frame) -> None:
        self.depth = np.log(points.tokens / frame.tokens)
        self.ceiling, self.unit = frame.ceiling, frame.score

    def __call__(self, theta: np.ndarray, log_score: np.ndarray) -> tuple[float, np.ndarray]:
        share = 1.0 / (1.0 + np.exp(-theta[0]))
        exponent = np.exp(theta[1])
        above = self.unit * np.exp(theta[2] - exponent * self.depth)
        score = self.ceiling * share + above
        residual = np.log(score) - log_score
        pull = np.clip(residual, -DELTA, DELTA)
        by_score = pull / score / DELTA
        gradient = np.array(
            [
                by_score.sum() * self.ceiling * share * (1.0 - share),
                -(by_score * above * self.depth).sum() * exponent,
                (by_score * above).sum(),
            ]
        )
        return float((pull * (residual - 0.5 * pull)).sum() / DELTA), gradient


def common(task: Task, theta: np.ndarray, log_score: np.ndarray) -> np.ndarray:
    """(B,) the objective that both sides are judged by, evaluated by the package."""
    score, _ = evaluate(task.form, task.frame, theta, at=task.points)
    return huber(np.log(score) - log_score, DELTA).sum(axis=1) / DELTA


def without_prior(points: Points) -> Task:
    """The task with bounds and no prior: one objective that both sides can state."""
    form = FORMS["power"]
    task = Task.of(
        form, Frame.of(form, points), points, USUAL, noise=NOISE, weights=None, delta=DELTA
    )
    bare = type(task.prior)(task.prior.centre, np.zeros((3, 3)), task.prior.low, task.prior.high)
    return Task(form, task.frame, points, bare, task.weights, task.delta, 1.0 / DELTA)


# %%
if __name__ == "__main__":
    rng = np.random.default_rng(0)
    ours = loop = 0.0
    worst, best, calls, unsettled = -np.inf, np.inf, 0, 0
    for _ in range(SOURCES):
        points, drawn = table(rng)
        task = without_prior(points)
        starts = starting_points(task.form, task.frame, points, STARTS, rng)

        began = time.process_time()
        found = search_draws(task, starts, drawn, centre=np.zeros((1, 3)), tolerance=1e-9)
        ours += time.process_time() - began
        unsettled += int((~found.converged).sum())

        plain = Plain(points, task.frame)
        bounds = list(zip(task.prior.low, task.prior.high, strict=True))
        sample = rng.choice(DRAWS, SAMPLE, replace=False)
        began = time.process_time()
        theirs = []
        for draw in sample:
            runs = [
                minimize(
                    *(plain, start, (drawn[draw],)),
                    jac=True,
                    method="L-BFGS-B",
                    bounds=bounds,
                    options={"maxiter": 2000, "ftol": 1e-14, "gtol": 1e-9},
                )
                for start in starts
            ]
            calls += sum(r.nfev for r in runs)
            theirs.append(min(runs, key=lambda r: r.fun).x)
        loop += time.process_time() - began

        mine = common(task, found.theta[sample], drawn[sample])
        other = common(task, np.array(theirs), drawn[sample])
        worst = max(worst, float((mine / other - 1.0).max()))
        best = min(best, float((mine / other - 1.0).min()))

    fits, compared = SOURCES * DRAWS * STARTS, SOURCES * SAMPLE
    scaled = loop * DRAWS / SAMPLE
    print(f"{fits:,} fits: {SOURCES} sources x {DRAWS} draws x {STARTS} starts, {POINTS} points")
    print(
        f"loop over scipy  {scaled:8.1f} s  (measured {loop:.1f} s on {compared} draws x {STARTS} "
        f"starts, {calls / compared / STARTS:.0f} evaluations a fit; scaled)"
    )
    print(f"laws.engine      {ours:8.1f} s  (measured in full; {unsettled} draws did not settle)")
    print(f"ratio            {scaled / ours:8.0f}")
    print(
        f"objective, ours over theirs minus 1, {compared} draws: "
        f"worst {worst:+.1e}, best {best:+.1e}"
    )
