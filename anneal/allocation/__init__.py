"""Allocation: laws, costs and limits in; tokens per source out, with how sure that is.

problem = Problem(supplies, ensemble, budget=4e6, noise=noise_floor(points).sd, replay=0.25)
answer = allocate(problem, rng=np.random.default_rng(0))
answer.shares, answer.verdict, answer.reason
next_runs(problem, [Candidate("math", 4e5, 4e5, flops=2e15)], rng=np.random.default_rng(0)).plan
"""

from anneal.allocation.decide import allocate
from anneal.allocation.mixture import guard_score, mixture_score, mixture_slope
from anneal.allocation.next_runs import Candidate, NextRuns, Worth, next_runs
from anneal.allocation.problem import Guard, Problem, Supply, Together
from anneal.allocation.values import (
    Allocation,
    Change,
    Flip,
    Interval,
    Limit,
    Row,
    Verdict,
    Versus,
)

__all__ = [
    "Allocation",
    "Candidate",
    "Change",
    "Flip",
    "Guard",
    "Interval",
    "Limit",
    "NextRuns",
    "Problem",
    "Row",
    "Supply",
    "Together",
    "Verdict",
    "Versus",
    "Worth",
    "allocate",
    "guard_score",
    "mixture_score",
    "mixture_slope",
    "next_runs",
]
