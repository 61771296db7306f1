"""The uniform mix of a sweep: what its runs say of the rule for mixtures, and of what is bought.

The model of the rule's error is `anneal.allocation.mixing`; here are its data, and what it does to
the numbers that the decision gives: the score and the guards of the recommended allocation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anneal import allocation as alloc
from anneal.allocation.explain import interval
from anneal.allocation.mixing import Mixing, learn
from anneal.laws import Law, band
from anneal.laws.points import Floats, Ints
from anneal.plan.runs import UNIFORM
from anneal.report import bought
from anneal.report.law_rows import Interval, RuleError
from anneal.sweep import effects
from anneal.sweep.evidence import Evidence

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class UniformRuns:
    """The uniform mix at b budgets, none where it was not run or a source has no curve.

    Args:
        budgets: (b,) nominal, ascending.
        tokens: (b,) source tokens in all.
        measured: (b,) mean score.
        runs: (b,) how many.
        predicted: (draws, b) by the rule, under every draw of the law.
    """

    budgets: Ints
    tokens: Floats
    measured: Floats
    runs: Ints
    predicted: Floats


def uniform_runs(evidence: Evidence, table: pd.DataFrame, law: Law, name: str) -> UniformRuns:
    """The uniform mix as measured and as the curves of its sources say.

    Args:
        table: results with the aggregate score.
        law: of the aggregate score (`name` is `effects.AIM`) or of the guard `name`.
    """
    sources = evidence.design.sources
    rows = table[table["source"] == UNIFORM]
    if any(s.name not in law.labels for s in sources):
        rows = rows.iloc[:0]
    column = effects.AIM if name == effects.AIM else f"bpb {name}"
    codes = np.array([law.code(s.name) for s in sources if s.name in law.labels], np.int64)
    planned = {run.spec.id: run for run in evidence.runs}
    cells: list[tuple[int, float, float, int]] = []
    predicted: list[Floats] = []
    for _, cell in rows.groupby("budget"):
        phase = planned[str(cell["run"].iloc[0])].spec.phases[0]
        portions = {p.source: p for p in phase.mixture}
        tokens = np.array([[portions[s.name].share * phase.tokens for s in sources]])
        unique = np.array([float(portions[s.name].pool or s.tokens) for s in sources])
        predicted.append(_rule(law, name, tokens, unique, codes))
        budget, score = int(cell["budget"].iloc[0]), float(cell[column].mean())
        cells.append((budget, float(tokens.sum()), score, len(cell)))
    budgets, total, measured, runs = zip(*cells, strict=True) if cells else ((), (), (), ())
    return UniformRuns(
        budgets=np.array(budgets, np.int64),
        tokens=np.array(total, float),
        measured=np.array(measured, float),
        runs=np.array(runs, np.int64),
        predicted=np.stack(predicted, axis=1) if predicted else np.zeros((law.draws, 0)),
    )


def rule_errors(
    evidence: Evidence, table: pd.DataFrame, problem: alloc.Problem
) -> dict[str, Mixing]:
    """The rule's error for the score and every guard, by name.

    Its chance is its own: the laws and the allocation draw the same numbers with it and without.
    """
    out = {}
    for number, (name, law) in enumerate(_laws(problem).items(), start=1):
        seen = uniform_runs(evidence, table, law, name)
        out[name] = learn(
            seen.predicted,
            seen.measured,
            seen.runs,
            seen.tokens,
            noise=law.noise,
            sources=len(evidence.design.sources),
            ladder=(law.frame.low, law.frame.high),
            rng=np.random.default_rng([evidence.ask.seed, number]),
        )
    return out


def corrected(
    evidence: Evidence,
    table: pd.DataFrame,
    problem: alloc.Problem,
    errors: dict[str, Mixing],
    answer: alloc.Allocation,
) -> tuple[RuleError, ...]:
    """What the rule says of the recommended allocation, and what is to be said instead."""
    tokens = np.array([[float(row.tokens) for row in answer.rows]])
    plain = {effects.AIM: answer.score} | answer.guards
    out = []
    for name, law in _laws(problem).items():
        seen, error = uniform_runs(evidence, table, law, name), errors[name]
        factor = error.factor(tokens)[:, 0]
        scores = _rule(law, name, tokens, problem.available, problem.groups(law))
        off = np.median(seen.measured / seen.predicted, axis=0) - 1.0
        out.append(
            RuleError(
                score=name,
                budgets=tuple(seen.budgets.tolist()),
                runs=tuple(seen.runs.tolist()),
                off=tuple(off.tolist()),
                slope=_interval(np.expm1(error.slope)),
                lasts=error.lasts(float(tokens.sum())),
                part=float(error.part(tokens)[0]),
                change=_interval(factor - 1.0),
                rule=bought.interval(plain[name]),
                corrected=bought.interval(interval(scores * factor)),
            )
        )
    return tuple(out)


def _laws(problem: alloc.Problem) -> dict[str, Law]:
    return {effects.AIM: problem.target} | {g.name: g.law for g in problem.guards}


def _rule(law: Law, name: str, tokens: Floats, unique: Floats, codes: Ints) -> Floats:
    """(draws,) what the rule says of one mixture (1, m)."""
    rule = alloc.mixture_score if name == effects.AIM else alloc.guard_score
    return rule(law, tokens, unique, groups=codes)[:, 0]


def _interval(values: Floats, *, level: float = 0.9) -> Interval:
    low, high = band(values, level=level)
    return Interval(value=float(values.mean()), low=float(low), high=float(high), level=level)
