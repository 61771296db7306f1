"""What the report says beside its main numbers: points, checks, warnings, how to reproduce."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anneal.allocation.values import Flip
from anneal.curation.leaks import NOTE
from anneal.laws import band, predict
from anneal.plan.runs import CONTROL
from anneal.report.law_rows import CurvePoint, Interval, MixtureCheck
from anneal.sweep import curves, effects
from anneal.sweep.evidence import THRESHOLD, Evidence
from anneal.sweep.mixtures import uniform_runs
from anneal.values import address

if TYPE_CHECKING:
    from anneal.sweep.analyse import Analysis


def points(evidence: Evidence, found: Analysis) -> Iterator[CurvePoint]:
    """The runs behind the curves, with what the law says of each."""
    design, level = evidence.design, evidence.ask.law.level
    arms = {arm.name: arm for arm in curves.arms_of(design)}
    labels = found.points.labels
    rows = found.table[found.table["source"].isin(labels) & (found.table["arm"] != "base")].to_dict(
        "records"
    )
    held = {i: (e, a, b) for i, e, a, b in found.judged.predictions} if found.judged else {}
    expected = _fitted(found)
    for index, row in enumerate(rows):
        arm = arms[row["source"]]
        at = np.array([row["source_tokens"]], float)
        pool = np.array([min(row["unique_tokens"], row["source_tokens"])], float)
        prediction = None
        if index in held:
            value, low, high = held[index]
            prediction = Interval(value=value, low=low, high=high, level=level)
        yield CurvePoint(
            source=row["source"],
            run=row["run"],
            tokens=float(at[0]),
            unique=float(pool[0]),
            flops=float(curves.axis_value(design, arm, "training_flops", at, pool)[0]),
            total_flops=float(curves.axis_value(design, arm, "total_flops", at, pool)[0]),
            usd=float(curves.axis_value(design, arm, "usd", at, pool)[0]),
            score=float(row[effects.AIM]),
            seed=int(row["seed"]),
            repetition=row["repetition"],
            predicted=float(expected[index]),
            held_out_prediction=prediction,
            largest=int(row["budget"]) == design.budget.ladder[-1],
        )


def mixture_checks(evidence: Evidence, found: Analysis) -> Iterator[MixtureCheck]:
    """The uniform mixture as measured, beside what the single sources' curves say of it.

    The interval is for a run: the law's draws with their run-to-run noise.
    """
    level = evidence.ask.law.level
    seen = uniform_runs(evidence, found.table, found.law, effects.AIM)
    rng = np.random.default_rng(evidence.ask.seed)
    for i, budget in enumerate(seen.budgets):
        scores = seen.predicted[:, i]
        noise = found.law.noise * rng.standard_normal(len(scores)) / seen.runs[i] ** 0.5
        low, high = band(scores * np.exp(noise), level=level)
        yield MixtureCheck(
            budget=int(budget),
            predicted=Interval(
                value=float(np.median(scores)), low=float(low), high=float(high), level=level
            ),
            measured=float(seen.measured[i]),
        )


def repetition(evidence: Evidence) -> str:
    """Which runs had matched, which natural repetition."""
    kinds = {"matched": 0, "natural": 0}
    for run in evidence.runs:
        if run.arm != "base":
            kinds[run.repetition] += 1
    natural = sorted({r.source for r in evidence.runs if r.budget and r.repetition == "natural"})
    told = f"{kinds['matched']} runs with matched repetition (the epochs of the real budget)"
    if kinds["natural"]:
        told += f", {kinds['natural']} with natural repetition ({', '.join(natural)})"
    repeated = [
        f"{arm.name} {arm.real / arm.supply.tokens:.1f}x"
        for arm in curves.arms_of(evidence.design)
        if arm.bought and arm.real > arm.supply.tokens
    ]
    told += "; the real budget alone would repeat " + (", ".join(repeated) or "no source")
    return told


def warnings(evidence: Evidence, found: Analysis) -> Iterator[str]:
    """What a reader must know before trusting the numbers."""
    if evidence.changed:
        yield (
            "the pre-registered terms changed: this sweep was also registered as "
            + "; ".join(evidence.changed)
        )
    codes = sorted(set(found.table["code"]))
    if len(codes) > 1:
        yield f"runs were made by different versions of the code: {', '.join(codes)}"
    if evidence.design.budget.count < 5:
        yield f"{evidence.design.budget.count} budgets: a three-parameter curve wants five or more"
    if getattr(evidence.ask.model, "decayed", False):
        yield "the base had already decayed its learning rate: it adapts worse (arXiv 2505.07796)"
    for tried in found.judged.rows if found.judged else ():
        if tried.message:
            yield f"law `{tried.approach}` was not tried: {tried.message}"
    for row in effects.noise_rows(found.table, evidence, list(found.points.labels)):
        if not row.kept:
            yield f"target `{row.target}`: {row.reason} (SNR {row.snr:.2f})"
    if found.judged and found.judged.beaten_by:
        yield (
            f"`{found.judged.beaten_by}` predicts the largest budget better than any law here: "
            "rank by it, or add budgets, rather than believe the curves"
        )
    yield from _misfits(found)
    yield from _leaks(evidence)
    outside = [
        c.budget
        for c in mixture_checks(evidence, found)
        if not c.predicted.low <= c.measured <= c.predicted.high
    ]
    if outside:
        yield (
            "the uniform mixture was measured outside what the single curves predict at "
            + ", ".join(f"{b:,}" for b in outside)
            + " tokens: mixtures may add up otherwise than the mixture rule says"
        )


def _fitted(found: Analysis) -> NDArray[np.float64]:
    """(n,) what the law says of the runs that it was fitted to."""
    points = found.points
    scores = predict(found.law, points.group, points.tokens, points.unique)
    return np.asarray(np.median(scores, axis=0))


MISFIT = 3.0
"""RMS residual of one source, in noise floors, from which the law is said not to follow it."""


def _misfits(found: Analysis) -> Iterator[str]:
    """Sources whose results the law does not follow: one that turns up again, for one."""
    errors = _fitted(found) - found.points.score
    for code, label in enumerate(found.points.labels):
        own = errors[found.points.group == code]
        size = float(np.sqrt(np.mean(own**2))) if own.size else 0.0
        if size > MISFIT * found.noise:
            yield (
                f"the law does not follow `{label}`: its runs lie {size:.4f} bpb off it (RMS), "
                f"{size / found.noise:.1f} noise floors; every interval is wider for it"
            )


def _leaks(evidence: Evidence) -> Iterator[str]:
    """Annotators whose idea of quality is likeness to a target, by their own account."""
    for name, manifest in evidence.manifests.items():
        if NOTE in manifest.notes:
            yield f"`{name}` was filtered by an annotator: {manifest.notes[NOTE]}"


def _flip(flip: Flip) -> str:
    low, high = flip.searched
    if flip.factor is None:
        return f"{flip.change} x {low:g} to {high:g}: no other source leads"
    edges = ", ".join("beyond" if e is None else f"{e:.2g}" for e in (flip.low, flip.high))
    return (
        f"{flip.change} x {flip.factor:.2g} [{edges}]: then {flip.to} leads "
        f"({flip.probability:.0%} of draws flip)"
    )


def said(evidence: Evidence, found: Analysis) -> dict[str, str]:
    """Statements of uncertainty that have no table of their own (REPORT 4)."""
    budget = evidence.design.budget
    seeds = [f"{budget.seeds_at(i)} at {tokens:,}" for i, tokens in enumerate(budget.ladder)]
    rows = effects.effect_rows(found.table, evidence)
    targets = len(evidence.design.targets)
    return {
        "seeds per cell": f"{', '.join(seeds)} source tokens",
        "comparisons": f"{len(rows)} effects, {len(rows) // max(targets, 1)} per target; "
        "significance is Bonferroni-corrected within a target",
        "ties": f"differences below {THRESHOLD:g} SD of paired seed noise are ties; noise floor of "
        f"the score {found.noise:.4f} bpb",
        "interval coverage": "90% intervals were measured on simulated truth by the project's "
        "tests (tests/laws): see `anneal.laws.uncertainty`",
        "large regrets": f"P(regret over {found.allocation.regret_limit:.4f}) is "
        f"{found.allocation.chance_over:.0%}; mean of the worst {1 - found.allocation.level:.0%} "
        f"is {found.allocation.cvar:.4f}; minimised: {found.allocation.objective}",
        "where the mix flips": "; ".join(map(_flip, found.allocation.flips)) or "not searched",
        "purchases compared": f"{found.allocation.examined} allocations under "
        f"{found.law.draws} draws of the law",
    }


def reproduce(evidence: Evidence, found: Analysis) -> dict[str, str]:
    """Command, hashes, commit, data, versions, seeds."""
    design = evidence.design
    contents = {n: m.content for n, m in sorted(evidence.manifests.items())}
    seeds = sorted({run.seed for run in evidence.runs})
    out = {
        "command": evidence.command,
        "settings": address(
            evidence.ask.model_dump(mode="json", exclude={"folder", "store", "pretrain"})
        ),
        "design": address(design),
        "code": ", ".join(sorted(set(found.table["code"]))),
        "data": ", ".join(f"{n} {c}" for n, c in contents.items()),
        "tokenizer": design.tokenizer,
        "seeds": ", ".join(map(str, seeds)),
        "run versions": "; ".join(sorted(set(found.table["versions"]))),
        "analysis versions": _versions(),
        "devices": ", ".join(sorted(set(found.table["device"]))),
    }
    if CONTROL not in found.points.labels:
        out["control"] = "missing"
    return out


def _versions() -> str:
    names = ("numpy", "scipy", "pandas", "altair")
    found: dict[str, Any] = {"python": platform.python_version()}
    found |= {name: version(name) for name in names}
    return " ".join(f"{k} {v}" for k, v in found.items())
