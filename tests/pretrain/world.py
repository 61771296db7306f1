"""A planted sweep in this process, and full runs over what it decided, with their true scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anneal.launch.values import Launcher, Outcome, Task, ignore
from anneal.ledger import Ledger
from anneal.plan.runs import CONTROL, Design, plan_runs
from anneal.plan.values import FromRun, Phase, PhaseEnd, Portion, RunSpec, Score
from anneal.pretrain.predict import Basis, refit, trained
from anneal.report.decision import Decision
from anneal.store import Store, read_value
from anneal.sweep.base import base_spec, start_from
from anneal.sweep.job import sweep
from anneal.sweep.prepare import read, steps_of
from anneal.sweep.tasks import design_of
from anneal.sweep.values import Sweep
from tests.integration import planted
from tests.integration.test_planted import TRUTH, ask_in


class Here(Launcher):
    """The planted worker, called in this process."""

    def run(self, tasks: Sequence[Task], *, on_event=ignore) -> list[Outcome]:
        for task in tasks:
            if not Path(task.done).exists():
                planted.handle(task.spec, lambda *_, **__: None)
        return [Outcome(task=task.id, ok=True) for task in tasks]

    def admit(self, slots: int, *, what: str) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class World:
    truth: dict
    ask: Sweep
    store: Store
    design: Design
    base: RunSpec
    decision: Decision
    basis: Basis

    def refit(self) -> Basis:
        return made_again(self.ask, self.decision)

    def full_run(self, *phases: Phase, start: str = "scratch", **more) -> RunSpec:
        spec = self.base.model_copy(update={"phases": phases, **more})
        if start == "base":
            spec = spec.model_copy(update={"start": FromRun(run=self.base.id)})
        return spec

    def general(self, **more) -> Phase:
        return self.base.phases[0].model_copy(update={"name": "general", **more})

    def bought(self, name: str, part: float = 1.0, **more) -> Phase:
        """A phase of `part` of the allocation, its replay with it."""
        own = {r.source: r.share for r in self.decision.allocation if r.share > 0}
        return self.mixed(name, own, self.decision.real_tokens * part, **more)

    def mixed(self, name: str, shares: dict[str, float], source_tokens: float, **more) -> Phase:
        design, r = self.design, self.design.anneal.replay_share
        contents = {s.name: s.content for s in (*design.sources, design.replay)}
        replay = design.replay.name
        own = {n: s * (1 - r) for n, s in shares.items()}
        own[replay] = r + own.pop(CONTROL, 0.0)
        given = {
            "name": name,
            "mixture": tuple(
                Portion(source=n, content=contents.get(n, n), share=s) for n, s in own.items()
            ),
            "batch": 8,
            "sequence": 128,
            "schedule": design.anneal.schedule,
        }
        given |= more
        step = given["batch"] * given["sequence"]
        return Phase(**given, tokens=round(source_tokens / (1 - r) / step) * step)

    def true_scores(self, spec: RunSpec, first: int, last: int) -> dict[str, float]:
        """What the planted law gives at a phase end, without noise."""
        names = {CONTROL: self.design.replay.name}
        own = trained(self.design, spec, first, last)
        tokens = {names.get(n, n): v for n, v in own.items()}
        pools = {n: float(self.truth["tokens"][n]) for n in tokens}
        total = sum(tokens.values())
        return {
            "target": planted.true_score(self.truth, tokens, pools),
            "guard": 3.0 + self.truth["guard"] * float(np.log2(1 + total / 1e5)),
        }

    def ends(self, spec: RunSpec, first: int, rng: np.random.Generator, finished: str):
        """Phase ends of a run as measured: the truth with the noise of one run."""
        return tuple(
            end(spec, index, self.measured(spec, first, index, rng), finished)
            for index in range(len(spec.phases))
        )

    def measured(self, spec: RunSpec, first: int, index: int, rng: np.random.Generator):
        if index < first:
            return {"target": self.truth["base"], "guard": 3.0}
        noise = float(np.exp(self.truth["noise"] * rng.standard_normal()))
        scores = self.true_scores(spec, first, index)
        return scores | {"target": scores["target"] * noise}


def end(spec: RunSpec, index: int, scores: dict[str, float], finished: str) -> PhaseEnd:
    phase = spec.phases[index]
    return PhaseEnd(
        phase=phase.name,
        index=index,
        tokens=sum(p.tokens for p in spec.phases[: index + 1]),
        steps=phase.steps,
        source_tokens={p.source: round(p.share * phase.tokens) for p in phase.mixture},
        unique_tokens={p.source: round(p.share * phase.tokens) for p in phase.mixture},
        scores={n: Score(loss=v, bpb=v, tokens=1, bytes=1) for n, v in scores.items()},
        loss=2.0,
        learning_rate=1e-4,
        weights="w",
        moments="m",
        seconds=1.0,
        finished=finished,
    )


def made_again(ask: Sweep, decision: Decision) -> Basis:
    store = Store(ask.store)
    manifests = read(ask, steps_of(ask, store), store)
    base = base_spec(ask, manifests)
    design = design_of(ask, manifests, start_from(ask, base, manifests, store))
    return refit(
        ask,
        design,
        plan_runs(design),
        manifests,
        base=base,
        decision=decision,
        ledger=Ledger(store),
    )


def answered(folder: Path, monkeypatch, *overrides: str, **truth) -> World:
    """A finished planted sweep."""
    told = TRUTH | truth
    monkeypatch.setattr(planted, "TRUTH", told)
    ask = ask_in(folder, *overrides)
    assert sweep(ask, launcher=Here()) == 0
    store = Store(ask.store)
    decision = read_value(store.sweep(ask.name) / "report" / "decision.json", Decision)
    basis = made_again(ask, decision)
    assert basis.setting.base is not None
    return World(told, ask, store, basis.design, basis.setting.base, decision, basis)
