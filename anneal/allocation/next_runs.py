"""Which run to do next: what its outcome is expected to do to the regret, before it is run.

A run is worth what it changes. Now we would buy k0, the purchase with the least expected score over
the draws. After a run we would know more, weigh the draws anew and perhaps buy something else; the
expected improvement is the expected value of sample information (Raiffa and Schlaifer 1961):

1. **Fantasise**: let each draw f in turn be the truth. The run would measure
   y_f = log curve_f(run) + noise, the noise that belongs to the draw.
2. **Update**: the other draws d count by how well they would have predicted it,
   w_fd ~ N(y_f; log curve_d(run), noise_d^2 + h^2). The truth itself is left out, or a hundred
   draws would seem to identify it; h is a kernel's width, so that a run more exact than the draws
   are dense does not leave a single one.
3. **Decide again**: buy k(f), the purchase with the least w-weighted score. All purchases are
   compared: the optimum, the draws' own optima, and the candidates of the allocation.
4. **Score honestly**: under the truth f, which step 3 has not seen, the run gained
   score_f(k0) - score_f(k(f)). The mean over fantasies is the expected fall of the regret.

Since the decision of step 3 is scored on a draw that it did not use, noise in the weights makes the
estimate too small, never too large in expectation: it is a lower bound that gets sharp with the
draws. Single fantasies may lose (a misleading run); their mean has an interval.

Runs after the first are chosen given it: log weights of runs done add up (greedy, and so only a
good batch, not the best).

**When to stop.** With `worth` (money for one unit of score on the real model) a run is worth its
price if gain x worth > its price; otherwise if the expected regret is above the noise floor and the
run takes at least `WORTHWHILE` of it away, beyond the Monte Carlo error. `stop` where no affordable
run is. A law that is wrong in shape is not repaired by this: it prices what the draws disagree on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from anneal.allocation.collide import collision
from anneal.allocation.problem import Problem
from anneal.allocation.purchase import allowed
from anneal.allocation.search import candidates, nearest_to_prior, optimise
from anneal.allocation.values import Interval
from anneal.allocation.view import View, survey
from anneal.errors import PlanError
from anneal.laws import predict
from anneal.laws.points import Floats, Ints

DRAWS = 400
"""Draws used at most; each is the truth of `FANTASIES` fantasies."""
FANTASIES = 2
PURCHASES = 150
"""Purchases compared after a run."""
KERNEL = 0.5
"""Width h in SDs of the draws' predictions, times draws^(-1 / (4 + runs)) (Silverman's rate)."""
WORTHWHILE = 0.1
"""Part of the expected regret that a run must take away where no worth is given (assumed)."""
APART = 0.1
"""Share of tokens that another purchase moves for it to count as a change."""
LEVEL = 0.9
"""Of the intervals of gains; `SDS` is half its width for a mean."""
SDS = 1.6449


@dataclass(frozen=True)
class Candidate:
    """A run that could be done.

    Args:
        source: name of the curve it measures, as in the law.
        tokens: source tokens trained on.
        unique: unique tokens of its pool.
        flops, usd: what it costs.
        seeds: repetitions, averaged; the costs are of all of them.
        name: for people; made from source and tokens where empty.
    """

    source: str
    tokens: float
    unique: float
    flops: float
    usd: float = 0.0
    seeds: int = 1
    name: str = ""

    @property
    def label(self) -> str:
        """Its name, or what it is."""
        return self.name or f"{self.source} at {self.tokens:,.6g} tokens"


@dataclass(frozen=True)
class Worth:
    """What one candidate is expected to bring.

    Args:
        candidate: the run.
        gain: expected fall of the expected regret, score, with the interval of its mean over
            fantasies; a lower bound in expectation.
        low, high: 5% and 95% of single fantasies: a run can mislead.
        per_exaflop: gain by 1e18 FLOPs.
        changes: P(the run changes what is bought).
        net: gain x worth - usd; None without a worth.
        affordable: within what is left to spend.
        worthwhile: by the stated rule.
    """

    candidate: Candidate
    gain: Interval
    low: float
    high: float
    per_exaflop: float
    changes: float
    net: float | None
    affordable: bool
    worthwhile: bool


@dataclass(frozen=True)
class NextRuns:
    """The answer.

    Args:
        rows: every candidate, the best gain by FLOP first; worthwhile ones before the others.
        plan: runs to do in this order, each judged given those before it.
        regret: expected regret now, over the purchases compared: what perfect knowledge would save.
        stop: no affordable run is worth its price.
        reason: the rule that decided, in words.
        draws, purchases: how many were compared.
    """

    rows: tuple[Worth, ...]
    plan: tuple[Worth, ...]
    regret: float
    stop: bool
    reason: str
    draws: int
    purchases: int


def next_runs(
    problem: Problem,
    runs: Sequence[Candidate],
    *,
    rng: np.random.Generator,
    count: int = 1,
    flops: float | None = None,
    usd: float | None = None,
    worth: float | None = None,
) -> NextRuns:
    """Rank runs by how much they reduce the allocation's expected regret by FLOP.

    Args:
        problem: the allocation that the runs are to improve.
        runs: candidates.
        count: runs to plan; each beyond the first costs as much time as the ranking.
        flops, usd: what is left to spend on runs; None for no limit.
        worth: money for one unit of score; None for the rule of the noise floor.

    Raises:
        PlanError: no candidates, a candidate without a price or with numbers out of range, or a
            problem that nothing solves.
        LawError: a candidate of a source that the law has no curve for.
    """
    _check(runs)
    refused = collision(problem)
    if refused is not None:
        raise refused
    thin = replace(problem, target=problem.target.thinned(DRAWS), objective="mean")
    scores, shares = _purchases(thin, rng)
    regret = float(scores.mean(axis=0).min() - scores.min(axis=1).mean())
    wheel = _fantasies(thin, runs, rng)
    base = np.zeros((wheel.outcome.shape[0], scores.shape[0]))
    first: list[Worth] = []
    plan: list[Worth] = []
    done: list[int] = []
    before = 0.0
    left = [np.inf if flops is None else flops, np.inf if usd is None else usd]
    for step in range(max(count, 1)):
        rows = []
        for index, run in enumerate(runs):
            if index in done:
                continue
            gained, moved = wheel.gains(index, scores, shares, base=base, done=len(done))
            if step == 0 or (run.flops <= left[0] and run.usd <= left[1]):
                row = _worth(run, gained, moved, problem, regret, left, worth, before)
                rows.append((index, row))
        rows.sort(key=lambda r: (not (r[1].worthwhile and r[1].affordable), -r[1].per_exaflop))
        if step == 0:
            first = [row for _, row in rows]
        if not rows or not (rows[0][1].worthwhile and rows[0][1].affordable):
            break
        index, chosen = rows[0]
        plan.append(chosen)
        done.append(index)
        left = [left[0] - chosen.candidate.flops, left[1] - chosen.candidate.usd]
        base = base + wheel.likelihood(index, len(done))
        before += chosen.gain.value
    stop = not plan
    return NextRuns(
        rows=tuple(first),
        plan=tuple(plan),
        regret=regret,
        stop=stop,
        reason=_reason(problem, first, regret, worth, stop),
        draws=scores.shape[0],
        purchases=scores.shape[1],
    )


def _check(runs: Sequence[Candidate]) -> None:
    if not runs:
        raise PlanError("next runs: no candidates", hint="give runs with their tokens and prices")
    for run in runs:
        numbers = (run.tokens, run.unique, run.flops, run.usd, float(run.seeds))
        if not all(np.isfinite(v) for v in numbers) or min(run.tokens, run.unique, run.flops) <= 0:
            raise PlanError(
                f"next runs: `{run.label}`: tokens, unique and flops must be positive numbers, got "
                f"{run.tokens:g}, {run.unique:g}, {run.flops:g}"
            )
        if run.usd < 0 or run.seeds < 1:
            raise PlanError(
                f"next runs: `{run.label}`: usd {run.usd:g} must not be negative, "
                f"seeds {run.seeds} at least 1"
            )


def _purchases(problem: Problem, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Allowed purchases among which the best will be found: scores (draws, k), shares (k, m)."""
    pool = candidates(problem, rng=rng)
    if not len(pool):
        pool = nearest_to_prior(problem)
    best, _ = optimise(problem, pool)
    view = View.of(problem)
    seen = survey(view, np.vstack([best, pool]))
    pool = seen.judged.tokens[np.argsort(seen.judged.key, kind="stable")[: PURCHASES // 3]]
    kept = np.vstack([best, pool])
    room = PURCHASES - len(kept)
    own = seen.optima[_spread(seen.optima / seen.optima.sum(axis=1, keepdims=True), room)]
    tokens = np.vstack([kept, own])
    judged = view.judge(tokens[allowed(problem, tokens, slack=1e-6)])
    fair = np.ones(len(judged.tokens), dtype=bool)
    if problem.guards:
        fair = judged.kept >= min(problem.confidence, float(judged.kept.max()))
    shares = judged.tokens / judged.tokens.sum(axis=1, keepdims=True)
    return judged.scores[:, fair], shares[fair]


def _spread(points: Floats, count: int) -> Ints:
    """Rows of points (n, m) that lie far apart: each next is the farthest from those before."""
    chosen = [0]
    distance = np.abs(points - points[0]).sum(axis=1)
    while len(chosen) < min(count, len(points)) and distance.max() > 1e-3:
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.abs(points - points[chosen[-1]]).sum(axis=1))
    return np.array(chosen, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class _Wheel:
    """Fantasised outcomes of every run.

    Args:
        truth: (F,) draw that is the truth of each fantasy.
        centre: (draws, r) log curve of each run.
        outcome: (F, r) log score measured.
        variance: (draws, r) of the noise.
        width: (r,) SD of the draws' predictions.
    """

    truth: Ints
    centre: Floats
    outcome: Floats
    variance: Floats
    width: Floats

    def likelihood(self, run: int, runs: int) -> Floats:
        """(F, draws) log likelihood of each draw for each fantasy; `runs` of them weigh in all."""
        rate = self.centre.shape[0] ** (-1.0 / (4 + runs))
        variance = self.variance[:, run] + (KERNEL * self.width[run] * rate) ** 2
        away = self.outcome[:, run][:, None] - self.centre[:, run][None, :]
        return np.asarray(-0.5 * (away**2 / variance + np.log(variance)))

    def gains(
        self, run: int, scores: Floats, shares: Floats, *, base: Floats, done: int
    ) -> tuple[Floats, Floats]:
        """(F,) score gained over buying without any run, and share of tokens that moves."""
        log = base + self.likelihood(run, done + 1)
        log[np.arange(log.shape[0]), self.truth] = -np.inf
        weight = np.exp(log - log.max(axis=1, keepdims=True))
        choice = (weight @ scores).argmin(axis=1)  # not normalised: the order is the same
        now = int(scores.mean(axis=0).argmin())
        gained = scores[self.truth, now] - scores[self.truth, choice]
        moved = 0.5 * np.abs(shares[choice] - shares[now]).sum(axis=1)
        return np.asarray(gained), np.asarray(moved)


def _fantasies(problem: Problem, runs: Sequence[Candidate], rng: np.random.Generator) -> _Wheel:
    law = problem.target
    codes = np.array([law.code(r.source) for r in runs], dtype=np.int64)
    tokens, unique = (np.array([getattr(r, k) for r in runs], float) for k in ("tokens", "unique"))
    centre = np.log(predict(law, codes, tokens, unique))
    seeds = np.array([r.seeds for r in runs], float)
    variance = np.maximum(law.noise, 1e-9)[:, None] ** 2 / seeds
    truth = np.tile(np.arange(law.draws), FANTASIES)
    # the same noise for every run: they are compared, and by the same luck
    luck = rng.standard_normal((truth.size, 1))
    outcome = centre[truth] + np.sqrt(variance[truth]) * luck
    return _Wheel(truth, centre, outcome, variance, centre.std(axis=0))


def _worth(
    run: Candidate,
    gained: Floats,
    moved: Floats,
    problem: Problem,
    regret: float,
    left: list[float],
    worth: float | None,
    before: float,
) -> Worth:
    """One row; gains beyond those of runs already planned."""
    draws = gained.size // FANTASIES
    own = gained.reshape(FANTASIES, draws).mean(axis=0)
    error = float(own.std(ddof=1) / np.sqrt(draws)) if draws > 1 else 0.0
    gain = float(gained.mean()) - before
    low, high = np.quantile(gained - before, [0.05, 0.95])
    net = None if worth is None else gain * worth - run.usd
    if net is None:
        remaining = regret - before
        enough = remaining > problem.noise and gain >= WORTHWHILE * remaining
        good = enough and gain - SDS * error > 0
    else:
        good = net > 0
    return Worth(
        candidate=run,
        gain=Interval(gain, gain - SDS * error, gain + SDS * error, LEVEL),
        low=float(low),
        high=float(high),
        per_exaflop=gain / run.flops * 1e18,
        changes=float((moved >= APART).mean()),
        net=net,
        affordable=run.flops <= left[0] and run.usd <= left[1],
        worthwhile=bool(good),
    )


def _reason(
    problem: Problem, rows: list[Worth], regret: float, worth: float | None, stop: bool
) -> str:
    within = [r for r in rows if r.affordable]
    if not within:
        return "no candidate is affordable"
    if worth is not None:
        best = max(within, key=lambda r: r.net or 0.0)
        money = f"{best.gain.value:.2g} of score x {worth:,.6g} a unit"
        sign = "no more than" if stop else "more than"
        return f"the best run is worth {money}, {sign} its price of {best.candidate.usd:,.6g}"
    if regret <= problem.noise:
        return f"expected regret {regret:.4f} is within the noise floor of {problem.noise:.4f}"
    best = max(within, key=lambda r: r.gain.value)
    part = best.gain.value / regret
    told = f"expected regret is {regret:.4f}; the best single run takes {part:.0%} of it away"
    return told + (f", less than {WORTHWHILE:.0%} beyond error" if stop else "")
