# %% [markdown]
# Was the decision right? Runs the real budget with the recommended allocation and with each single
# source, and sets what is measured beside what the law predicted.
#
#     python analysis/check_decision.py [SWEEP.yaml] [key=value ...]
#
# The sweep must be finished. Runs land in the same store, so running this again costs nothing.

# %%
from __future__ import annotations

import sys
from pathlib import Path

from anneal import settings
from anneal.launch.live import Live
from anneal.launch.local import LocalLauncher, on_gpus
from anneal.ledger import Ledger
from anneal.plan.values import Phase, Portion, RunSpec
from anneal.report.decision import Decision
from anneal.store import Store, read_value
from anneal.sweep.base import base_spec, start_from
from anneal.sweep.prepare import read, steps_of
from anneal.sweep.tasks import design_of, run_tasks


def real_run(design, shares: dict[str, float], tokens: int, seed: int) -> RunSpec:
    """The real budget with these shares of source tokens, replay on top, from all there is."""
    anneal, supplies = design.anneal, {s.name: s for s in design.sources}
    step = anneal.batch * anneal.sequence
    mixture = [
        Portion(
            source=name, content=supplies[name].content, share=share * (1 - anneal.replay_share)
        )
        for name, share in shares.items()
        if name in supplies and share > 0
    ]
    rest = 1 - sum(p.share for p in mixture)
    mixture.append(Portion(source=design.replay.name, content=design.replay.content, share=rest))
    phase = Phase(
        name="real budget",
        mixture=tuple(mixture),
        tokens=round(tokens / (1 - anneal.replay_share) / step) * step,
        batch=anneal.batch,
        sequence=anneal.sequence,
        schedule=anneal.schedule,
        optimiser_state=anneal.optimiser_state,
    )
    return RunSpec(
        start=design.start,
        phases=(phase,),
        seed=seed,
        tokenizer=design.tokenizer,
        vocabulary=design.vocabulary,
        optimiser=design.optimiser,
        precision=design.precision,
        targets=design.targets,
        score_sequence=design.score_sequence,
    )


# %%
def main(words: list[str]) -> None:
    files = [w for w in words if "=" not in w]
    ask = settings.load(Path(files[0]) if files else None, [w for w in words if "=" in w])
    store = Store(ask.store)
    decision = read_value(store.sweep(ask.name) / "report" / "decision.json", Decision)
    manifests = read(ask, steps_of(ask, store), store)
    base = base_spec(ask, manifests)
    design = design_of(ask, manifests, start_from(ask, base, manifests, store))
    asked = {"recommended": {row.source: row.share for row in decision.allocation}}
    predicted = {"recommended": decision.score}
    for fit in decision.fit.sources:
        if fit.source in manifests:
            asked[f"{fit.source} alone"] = {fit.source: 1.0}
            predicted[f"{fit.source} alone"] = fit.at_real_budget
    specs = {n: real_run(design, s, decision.real_tokens, ask.seed) for n, s in asked.items()}
    logs = store.sweep(ask.name) / "logs"
    with Live() as live, LocalLauncher(store, on_gpus(ask.launcher), logs=logs) as workers:
        workers.run(run_tasks(ask, list(dict.fromkeys(specs.values())), store), on_event=live)
    aims = [t for t in design.targets if not t.guard]
    times = f"{decision.extrapolation:.0f}x the largest budget"
    print(f"at {decision.real_tokens:,} source tokens, {times}")
    for name, spec in specs.items():
        result = Ledger(store).result(spec.id)
        if result is None:
            print(f"{name:<26} failed")
            continue
        score = sum(result.scores[t.name].bpb * t.weight for t in aims) / sum(
            t.weight for t in aims
        )
        told = predicted[name]
        held = "inside" if told.low <= score <= told.high else "OUTSIDE"
        guards = ", ".join(
            f"{g} {result.scores[g].bpb:.4f} (limit {limit:.4f})"
            for g, limit in decision.guard_limits.items()
        )
        print(
            f"{name:<26} predicted {told.value:.4f} [{told.low:.4f}, {told.high:.4f}], "
            f"measured {score:.4f}: {held}; {guards}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
