"""What a law takes for granted of a run, held against a run of several phases.

A sweep's runs all look alike: from one base, one phase, one decay, sources evenly mixed with one
share of replay. A law fitted to them says something of other such runs. This module finds how far a
full run is one: what makes its law inapplicable is a reason to predict nothing, what is merely
otherwise is told beside the prediction, because the interval does not know it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from anneal.plan.runs import Design
from anneal.plan.values import Phase, RunSpec, Schedule

SAME_BASE = 0.01
"""Relative difference in tokens up to which replay alone counts as the sweep's base."""
SAME_SHARE = 0.02
"""Difference of a share up to which it counts as the same: whole sequences cannot do better."""


@dataclass(frozen=True)
class Setting:
    """What the law's runs had in common.

    Args:
        design: what they follow from.
        base: the run that trained their base; None where it is a checkpoint.
    """

    design: Design
    base: RunSpec | None


def another_model(setting: Setting, spec: RunSpec) -> str:
    """Why nothing of a sweep speaks of this run at all; empty where something may."""
    design = setting.design
    starts = [design.start] if setting.base is None else [design.start, setting.base.start]
    if spec.start not in starts:
        return "it starts from another model than the sweep's runs"
    if (spec.tokenizer, spec.vocabulary) != (design.tokenizer, design.vocabulary):
        return "its tokenizer is not that of the sweep's runs"
    return ""


def not_scored(setting: Setting, spec: RunSpec, names: tuple[str, ...]) -> str:
    """Why a score over these targets would be another score; empty where it is the same."""
    asked = {t.name: t for t in setting.design.targets}
    own = {t.name: t for t in spec.targets}
    for name in names:
        if name not in own:
            return f"this run does not score `{name}`"
        if own[name] != asked[name]:
            return f"`{name}` is another text, or weighs otherwise, than in the sweep"
    return ""


def replay_only(setting: Setting, phase: Phase) -> bool:
    """Whether a phase trains on the replay source alone."""
    return all(p.source == setting.design.replay.name for p in phase.mixture)


def base_phases(setting: Setting, spec: RunSpec) -> int | None:
    """How many first phases stand for the sweep's base: 0 where the run starts from it, None where
    nothing in it is as long as the base."""
    if spec.start == setting.design.start:
        return 0
    assert setting.base is not None  # `another_model` has been asked
    whole, seen = sum(p.tokens for p in setting.base.phases), 0
    for index, phase in enumerate(spec.phases):
        seen += phase.tokens
        if not replay_only(setting, phase) or seen > whole * (1 + SAME_BASE):
            return None
        if seen >= whole * (1 - SAME_BASE):
            return index + 1
    return None


def unlike_base(setting: Setting, spec: RunSpec, phases: int) -> tuple[str, ...]:
    """How the first phases differ from the training of the sweep's base, seed apart."""
    base = setting.base
    if not phases or base is None:
        return ()
    if phases > 1:
        return (f"its base was trained in {phases} phases, the sweep's in one",)
    return tuple(_unlike(spec.phases[0], base.phases[0], spec, base))


def same_base_run(setting: Setting, spec: RunSpec) -> bool:
    """Whether the first phase is the very run that trained the sweep's base, but for its name."""
    base = setting.base
    return (
        base is not None
        and (spec.seed, spec.start) == (base.seed, base.start)
        and not unlike_base(setting, spec, 1)
    )


def _unlike(phase: Phase, other: Phase, spec: RunSpec, base: RunSpec) -> Iterator[str]:
    if phase.tokens != other.tokens:
        yield f"its base had {phase.tokens:,} tokens, the sweep's {other.tokens:,}"
    ours, theirs = ([(p.content, p.share, p.pool) for p in x.mixture] for x in (phase, other))
    if ours != theirs:
        yield "its base read other tokens than the sweep's"
    if phase.schedule != other.schedule:
        yield (
            f"its base's learning rate: {schedule_words(phase.schedule)}; the sweep's: "
            f"{schedule_words(other.schedule)}"
        )
    sizes = [(x.batch, x.sequence) for x in (phase, other)]
    if sizes[0] != sizes[1]:
        (batch, sequence), (b, s) = sizes
        yield f"its base had batches of {batch} x {sequence} tokens, the sweep's {b} x {s}"
    if phase.trainable != "all":
        yield "its base trained embeddings alone"
    if (spec.optimiser, spec.precision) != (base.optimiser, base.precision):
        yield "its base had another optimiser or precision than the sweep's"


def schedule_words(schedule: Schedule) -> str:
    """`linear from 0.003 to 0.0003, warm-up 2%`."""
    words = f"{schedule.kind} "
    if schedule.kind == "constant":
        words += f"at {schedule.peak:g}"
    else:
        words += f"from {schedule.peak:g} to {schedule.peak * schedule.final:.3g}"
    return words + (f", warm-up {100 * schedule.warmup:.3g}%" if schedule.warmup else "")


def broken(setting: Setting, spec: RunSpec, first: int, index: int) -> tuple[str, ...]:
    """Assumptions of the law that do not hold at the end of phase `index`, in words.

    Args:
        setting: what the law's runs had in common.
        spec: the run.
        first: its first phase after the base, see `base_phases`.
        index: the phase whose end is predicted, `first` or later.
    """
    phases = spec.phases[first : index + 1]
    found = list(unlike_base(setting, spec, first))
    if first and setting.base is not None and spec.seed != setting.base.seed:
        found.append("its base has another seed: how far bases differ is not in the interval")
    found += _unlike_rates(setting, phases)
    found += _unlike_mixtures(setting, phases)
    anneal, design = setting.design.anneal, setting.design
    for what, ours, theirs in (
        ("batches", {p.batch * p.sequence for p in phases}, anneal.batch * anneal.sequence),
        ("sequences", {p.sequence for p in phases}, anneal.sequence),
    ):
        if ours != {theirs}:
            told = ", ".join(f"{n:,}" for n in sorted(ours))
            found.append(f"{what} of {told} tokens; the law's runs had {theirs:,}")
    if phases[0].optimiser_state != anneal.optimiser_state:
        found.append(
            f"the base's optimiser state is {phases[0].optimiser_state}; the law's runs had it "
            f"{anneal.optimiser_state}"
        )
    if any(p.trainable == "embeddings" for p in phases):
        found.append("a phase trained embeddings alone; the law's runs trained all weights")
    if (spec.optimiser, spec.precision) != (design.optimiser, design.precision):
        found.append("another optimiser or precision than the law's runs")
    if spec.score_sequence != design.score_sequence:
        found.append(
            f"scored with {spec.score_sequence:,} tokens of context; the law's runs with "
            f"{design.score_sequence:,}"
        )
    return tuple(found)


def _unlike_rates(setting: Setting, phases: tuple[Phase, ...]) -> Iterator[str]:
    asked, last = setting.design.anneal.schedule, phases[-1].schedule
    again = sum(
        after.schedule.peak > _ends_at(before.schedule) * 1.01 for before, after in pairwise(phases)
    )
    if again:
        yield (
            f"the law's runs decay once; this one has re-warmed {again} "
            f"{'time' if again == 1 else 'times'} by then"
        )
    if last != asked:
        yield (
            f"its learning rate is {schedule_words(last)}; the law's runs: {schedule_words(asked)}"
        )


def _ends_at(schedule: Schedule) -> float:
    return schedule.peak * (1.0 if schedule.kind == "constant" else schedule.final)


def _unlike_mixtures(setting: Setting, phases: tuple[Phase, ...]) -> Iterator[str]:
    design = setting.design
    shares = [{p.source: p.share for p in phase.mixture} for phase in phases]
    names = {name for own in shares for name in own}
    for before, after in pairwise(shares):
        if any(abs(before.get(n, 0.0) - after.get(n, 0.0)) > SAME_SHARE for n in names):
            yield "the law's runs mix their sources evenly; this one takes them in turn"
            break
    for phase, own in zip(phases, shares, strict=True):
        replay = own.get(design.replay.name, 0.0)
        if replay < design.anneal.replay_share - SAME_SHARE:
            yield (
                f"phase `{phase.name}` has {replay:.0%} replay; the law's runs had "
                f"{design.anneal.replay_share:.0%}"
            )
    known = {s.name: s.content for s in (*design.sources, design.replay)}
    other = {
        p.source for phase in phases for p in phase.mixture if known.get(p.source) != p.content
    }
    for name in sorted(other & set(known)):
        yield f"`{name}` is laid out in tokens otherwise than in the law's runs"
