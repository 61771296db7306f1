"""A full run in its report's records, whole and cut short."""

import json

import pytest

from anneal.plan.audit import AuditRow as Planned
from anneal.plan.budget import Prices
from anneal.plan.means import DeepSpeed, Means, Watch
from anneal.plan.predictions import Measurement, NoPrediction, Prediction, Subject
from anneal.plan.values import (
    LlamaShape,
    Phase,
    PhaseEnd,
    Portion,
    Result,
    RunSpec,
    Schedule,
    Score,
    Scored,
)
from anneal.pretrain.outcome import Went, pretrained, read_losses, thinned
from anneal.pretrain.settle import Beside, measured_score
from anneal.report.pretrained import Evaluation, LossPoint
from tests.report import example

PRICES = Prices(usd_per_hour=3.6, flops_per_second=1e9)
MEANS = Means(
    engine="deepspeed",
    processes=2,
    deepspeed=DeepSpeed(stage=2, offload_optimizer="cpu"),
    watch=Watch(guard_limits={"prose": 2.4}),
)
SPEC = RunSpec(
    start=LlamaShape(),
    phases=(
        Phase(
            name="general",
            mixture=(Portion(source="web", content="w", share=1.0),),
            tokens=4096,
            batch=4,
            sequence=128,
            schedule=Schedule(kind="constant", peak=1e-3, warmup=0.1),
        ),
        Phase(
            name="bought",
            mixture=(
                Portion(source="books", content="b", share=0.75, tokens=1536),
                Portion(source="web", content="w", share=0.25, tokens=512),
            ),
            tokens=2048,
            batch=4,
            sequence=128,
        ),
    ),
    tokenizer="t",
    vocabulary=64,
    targets=(
        Scored(name="code", content="c", weight=3.0),
        Scored(name="maths", content="m"),
        Scored(name="prose", content="p", guard=True),
    ),
)


def scores(code: float, maths: float, prose: float) -> dict[str, Score]:
    given = {"code": code, "maths": maths, "prose": prose}
    return {n: Score(loss=v, bpb=v, tokens=1, bytes=1) for n, v in given.items()}


def end(index: int, **more) -> PhaseEnd:
    given = {
        "phase": SPEC.phases[index].name,
        "index": index,
        "tokens": (4096, 6144)[index],
        "steps": (8, 4)[index],
        "source_tokens": ({"web": 4096}, {"books": 1408, "web": 640})[index],
        "unique_tokens": ({"web": 4096}, {"books": 704, "web": 640})[index],
        "scores": scores(2.0 - index / 2, 3.0, 2.2),
        "loss": 3.0,
        "learning_rate": 1e-3,
        "weights": "w" * 64,
        "moments": "m" * 64,
        "boundary": "b" * 20,
        "verified": True,
        "seconds": 10.0,
        "finished": "2026-01-02T00:00:00+00:00",
    }
    return PhaseEnd(**(given | more))


def beside() -> tuple[Beside, ...]:
    subjects = [
        Subject(boundary=SPEC.boundary(i), phase=p.name, index=i, tokens=(4096, 6144)[i])
        for i, p in enumerate(SPEC.phases)
    ]
    made = Prediction(
        subject=subjects[1],
        value=1.8,
        low=1.7,
        high=1.9,
        level=0.9,
        basis="a law",
        broken=("order",),
        decision="d",
        analysis="a",
        extrapolation=3.0,
        made="2026-01-01T00:00:00+00:00",
    )
    settled = Measurement(
        prediction=made.address,
        measured=1.875,
        inside=True,
        error=0.075,
        run=SPEC.id,
        finished="2026-01-02T00:00:00+00:00",
    )
    return (
        Beside(NoPrediction(subject=subjects[0], reason="replay alone"), 2.25, None),
        Beside(made, 1.875, settled),
    )


def result(**more) -> Result:
    given = {
        "run": SPEC.id,
        "scores": end(1).scores,
        "tokens": 6144,
        "steps": 12,
        "flops": 6.0 * 1000 * 6144,
        "parameters": 1000,
        "source_tokens": {"web": 4736, "books": 1408},
        "unique_tokens": {"web": 4736, "books": 704},
        "asked_shares": {},
        "final_loss": 3.0,
        "seconds": 3600.0,
        "train_seconds": 3000.0,
        "score_seconds": 600.0,
        "startup_seconds": 1.0,
        "tokens_per_second": 2.0,
        "resumed": 1,
        "device": "cpu",
        "host": "h",
        "versions": {"torch": "2"},
        "code": "c",
        "means": MEANS,
        "phases": (end(0), end(1)),
        "finished": "2026-01-02T00:00:00+00:00",
    }
    return Result(**(given | more))


PLANNED = (
    Planned(phase="bought", source="books", asked=1600, tokens=1536, unique=9, reason="whole"),
)


def described(went: Went, said=None):
    return pretrained(
        SPEC,
        went,
        beside() if said is None else said,
        name="demo",
        question="which books?",
        decision=example.decision(),
        parameters=1000,
        audit=PLANNED,
        means=MEANS,
        prices=PRICES,
        calibration=None,
        start="scratch",
        command="python -m anneal pretrain",
    )


def test_the_weighted_aim_is_the_sweeps_own():
    assert measured_score(SPEC, scores(2.0, 3.0, 9.0)) == pytest.approx(2.25)
    assert measured_score(SPEC, scores(2.0, 3.0, 9.0), "prose") == 9.0
    assert measured_score(SPEC, {"code": scores(2.0, 3.0, 9.0)["code"]}) is None
    assert measured_score(SPEC, {}, "prose") is None


def test_a_finished_run():
    evaluations = (Evaluation(tokens=2048, phase=0, scores={"code": 3.0, "maths": 3.4}),)
    found = described(Went(ends=(end(0), end(1)), result=result(), evaluations=evaluations))
    assert found.state == "finished" and found.resumed == 1
    assert found.engine == "deepspeed, ZeRO 2, optimiser offloaded to cpu"
    first, second = found.phases
    assert (first.tokens, second.tokens) == (4096, 2048)
    assert first.schedule == "constant at 0.001, warm-up 10%"
    assert second.verified and second.scores["score"] == pytest.approx(1.875)
    off = {(r.phase, r.source): r.difference for r in found.audit}
    # realised beside what was bought, of which whole sequences were laid out
    assert off == {("general", "web"): 0, ("bought", "books"): -192, ("bought", "web"): 128}
    assert [(r.laid_out, r.reason) for r in found.audit][1] == (1536, "whole")
    spent = {r.what: (r.asked, r.spent) for r in found.spent}
    flops = 6.0 * 1000 * 6144
    assert spent["tokens"] == (6144, 6144) and spent["steps"] == (12, 12)
    assert spent["FLOPs"] == (flops, flops)
    assert spent["device-hours"] == pytest.approx((flops / 1e9 / 3600, 2.0))
    assert spent["USD"] == pytest.approx((flops / 1e9 / 1000, 7.2))
    none, made = found.foretold
    assert none.predicted is None and none.reason == "replay alone" and none.measured == 2.25
    assert made.inside and made.counted and made.error == pytest.approx(0.075)
    assert found.evaluations[0].scores["score"] == pytest.approx(3.1)
    assert found.guard_limits["prose"] == 2.4
    assert found.reproduce["code"] == "c"


def test_a_run_cut_short():
    said = (*beside()[:1], Beside(beside()[1].said, None, None))
    went = Went(ends=(end(0),), aborted="spike", seconds=1800.0, attempts=2)
    found = described(went, said)
    assert found.state == "aborted" and found.attempts == 2
    assert found.phases[1].tokens is None and found.phases[1].verified is None
    assert [r.realised for r in found.audit] == [4096, None, None]
    spent = {r.what: r.spent for r in found.spent}
    assert (spent["tokens"], spent["steps"], spent["device-hours"]) == (4096, 8, 1.0)
    assert found.foretold[1].inside is None and not found.foretold[1].counted
    assert described(Went(ends=())).state == "unfinished"


def test_a_measurement_that_settles_nothing_is_not_counted():
    said = (beside()[0], Beside(beside()[1].said, 1.875, None))
    late = described(Went(ends=(end(0), end(1)), result=result()), said).foretold[1]
    assert late.inside and not late.counted


def test_losses_of_a_log(tmp_path):
    path = tmp_path / "log.jsonl"
    assert read_losses(path) == ()
    rows = [{"phase": 0, "step": i, "tokens": 512 * i, "loss": 5.0 / i} for i in (1, 2, 3)]
    text = "".join(json.dumps(r) + "\n" for r in [*rows, {"tokens": 1, "scores": {}}])
    path.write_text(text + '{"phase": 0, "st')
    assert read_losses(path) == tuple(LossPoint(tokens=512 * i, loss=5.0 / i) for i in (1, 2, 3))


@pytest.mark.parametrize("n", [1, 10, 11, 999])
@pytest.mark.parametrize("late", [False, True])
def test_thinning_keeps_the_spike_and_the_end(n, late):
    spike = max(n - 2, 0) if late else n // 2
    points = [LossPoint(tokens=i + 1, loss=9.0 if i == spike else 1.0) for i in range(n)]
    found = thinned(points, 10)
    assert len(found) == min(n, 10)
    assert max(p.loss for p in found) == 9.0
    assert found[-1].tokens == n
    assert [p.tokens for p in found] == sorted(p.tokens for p in found)
