"""The cost meter end to end: a filtered source of a synthetic source of a bought one, by hand, and
the same number wherever it is used."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from anneal.curation.plan import manifests, plan_preparation
from anneal.curation.values import CuratedSource, CuratedTarget, CurationRecord, TrainedTokenizer
from anneal.curation.worker import prepare
from anneal.plan.budget import Budget, Prices, Real
from anneal.plan.flops import training_flops
from anneal.plan.runs import Anneal, Design, plan_runs
from anneal.plan.values import FromRun, Scored
from anneal.sources.layout import Layout
from anneal.sources.values import Cost
from anneal.store import Store, read_value
from anneal.sweep.analyse import _supply as bought_as
from anneal.sweep.curves import Arm, axis_value
from anneal.sweep.show import _rising
from anneal.sweep.tasks import supply_of as planned_as

TIERS = ((30_000, 0.0), (400_000, 2e-6), (1, 9e-6))
DECLARED = {
    "bought": Cost(usd_fixed=5.0, usd_per_token=1e-7, usd_tiers=TIERS, flops_per_token=3.0),
    "drills": Cost(usd_per_token=4e-7, flops_per_token=200.0, flops_fixed=1e6),
    "best": Cost(seconds_fixed=7.0, seconds_per_token=1e-3),
}
PRICES = Prices(usd_per_hour=3.6, flops_per_second=1e9)
N = 50_000


def source(name, read, **fields):
    fields = {"kind": "general", "cost": DECLARED.get(name, Cost())} | fields
    return CuratedSource.model_validate({"name": name, "read": read, **fields})


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Manifests and records by name; `bought` is no candidate of the sweep itself."""
    base = tmp_path_factory.mktemp("chain")
    library = {"kind": "installed", "what": "stdlib", "max_bytes": 20_000}
    helper = source("bought", {**library, "max_total_bytes": 700_000}, split={"part": "train"})
    good = {"kind": "installed", "what": "packages", "packages": ["networkx"], "max_bytes": 9000}
    judge = {"kind": "annotate", "positives": "good", "keep": 0.4}
    sources = [
        source("good", {**good, "max_total_bytes": 300_000}),
        source("drills", {"kind": "prepared", "source": "bought"}, steps=[{"kind": "exercises"}]),
        source("best", {"kind": "prepared", "source": "drills"}, kind="filtered", steps=[judge]),
        source(
            "packed",
            {"kind": "prepared", "source": "drills"},
            kind="filtered",
            steps=[judge],
            cost=DECLARED["best"],
            layout=Layout(packing="best_fit", sequence=64),
        ),
    ]
    targets = [CuratedTarget(name="held", read=library, split={"part": "heldout"}, max_tokens=5000)]
    tokenizer = TrainedTokenizer(vocabulary=400, sources=("good",))
    store = Store(base / "store")
    more = {"others": [helper]}
    steps = plan_preparation(sources, targets, tokenizer, store, base=base, **more)
    for step in steps:
        prepare(step, store, lambda done, total: None)
    found = manifests(sources, targets, steps, store, **more)
    records = {
        step.label.removeprefix("documents of "): read_value(step.done(store), CurationRecord)
        for step in steps
        if step.action == "documents"
    }
    return found, records


def test_yields_and_costs_multiply_over_chained_sources(chain):
    found, records = chain
    done = {name: records.get(name) for name in ("bought", "drills")}
    last = records.get("best") or records["packed"]  # the two share their documents
    kept = last.bytes / last.read_bytes
    written = done["drills"].bytes / done["drills"].read_bytes
    assert last.read_bytes == done["drills"].bytes
    assert done["drills"].read_bytes == done["bought"].bytes
    assert 0.3 < kept < 0.45
    assert written != 1
    cost, tokens = found["best"].cost, found["best"].tokens
    # declared: a token of `best` took 1 / kept tokens of the drills, and of the bought ones
    # 1 / (kept x written)
    for unique in (100.0, 3000.0, float(tokens)):
        bought = DECLARED["bought"].usd(unique / kept / written)
        assert cost.usd(unique) == pytest.approx(bought + 4e-7 * unique / kept)
    # measured: every candidate of every stage, for the tokens that were kept in the end
    stages = [*done["bought"].steps, *done["drills"].steps, *last.steps]
    scored = sum(stage.flops for stage in stages)
    assert scored > 0
    assert cost.flops_per_token == pytest.approx(
        scored / tokens + 200.0 / kept + 3.0 / kept / written
    )
    assert cost.flops_fixed == pytest.approx(1e6 + sum(stage.flops_fixed for stage in stages))
    assert cost.seconds_fixed == pytest.approx(7 + sum(stage.seconds_fixed for stage in stages))
    seconds = sum(stage.seconds for stage in stages)
    assert cost.seconds_per_token == pytest.approx(seconds / tokens + 1e-3)
    # each stage alone
    drills = found["drills"]
    assert drills.cost.usd(1e4) == pytest.approx(4e-3 + DECLARED["bought"].usd(1e4 / written))


def test_packing_changes_no_price(chain):
    found, _ = chain
    best, packed = found["best"], found["packed"]
    assert packed.padding > 0
    assert packed.tokens == best.tokens
    assert packed.cost == best.cost


def design(*supplies):
    return Design(
        start=FromRun(run="base"),
        parameters=N,
        tokenizer="t",
        vocabulary=400,
        replay=supplies[0],
        sources=supplies[1:],
        targets=(Scored(name="held", content="x"),),
        budget=Budget(
            smallest=2000, largest=8000, count=3, repetition="natural", real=Real(usd=9.0)
        ),
        anneal=Anneal(batch=2, sequence=64),
        prices=PRICES,
    )


def test_plan_cost_axes_and_allocation_use_the_same_number(chain):
    found, _ = chain
    supplies = [planned_as(16.0, found[name]) for name in ("good", "drills", "best")]
    asked = design(*supplies)
    evidence = SimpleNamespace(
        design=asked, ask=SimpleNamespace(allocation=SimpleNamespace(shares={}))
    )
    train = PRICES.training_usd(training_flops(N, 1.0))
    for supply in supplies[1:]:
        runs = [r for r in plan_runs(asked) if r.source == supply.name]
        assert len({run.budget for run in runs}) == 3
        for run in runs:
            tokens = float(run.budget)
            unique = min(tokens, supply.tokens)
            hand = found[supply.name].cost
            usd = hand.usd(unique) + 1e-3 * (hand.seconds_fixed + hand.seconds_per_token * unique)
            assert run.acquisition_usd == pytest.approx(usd)
            arm = Arm(supply.name, supply, 1e5, bought=True)
            axis = axis_value(asked, arm, "usd", np.array([tokens]), np.array([unique]))
            assert axis[0] == pytest.approx(usd + train * tokens / 0.75)
            bought = bought_as(evidence, supply)
            assert bought.acquired("usd", unique) == pytest.approx(usd)
            flops = axis_value(asked, arm, "total_flops", np.array([tokens]), np.array([unique]))
            assert flops[0] - training_flops(N, tokens / 0.75) == pytest.approx(
                run.acquisition_flops, rel=1e-6
            )
            assert bought.acquired("flops", unique) == pytest.approx(run.acquisition_flops)


def test_the_plan_tells_a_rising_price_tier_by_tier(chain):
    found, records = chain
    told = _rising(
        design(*[planned_as(1.0, found[n]) for n in ("good", "best")]),
        planned_as(1.0, found["best"]),
    )
    last = records.get("best") or records["packed"]
    drills = records["drills"]
    ratio = last.read_bytes / last.bytes * drills.read_bytes / drills.bytes
    assert f" for {30_000 / ratio:,.0f}, " in told
    assert told.endswith(" beyond")
    assert (
        _rising(
            design(*[planned_as(1.0, found[n]) for n in ("good", "drills")]),
            planned_as(1.0, found["good"]),
        )
        == ""
    )
