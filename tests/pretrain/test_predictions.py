"""Predictions of a full run from a planted sweep: the decision's law, one run's interval."""

import dataclasses

import numpy as np
import pytest

from anneal import calibration as record
from anneal.errors import PlanError, StoreError
from anneal.laws import band
from anneal.ledger import Ledger
from anneal.plan.predictions import AIM, NoPrediction, Prediction
from anneal.plan.runs import CONTROL, plan_runs
from anneal.plan.values import Checkpoint, RunTask, Schedule
from anneal.pretrain.predict import Basis, decided, one_run, predictions, trained
from anneal.pretrain.predict import _draws as draws
from anneal.pretrain.settle import settle_run, write_down
from anneal.store import Store, read_value, write, write_value
from anneal.sweep.analyse import fit_laws
from anneal.sweep.evidence import Evidence
from anneal.sweep.job import sweep
from anneal.values import address
from tests.integration import planted

from .world import Here, World, answered, end, made_again

pytestmark = pytest.mark.integration

BEFORE, AFTER, MUCH_LATER = (f"2026-01-0{day}T00:00:00+00:00" for day in (1, 2, 3))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    with pytest.MonkeyPatch.context() as patch:
        return answered(tmp_path_factory.mktemp("planted"), patch, "law.draws=100")


def by_end(said) -> dict[tuple[str, str], Prediction | NoPrediction]:
    return {(p.subject.phase, p.score): p for p in said}


def test_the_law_made_again_is_the_decisions_own(world):
    score, basis = world.decision.score, world.basis
    bought = {row.source: float(row.tokens) for row in world.decision.allocation}
    assert decided(basis) == pytest.approx(score.value, abs=1e-9)
    for name, told in [(AIM, score), *world.decision.guards.items()]:
        low, high = band(draws(basis, name, bought), level=told.level)
        assert (low, high) == pytest.approx((told.low, told.high), abs=1e-9)


def test_three_phases_are_predicted_at_their_ends(world):
    spec = world.full_run(
        world.general(), world.bought("high-quality", 0.7), world.bought("synthetic", 0.3)
    )
    said = by_end(predictions(world.basis, spec, made=BEFORE))
    assert len(said) == 6
    base, middle, last = (said[n, AIM] for n in ("general", "high-quality", "synthetic"))
    # the base itself, seed and all: known, and not counted
    assert base.known and base.value == world.decision.base_score
    assert base.low < base.value < base.high
    # the whole allocation: the decision's own score, in an interval of one run
    score = world.decision.score
    assert last.value == pytest.approx(score.value, abs=1e-4)
    assert last.low < score.low and last.high > score.high - 1e-4
    assert last.extrapolation == pytest.approx(world.decision.extrapolation, rel=1e-3)
    assert not last.known and last.level == world.ask.law.level
    assert any("re-warmed 1 time" in told for told in last.broken)
    # seven tenths of it, in one decay as the law's runs have: worse, and as the law says
    assert middle.value > last.value and middle.broken == ()
    assert middle.analysis == last.analysis == world.decision.reproduce["analysis"]
    assert middle.decision != middle.analysis
    truth = world.true_scores(spec, 1, 1)["target"]
    assert middle.low < truth < middle.high
    subject = middle.subject
    assert subject.boundary == spec.boundary(1)
    assert (subject.index, subject.tokens) == (1, spec.phases[0].tokens + spec.phases[1].tokens)
    assert said["synthetic", "guard"].low < said["synthetic", "guard"].high


def test_predictions_are_the_same_again(world):
    spec = world.full_run(world.bought("all"), start="base")
    first = predictions(world.basis, spec, made=BEFORE)
    assert predictions(world.refit(), spec, made=BEFORE) == first
    assert all(isinstance(p, Prediction) for p in first)


def test_one_run_is_noisier_than_the_mean_curve():
    rng = np.random.default_rng(0)
    scores, noise = 1.5 + 0.01 * rng.standard_normal(400), np.full(400, 0.02)
    found = one_run(scores, noise)
    assert found.std() == pytest.approx((0.01**2 + 0.03**2) ** 0.5, rel=0.04)
    assert found.mean() == pytest.approx(scores.mean(), rel=1e-3)
    assert (one_run(scores, noise * 0).reshape(400, -1) == scores[:, None]).all()


def test_source_tokens_are_those_that_the_law_counts(world):
    design = world.design
    r = design.anneal.replay_share
    spec = world.full_run(
        world.mixed("a", {"books": 0.6, "web": 0.4}, 1e5),
        world.mixed("b", {"web": 0.5, CONTROL: 0.5}, 2e5),
        start="base",
    )
    whole = sum(p.tokens for p in spec.phases)
    found = trained(design, spec, 0, 1)
    assert sum(found.values()) == pytest.approx(whole * (1 - r))
    assert found[CONTROL] == pytest.approx(1e5, rel=0.01)
    assert found["books"] == pytest.approx(6e4, rel=0.01)
    assert trained(design, spec, 1, 1)["web"] == pytest.approx(1e5, rel=0.01)


def test_what_no_law_covers_is_not_predicted(world):
    def reasons(*phases, **more) -> dict[str, str]:
        said = by_end(predictions(world.basis, world.full_run(*phases, **more), made=BEFORE))
        return {
            phase: one.reason
            for (phase, score), one in said.items()
            if score == AIM and isinstance(one, NoPrediction)
        }

    general, bought = world.general(), world.bought("bought", 0.1)
    assert reasons(general, bought) == {}
    unlike = world.general(schedule=Schedule(kind="cosine", peak=1e-3))
    found = reasons(unlike, bought)
    assert "cosine" in found["general"] and "bought" not in found
    longer = reasons(world.general(tokens=2 * general.tokens), bought)
    assert "replay alone" in longer["general"]
    assert "a base of 1,200,128 tokens" in longer["bought"] and "2,400,256" in longer["bought"]
    other = world.mixed("other", {"unheard": 1.0}, 1e5)
    assert reasons(general, other) == {"other": "no curve for `unheard`"}
    # and everything after it
    assert set(reasons(general, other, bought)) == {"other", "bought"}
    embeddings = world.bought("embeddings", 0.1, trainable="embeddings")
    assert set(reasons(general, embeddings, bought)) == {"embeddings"}
    model = Checkpoint(path="elsewhere")
    assert "this run has 0 before" in reasons(bought)["bought"]
    spec = world.full_run(bought).model_copy(update={"start": model})
    said = predictions(world.basis, spec, made=BEFORE)
    assert {p.reason for p in said} == {"it starts from another model than the sweep's runs"}


def test_a_target_that_is_another_text_is_not_predicted(world):
    spec = world.full_run(world.bought("bought", 0.1), start="base")
    targets = tuple(
        t.model_copy(update={"content": "other"}) if t.guard else t for t in spec.targets
    )
    said = by_end(
        predictions(world.basis, spec.model_copy(update={"targets": targets}), made=BEFORE)
    )
    assert isinstance(said["bought", AIM], Prediction)
    assert "another text" in said["bought", "guard"].reason


def test_assumptions_that_do_not_hold_are_named(world):
    decay = world.design.anneal.schedule

    def told(*phases, **more) -> str:
        spec = world.full_run(*phases, start="base", **more)
        return "; ".join(predictions(world.basis, spec, made=BEFORE)[-2].broken)

    half = world.bought("half", 0.5)
    assert told(half) == ""
    books = world.mixed("books", {"books": 1.0}, 1e5)
    assert "takes them in turn" in told(half, books)
    assert "re-warmed 2 times" in told(half, half.model_copy(update={"name": "b"}), books)
    # one decay over two phases is one decay
    stay = world.bought("stay", 0.5, schedule=Schedule(kind="constant", peak=decay.peak))
    assert "re-warmed" not in told(stay, half)
    assert "constant at 0.003" in told(stay)
    assert "sequences of 256" in told(world.bought("long", 0.5, batch=4, sequence=256))
    assert "batches of 2,048" in told(world.bought("large", 0.5, batch=16))
    assert "`bare` has 0% replay" in told(_without_replay(world))
    assert "laid out" in told(_laid_out_otherwise(world))
    assert "optimiser state is reset" in told(world.bought("reset", 0.5, optimiser_state="reset"))
    assert "of context" in told(half, score_sequence=512)
    scratch = world.full_run(world.general(), half, seed=5)
    base, curve = predictions(world.basis, scratch, made=BEFORE)[::2]
    assert not base.known and "bases of several seeds" in base.broken[0]
    assert any("another seed" in line for line in curve.broken)


def _without_replay(world):
    web = next(s for s in world.design.sources if s.name == "web")
    phase = world.bought("bare", 0.1)
    (portion, *_) = phase.mixture
    only = portion.model_copy(update={"source": "web", "content": web.content, "share": 1.0})
    return phase.model_copy(update={"mixture": (only,)})


def _laid_out_otherwise(world):
    phase = world.bought("laid", 0.1)
    mixture = tuple(p.model_copy(update={"content": p.content + "x"}) for p in phase.mixture)
    return phase.model_copy(update={"mixture": mixture})


def test_a_decision_of_other_results_is_refused(world):
    moved = world.decision.score.model_copy(update={"value": world.decision.score.value + 0.01})
    with pytest.raises(PlanError, match="changed since") as caught:
        made_again(world.ask, world.decision.model_copy(update={"score": moved}))
    assert "sweep" in caught.value.hint


def test_a_run_is_settled_once_and_goes_on_where_it_was(world, tmp_path):
    store = Store(tmp_path / "store")
    spec = world.full_run(world.general(), world.bought("a", 0.5), world.bought("b", 0.2))
    said = write_down(store, predictions(world.basis, spec, made=BEFORE))
    rng = np.random.default_rng(3)
    ends = world.ends(spec, 1, rng, AFTER)
    # killed after two phases: what was said stays, whatever is said later
    part = settle_run(store, spec, said, ends[:2])
    assert [b.measured is None for b in part] == [False] * 4 + [True] * 2
    again = write_down(store, predictions(world.basis, spec, made=MUCH_LATER))
    assert again == said
    whole = settle_run(store, spec, again, ends)
    assert whole[:4] == part[:4]
    assert all(b.settled is not None for b in whole)
    found = record.calibration(store)
    assert found.n == 4 and found.runs == 1  # the base was known
    assert found.inside == sum(b.settled.inside for b in whole if not b.said.known)
    assert settle_run(store, spec, again, ends) == whole


def test_what_was_trained_before_it_was_predicted_is_not_settled(world, tmp_path):
    store = Store(tmp_path / "store")
    spec = world.full_run(world.bought("a", 0.5), world.bought("b", 0.2), start="base")
    write(store.boundary(spec.boundary(0)) / "boundary.json", "{}")
    said = write_down(store, predictions(world.basis, spec, made=AFTER))
    assert [isinstance(p, NoPrediction) for p in said] == [True, True, False, False]
    assert said[0].reason == "trained before it was predicted"
    # a phase end older than its prediction is shown, and settles nothing
    early = settle_run(store, spec, said, [end(spec, 1, {"target": 1.7, "guard": 3.0}, BEFORE)])
    assert early[2].measured == 1.7 and early[2].settled is None
    assert record.calibration(store) is None


def test_the_next_sweep_shows_how_often_intervals_held(world, monkeypatch, capsys):
    monkeypatch.setattr(planted, "TRUTH", world.truth)
    report = world.store.sweep(world.ask.name) / "report"
    before = read_value(report / "decision.json", type(world.decision))
    assert before.calibration is None
    spec = world.full_run(world.bought("a", 0.5), start="base")
    said = write_down(world.store, predictions(world.basis, spec, made=BEFORE))
    settle_run(world.store, spec, said, world.ends(spec, 0, np.random.default_rng(1), AFTER))
    capsys.readouterr()
    assert sweep(world.ask, launcher=Here()) == 0
    words = "our 90% intervals have held"
    assert f"{words} " in capsys.readouterr().out
    after = read_value(report / "decision.json", type(world.decision))
    assert after.calibration.n == 2
    assert after.model_copy(update={"calibration": None}) == before
    for name in ("index.html", "report.md"):
        assert words in (report / name).read_text()
    written = (report / "index.html").stat().st_mtime_ns
    assert sweep(world.ask, launcher=Here()) == 0
    assert (report / "index.html").stat().st_mtime_ns == written
    # predictions made before and after are of the same decision
    assert after.reproduce == before.reproduce
    again = predictions(dataclasses.replace(world.basis, decision=after), spec, made=BEFORE)
    assert again == predictions(world.basis, spec, made=BEFORE)
    # a damaged record is told before anything else
    path = next(world.store.root.glob("predictions/*/measured.json"))
    text = path.read_text()
    path.write_text(text[:20])
    with pytest.raises(StoreError, match=r"measured\.json"):
        sweep(world.ask, launcher=Here())
    path.write_text(text)


WORLDS = 24


@pytest.mark.statistical
def test_intervals_hold_a_measured_run(world, tmp_path, monkeypatch):
    """Worlds that differ in their noise and their sources' worth; one phase end each.

    The planted law is among the forms, so a 90% interval of one run should hold about nine times in
    ten; with 24 worlds 18 is two standard errors below.
    """
    rng = np.random.default_rng(7)
    forms = ("shifted_power_one_exponent_repeated", "power_one_exponent_repeated")
    held, without = 0, 0
    for number in range(WORLDS):
        factor = np.exp(0.3 * rng.standard_normal(4))
        tau = {n: v * f for (n, v), f in zip(world.truth["tau"].items(), factor, strict=True)}
        truth = world.truth | {"tau": tau, "noise": 0.004}
        monkeypatch.setattr(planted, "TRUTH", truth)
        basis = _fitted(world, Store(tmp_path / str(number)), number, forms)
        here = dataclasses.replace(world, truth=truth, basis=basis)
        shares = dict(zip(("books", "web", "junk"), rng.dirichlet(np.ones(3)), strict=True))
        tokens = float(np.exp(rng.uniform(np.log(3e4), np.log(3e5))))
        spec = here.full_run(here.mixed("real", shares, tokens), start="base")
        said = predictions(basis, spec, made=BEFORE)[0]
        measured = here.measured(spec, 0, 0, rng)["target"]
        held += said.inside(measured)
        curve = draws(basis, AIM, trained(here.design, spec, 0, 0))
        low, high = band(curve, level=said.level)
        without += bool(low <= measured <= high)
    assert held >= 18, (held, without)
    assert held > without  # the mean curve's own interval is too narrow for one run


def _fitted(world: World, store: Store, seed: int, forms: tuple[str, ...]) -> Basis:
    """Laws of the same design with other seeds, so with other noise."""
    design = world.design.model_copy(update={"seed": 1000 * (seed + 1)})
    runs = plan_runs(design)
    for run in runs:
        task = RunTask(spec=run.spec, means=world.ask.engine, label="", code="")
        planted.run(task, store, lambda *_, **__: None)
    law = world.ask.law.model_copy(update={"forms": forms, "draws": 100})
    ask = world.ask.model_copy(update={"law": law, "seed": seed})
    evidence = Evidence(
        ask=ask,
        design=design,
        runs=runs,
        outcomes=(),
        manifests={},
        registration=world.decision.registration,
        changed=(),
        reused=0,
        command="",
    )
    fitted = fit_laws(evidence, Ledger(store).results(runs), rng=np.random.default_rng(seed))
    return dataclasses.replace(world.basis, fitted=fitted)


def test_a_prediction_survives_the_disk(world, tmp_path):
    said = predictions(world.basis, world.full_run(world.bought("a")), made=BEFORE)
    assert all(isinstance(p, NoPrediction) for p in said)  # from scratch, without a base
    (one, _) = predictions(
        world.basis, world.full_run(world.bought("a"), start="base"), made=BEFORE
    )
    write_value(tmp_path / "p.json", one)
    assert read_value(tmp_path / "p.json", Prediction).address == one.address == address(one)
