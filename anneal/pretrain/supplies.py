"""What the phases of a full run draw on: the sweep's sources, some of them laid out a second way.

A phase may want its sources by repository, or packed for windows of another length. That is the
same documents tokenised again: a sweep like the asked one, but for those sources' layouts, has the
same document steps and tokenizer, and other tokens. So nothing is curated twice, and a source that
lies as before is found finished.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anneal.curation.values import CuratedSource, PrepareStep
from anneal.errors import PlanError, SettingsError
from anneal.launch.values import Launcher, Listener
from anneal.plan.budget import Supply
from anneal.plan.pretraining import Pretraining, variants
from anneal.plan.runs import CONTROL
from anneal.plan.values import LlamaShape
from anneal.report.decision import Decision
from anneal.sources.values import Manifest
from anneal.store import Store, read_value
from anneal.sweep import prepare as sweep_prepare
from anneal.sweep.tasks import supply_of
from anneal.sweep.values import Sweep


@dataclass(frozen=True)
class Prepared:
    """Prepared tokens of a full run.

    Args:
        supplies: every source by name, replay among them, as the sweep has them.
        by_phase: by phase, those that lie otherwise there.
        manifests: of the sweep's sources and targets.
        relaid: manifests of what lies otherwise, by phase and name.
    """

    supplies: Mapping[str, Supply]
    by_phase: Mapping[str, Mapping[str, Supply]]
    manifests: Mapping[str, Manifest]
    relaid: Mapping[str, Mapping[str, Manifest]] = field(default_factory=dict)


def asked_of(ask: Sweep) -> Pretraining:
    """The full run that a sweep asks for.

    Raises:
        SettingsError: when it asks for none.
    """
    if ask.pretrain is None:
        raise SettingsError(
            f"sweep {ask.name}: it asks for no full run",
            hint="add `pretrain: three_phase` to its defaults, or the word pretrain=three_phase",
        )
    return ask.pretrain


def phase_sweeps(ask: Sweep) -> dict[str, Sweep]:
    """For each phase that wants sources laid out otherwise, the sweep with those layouts."""
    layouts: dict[str, dict[str, object]] = {}
    for variant in variants(asked_of(ask), ask.source, ask.replay[0]):
        layouts.setdefault(variant.phase, {})[variant.source] = variant.layout

    def laid(sources: Sequence[CuratedSource], mine: dict[str, object]) -> tuple[object, ...]:
        return tuple(
            s.model_copy(update={"layout": mine[s.name]}) if s.name in mine else s for s in sources
        )

    return {
        phase: ask.model_copy(
            update={"source": laid(ask.source, mine), "replay": laid(ask.replay, mine)}
        )
        for phase, mine in layouts.items()
    }


def all_steps(ask: Sweep, store: Store) -> tuple[PrepareStep, ...]:
    """Every preparation step of a full run, each once: the sweep's, then what is laid out again.

    Raises:
        SourceError: as in the sweep's own plan.
        PlanError: a phase's layout that the sweep's tokenizer has no tokens for.
    """
    steps = {step.id: step for step in sweep_prepare.steps_of(ask, store)}
    for phase, like in phase_sweeps(ask).items():
        more = sweep_prepare.steps_of(like, store)
        _same_tokenizer(phase, list(steps.values()), more)
        steps |= {step.id: step for step in more}
    return tuple(steps.values())


def _same_tokenizer(phase: str, steps: Sequence[PrepareStep], more: Sequence[PrepareStep]) -> None:
    before, after = ({s.id for s in some if s.action == "tokenizer"} for some in (steps, more))
    if before != after:
        raise PlanError(
            f"phase `{phase}`: its layout rearranges documents for filling in the middle, and the "
            "sweep's tokenizer is trained without the tokens for that",
            hint="give a source of the sweep a layout.fim_rate too, so that it has them",
        )


def prepare(ask: Sweep, store: Store, launcher: Launcher, listener: Listener) -> Prepared:
    """Prepares what is not prepared yet.

    Raises:
        SourceError: with the message of the first step that failed.
        PlanError: a phase's layout that the sweep's tokenizer has no tokens for.
    """
    all_steps(ask, store)  # refuses first
    manifests = sweep_prepare.prepare(ask, store, launcher, listener)
    relaid = {
        phase: sweep_prepare.prepare(like, store, launcher, listener)
        for phase, like in phase_sweeps(ask).items()
    }
    return _prepared(ask, manifests, relaid)


def read(ask: Sweep, store: Store) -> Prepared:
    """What was prepared before.

    Raises:
        StoreError: when something is not.
    """
    manifests = sweep_prepare.read(ask, sweep_prepare.steps_of(ask, store), store)
    relaid = {
        phase: sweep_prepare.read(like, sweep_prepare.steps_of(like, store), store)
        for phase, like in phase_sweeps(ask).items()
    }
    return _prepared(ask, manifests, relaid)


def _prepared(
    ask: Sweep, manifests: Mapping[str, Manifest], relaid: Mapping[str, Mapping[str, Manifest]]
) -> Prepared:
    sources = {s.name: s for s in (*ask.source, *ask.replay)}
    other: dict[str, dict[str, Manifest]] = {}
    for variant in variants(asked_of(ask), ask.source, ask.replay[0]):
        mine = relaid[variant.phase][variant.source]
        other.setdefault(variant.phase, {})[variant.source] = mine
    return Prepared(
        supplies={n: supply_of(s.max_epochs, manifests[n]) for n, s in sources.items()},
        by_phase={
            phase: {n: supply_of(sources[n].max_epochs, m) for n, m in mine.items()}
            for phase, mine in other.items()
        },
        manifests=manifests,
        relaid=other,
    )


def find_decision(ask: Sweep, path: Path | None) -> Decision | None:
    """The decision that is named, else the sweep's own; None where it has not decided yet.

    Raises:
        PlanError: a file that is missing, or another sweep's decision.
        StoreError: a file that is no decision.
    """
    own = Store(ask.store).sweep(ask.name) / "report" / "decision.json"
    if path is None and not own.exists():
        return None
    if path is not None and not path.is_file():
        raise PlanError(
            f"decision {path}: no such file",
            hint=f"a sweep writes it: {own}",
        )
    decision = read_value(path or own, Decision)
    if decision.sweep != ask.name:
        raise PlanError(
            f"decision {path}: it is of the sweep `{decision.sweep}`, not of `{ask.name}`",
            hint="give its own sweep file too: python -m anneal pretrain SWEEP.yaml DECISION.json",
        )
    return decision


def allocated(decision: Decision, replay: str) -> dict[str, int]:
    """Source tokens that a decision buys; what it buys of replay besides, under replay's name."""
    return {
        replay if row.source == CONTROL else row.source: row.tokens for row in decision.allocation
    }


def trained_before(ask: Sweep) -> dict[str, int]:
    """Tokens by source that the start was trained on by us: they count as epochs."""
    if asked_of(ask).start == "scratch" or not isinstance(ask.model, LlamaShape):
        return {}
    step = ask.base.batch * ask.base.sequence
    return {ask.replay[0].name: max(1, round(ask.base.tokens / step)) * step}
