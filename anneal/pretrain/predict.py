"""What the sweep's law says of every phase end of a full run, before it starts.

The law is the decision's own, made again from the same results with the same seed (`refit`), and
checked against the score that the decision gives. At a phase end it is asked for the source tokens
trained by then, all phases since the base together:

- the replay that goes with the source tokens is the runs' own share; what is beyond it counts as
  tokens of the control, as in the allocation;
- the score of a mixture is the rule's with the rule's own error, learnt from the uniform runs
  (`allocation.mixing`), as in the decision;
- the value is the mean of the law's draws, as `Decision.score` is. The decision's interval is that
  of the mean curve: parameters, forms and drift. A prediction's is wider, that of one measured run:
  every draw besides with the run-to-run noise that belongs to it (24 planted worlds, one run up to
  2.3 times beyond the largest: 90% intervals of a run held 23, those of the mean curve 19);
- the end of the phase that is the sweep's base itself is known from the sweep: its measured score,
  give or take a t interval of the difference of two runs, from the pooled SD between seeds.

What a law does not cover is not predicted: other models, replay alone, sources without a curve.
What it covers though not all its assumptions hold is predicted, with those named beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from anneal.allocation import guard_score, mixture_score
from anneal.errors import LawError, PlanError
from anneal.laws import Law, band, noise_floor
from anneal.ledger import Ledger
from anneal.plan.predictions import AIM, NoPrediction, Prediction, Said, Subject
from anneal.plan.runs import CONTROL, Design, PlannedRun
from anneal.plan.values import RunSpec
from anneal.pretrain import assumptions
from anneal.pretrain.assumptions import Setting
from anneal.report.decision import Decision
from anneal.sources.values import Manifest
from anneal.sweep import effects
from anneal.sweep.analyse import Fitted, fit_laws
from anneal.sweep.evidence import Evidence
from anneal.sweep.values import Sweep
from anneal.values import address

Floats = NDArray[np.float64]

NOISES = 49
"""Quantiles of the normal noise that every draw of a law is crossed with: no chance is added, and
their SD is 0.99."""
MOVED = 0.05
"""Part of the noise floor by which a law made again may miss the decision's score: libraries and
processors round differently."""
BEYOND = 0.01
"""Share of the tokens that may be more replay than the runs had, where the law has no control."""


@dataclass(frozen=True, eq=False)
class Basis:
    """What predictions follow from.

    Args:
        setting: what the law's runs had in common.
        decision: the decision, for its addresses.
        fitted: its laws, made again.
        level: of the intervals.
    """

    setting: Setting
    decision: Decision
    fitted: Fitted
    level: float

    @property
    def design(self) -> Design:
        return self.setting.design

    @property
    def names(self) -> tuple[str, ...]:
        """What is predicted: the weighted aim, then the guards."""
        return (AIM, *(guard.name for guard in self.fitted.problem.guards))

    def law(self, name: str) -> Law:
        """The law of a score by name."""
        problem = self.fitted.problem
        guards = {guard.name: guard.law for guard in problem.guards}
        return problem.target if name == AIM else guards[name]

    def targets(self, name: str) -> tuple[str, ...]:
        """The targets that make up a score."""
        aims = tuple(t.name for t in self.design.targets if not t.guard)
        return aims if name == AIM else (name,)


def refit(
    ask: Sweep,
    design: Design,
    runs: Sequence[PlannedRun],
    manifests: Mapping[str, Manifest],
    *,
    base: RunSpec | None,
    decision: Decision,
    ledger: Ledger,
) -> Basis:
    """The decision's laws again, from the results it was made from.

    Args:
        ask: the sweep as it was asked.
        design: what its runs follow from.
        runs: every planned run, as `plan_runs` gives them.
        manifests: of its sources and targets, by name.
        base: the run that trained its base (`sweep.base.base_spec`).
        decision: what the sweep decided.
        ledger: where the results lie.

    Raises:
        PlanError: the laws do not give the decision's score: it was made from other results.
        LawError: too few results to fit any law.
    """
    evidence = Evidence(
        ask=ask,
        design=design,
        runs=tuple(runs),
        outcomes=(),
        manifests=manifests,
        registration=decision.registration,
        changed=(),
        reused=0,
        command="",
    )
    table = ledger.results(runs)
    fitted = fit_laws(evidence, table, rng=np.random.default_rng(ask.seed))
    basis = Basis(Setting(design, base), decision, fitted, ask.law.level)
    again = decided(basis)
    if abs(again - decision.score.value) > MOVED * fitted.problem.noise:
        raise PlanError(
            f"decision {decision.sweep}: it gives {decision.score.value:.6f} bits per byte for its "
            f"allocation, its results now give {again:.6f}: they have changed since",
            hint="run `python -m anneal sweep` again: it decides anew from the results there are",
        )
    return basis


def decided(basis: Basis) -> float:
    """What the laws say of the decision's own allocation: its `score.value`, made again."""
    bought = {row.source: float(row.tokens) for row in basis.decision.allocation}
    return float(_draws(basis, AIM, bought).mean())


def predictions(basis: Basis, spec: RunSpec, *, made: str = "") -> tuple[Said, ...]:
    """Predicts the aim and every guard at the end of every phase, or says why not.

    Args:
        basis: the decision with its laws.
        spec: the full run, its phases laid out.
        made: the date, UTC, ISO 8601; empty is now.

    Returns:
        Phase by phase, the aim first, then the guards.
    """
    date = made or datetime.now(UTC).isoformat(timespec="seconds")
    other = assumptions.another_model(basis.setting, spec)
    first = None if other else assumptions.base_phases(basis.setting, spec)
    out: list[Said] = []
    seen = 0
    for index, phase in enumerate(spec.phases):
        seen += phase.tokens
        subject = Subject(boundary=spec.boundary(index), phase=phase.name, index=index, tokens=seen)
        for name in basis.names:
            reason = other or assumptions.not_scored(basis.setting, spec, basis.targets(name))
            told = reason or _told(basis, spec, first, subject, name, date)
            out.append(
                NoPrediction(subject=subject, score=name, reason=told)
                if isinstance(told, str)
                else told
            )
    return tuple(out)


def _told(
    basis: Basis, spec: RunSpec, first: int | None, subject: Subject, name: str, made: str
) -> Prediction | str:
    """One number's prediction, or the reason why there is none."""
    index = subject.index
    alone = assumptions.replay_only(basis.setting, spec.phases[index])
    if first is not None and index < first:
        unlike = assumptions.unlike_base(basis.setting, spec, first)
        if not unlike:
            return _base(basis, spec, subject, name, made)
        return f"replay alone, and not as the sweep's base was trained: {'; '.join(unlike)}"
    if alone:
        return "replay alone: the law is about what is bought"
    if first is None:
        return _no_base(basis, spec)
    if spec.phases[index].trainable == "embeddings":
        return "embeddings alone are trained: no run of the sweep did that"
    return _curve(basis, spec, first, subject, name, made)


def _no_base(basis: Basis, spec: RunSpec) -> str:
    base = basis.setting.base
    assert base is not None  # a run that starts from the sweep's own base has one
    before = 0
    for phase in spec.phases:
        if not assumptions.replay_only(basis.setting, phase):
            break
        before += phase.tokens
    return (
        f"the law's runs start from a base of {sum(p.tokens for p in base.phases):,} tokens of "
        f"replay; this run has {before:,} before its first source"
    )


def _base(basis: Basis, spec: RunSpec, subject: Subject, name: str, made: str) -> Prediction | str:
    """The sweep's base, trained again: its score, within the noise of two runs."""
    table = basis.fitted.table
    column = AIM if name == AIM else f"bpb {name}"
    scored = float(table.loc[table["arm"] == "base", column].iloc[0])
    points = effects.points_of(table, basis.fitted.points.labels, column)
    try:
        noise = noise_floor(points)
    except LawError:
        return "the sweep's base again, but no run was repeated: nothing tells its noise"
    half = float(stats.t.ppf(0.5 + basis.level / 2, noise.degrees)) * noise.sd * 2**0.5
    known = assumptions.same_base_run(basis.setting, spec)
    return Prediction(
        subject=subject,
        score=name,
        value=scored,
        low=scored - half,
        high=scored + half,
        level=basis.level,
        basis=f"the sweep's base, measured; interval of the difference of two runs, from the SD "
        f"between seeds, {noise.sd:.4f} on {noise.degrees} degrees of freedom",
        broken=()
        if known
        else (
            "the SD is that of annealed runs from one base: bases of several seeds may differ by "
            "more",
        ),
        extrapolation=1.0,
        known=known,
        made=made,
        **_addresses(basis),
    )


def _curve(
    basis: Basis, spec: RunSpec, first: int, subject: Subject, name: str, made: str
) -> Prediction | str:
    """The law at the tokens trained since the base."""
    bought = trained(basis.design, spec, first, subject.index)
    law = basis.law(name)
    total = sum(bought.values())
    lacking = [
        n for n, v in bought.items() if n not in law.labels and (n != CONTROL or v > BEYOND * total)
    ]
    if lacking:
        return "no curve for " + ", ".join(
            "more replay than the runs had" if n == CONTROL else f"`{n}`" for n in lacking
        )
    scores = _draws(basis, name, bought)
    low, high = band(one_run(scores, law.noise), level=basis.level)
    value, frame = float(scores.mean()), law.frame
    return Prediction(
        subject=subject,
        score=name,
        value=value,
        low=min(float(low), value),
        high=max(float(high), value),
        level=basis.level,
        basis=f"the law of `{name}` at {total:,.0f} source tokens since the base, under "
        f"{law.draws} draws with the noise of one run and the error of the mixture rule that the "
        "uniform mix showed",
        broken=assumptions.broken(basis.setting, spec, first, subject.index),
        extrapolation=max(total / frame.high, frame.low / total, 1.0),
        made=made,
        **_addresses(basis),
    )


def _addresses(basis: Basis) -> dict[str, str]:
    # what was learnt since about old intervals is printed in a decision, and is no part of it
    said = basis.decision.model_dump(mode="json", exclude={"calibration"})
    return {
        "decision": address(said),
        "analysis": basis.decision.reproduce.get("analysis", ""),
    }


def trained(design: Design, spec: RunSpec, first: int, last: int) -> dict[str, float]:
    """Source tokens by source over phases `first` to `last`, as the law counts them.

    Of T trained tokens the law's runs have T (1 - r) source tokens, r the share of replay. Where
    fewer came from sources, the rest is replay beyond the runs' own, which is what the control's
    curve is about; where more did, there is none.
    """
    out: dict[str, float] = {}
    total = 0
    for phase in spec.phases[first : last + 1]:
        total += phase.tokens
        for portion in phase.mixture:
            if portion.source != design.replay.name:
                tokens = portion.tokens or portion.share * phase.tokens
                out[portion.source] = out.get(portion.source, 0.0) + tokens
    more = total * (1 - design.anneal.replay_share) - sum(out.values())
    if more > 0 and design.anneal.replay_share > 0:
        out[CONTROL] = more
    return out


def _draws(basis: Basis, name: str, bought: Mapping[str, float]) -> Floats:
    """(draws,) scores of the mean curve at these source tokens."""
    law, design = basis.law(name), basis.design
    exist = {s.name: s.tokens for s in design.sources} | {CONTROL: design.replay.tokens}
    names = [n for n in exist if n in law.labels and bought.get(n, 0.0) > 0]
    tokens = np.array([[bought[n] for n in names]])
    unique = np.array([float(exist[n]) for n in names])
    codes = np.array([law.code(n) for n in names], dtype=np.int64)
    rule = mixture_score if name == AIM else guard_score
    scores = rule(law, tokens, unique, groups=codes)[:, 0]
    return np.asarray(scores * basis.fitted.rule_errors[name].factor(tokens)[:, 0])


def one_run(scores: Floats, noise: Floats) -> Floats:
    """(draws x NOISES,) scores one run could get: each draw (draws,) with its relative noise SD.

    The noise is taken at equally likely quantiles, not drawn: equal laws give equal intervals.
    """
    z = stats.norm.ppf((np.arange(NOISES) + 0.5) / NOISES)
    return np.asarray((scores[:, None] * np.exp(noise[:, None] * z[None, :])).ravel())
