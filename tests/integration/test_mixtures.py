"""The mixture rule's error in a whole sweep: it moves what is said, and nothing that is chosen."""

import numpy as np
import pytest

from anneal.ledger import Ledger
from anneal.plan.runs import plan_runs
from anneal.pretrain.predict import decided
from anneal.report.decision import Decision
from anneal.sweep import mixtures
from anneal.sweep.analyse import analyse
from anneal.sweep.evidence import Evidence
from anneal.sweep.prepare import read, steps_of
from tests.integration.test_planted import real_score
from tests.pretrain.world import World, answered

pytestmark = pytest.mark.integration

NOISE = 0.003
LAW = (
    "law.draws=100",
    "law.forms=[shifted_power_one_exponent_repeated,shifted_power_repeated]",
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> World:
    with pytest.MonkeyPatch.context() as patch:
        return answered(tmp_path_factory.mktemp("plain"), patch, *LAW, noise=NOISE)


@pytest.fixture(scope="module")
def complementary(tmp_path_factory) -> World:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("complementary")
        # no source alone may be more than half, so that the allocation is a mixture
        halves = [f"allocation.shares.{name}=[0.0,0.5]" for name in ("books", "web", "junk")]
        truth = {"noise": NOISE, "complements": [0.03, 2e4]}
        return answered(folder, patch, *LAW, *halves, **truth)


def evidence_of(world: World) -> Evidence:
    return Evidence(
        ask=world.ask,
        design=world.design,
        runs=plan_runs(world.design),
        outcomes=(),
        manifests=read(world.ask, steps_of(world.ask, world.store), world.store),
        registration=world.decision.registration,
        changed=(),
        reused=0,
        command="",
    )


def truth_of(world: World, decision: Decision) -> float:
    shares = {r.source: r.share for r in decision.allocation}
    return real_score(world.truth, shares, decision.real_tokens)


def test_only_what_is_said_of_the_score_and_the_guards_moves(plain, monkeypatch):
    learn = mixtures.learn

    def nothing(predicted, measured, runs, tokens, **more):
        found = learn(predicted, measured, runs, tokens, **more)
        for name in ("level", "slope"):
            getattr(found, name)[:] = 0.0
        return found

    evidence = evidence_of(plain)
    table = Ledger(plain.store).results(evidence.runs)
    with_it = analyse(evidence, table, key="k").model_dump()
    monkeypatch.setattr(mixtures, "learn", nothing)
    without = analyse(evidence, table, key="k").model_dump()
    changed = {name for name in with_it if with_it[name] != without[name]}
    assert changed - {"made"} <= {"score", "guards", "rule_errors"}
    aim = without["rule_errors"][0]
    assert without["score"] == aim["rule"] == with_it["rule_errors"][0]["rule"]
    assert with_it["score"] == with_it["rule_errors"][0]["corrected"]
    told = (plain.decision.score, plain.decision.guards["guard"])
    assert with_it["score"] == told[0].model_dump()
    assert with_it["guards"]["guard"] == told[1].model_dump()


def test_where_the_rule_holds_little_changes(plain):
    aim, guard = plain.decision.rule_errors
    assert (aim.score, guard.score) == ("score", "guard")
    assert aim.budgets == tuple(plain.design.budget.ladder)
    assert sum(aim.runs) == sum(run.arm == "uniform" for run in plan_runs(plain.design))
    assert aim.slope.low < 0 < aim.slope.high
    assert aim.change.low <= 0.001 and aim.change.high >= -0.001
    score, rule = plain.decision.score, aim.rule
    assert score.high - score.low < 2 * (rule.high - rule.low)
    assert score.low <= truth_of(plain, plain.decision) <= score.high


def test_complements_are_learnt_from_the_uniform_runs(complementary):
    decision = complementary.decision
    aim, guard = decision.rule_errors
    assert aim.part > 0.5
    assert aim.off[-1] < aim.off[0] < 0 and aim.slope.high < 0
    true = truth_of(complementary, decision)
    assert aim.rule.value - true > 0.1
    assert decision.score.low <= true <= decision.score.high
    assert abs(decision.score.value / true - 1) < 0.5 * abs(aim.rule.value / true - 1)
    # the guard knows none: its rule is right
    assert guard.change.low < 0 < guard.change.high
    assert abs(guard.change.value) < 0.005


def test_a_full_run_is_predicted_with_it(complementary):
    assert decided(complementary.basis) == pytest.approx(
        complementary.decision.score.value, abs=1e-9
    )


def test_the_report_says_so(complementary):
    report = complementary.store.sweep(complementary.ask.name) / "report"
    text = (report / "report.md").read_text()
    assert "the uniform mix measured" in text and "by the rule alone" in text


def test_a_decision_made_before_still_reads(plain):
    old = plain.decision.model_dump(mode="json")
    del old["rule_errors"]
    assert Decision.model_validate(old).rule_errors == ()


def test_uniform_runs_are_none_where_a_source_has_no_curve(plain):
    evidence, fitted = evidence_of(plain), plain.basis.fitted
    law = fitted.problem.target
    assert mixtures.uniform_runs(evidence, fitted.table, law, "score").budgets.size == 5
    none = fitted.table[fitted.table["arm"] != "uniform"]
    seen = mixtures.uniform_runs(evidence, none, law, "score")
    assert seen.predicted.shape == (law.draws, 0) and seen.budgets.size == 0
    errors = mixtures.rule_errors(evidence, none, fitted.problem)
    half = np.array([[1e6, 1e6]])
    assert np.log(errors["score"].factor(half)).std() > 0.01  # the prior's own width
