"""The dry run: every figure follows from its formula, whether or not there is text for the run."""

from __future__ import annotations

import re

import pytest

from anneal import settings
from anneal.__main__ import main
from anneal.errors import PlanError
from anneal.plan.audit import AuditRow, LaidOut, Shortage
from anneal.plan.budget import Prices, Real, Supply
from anneal.plan.means import Keep, Means
from anneal.plan.runs import CONTROL
from anneal.plan.values import LlamaShape, Phase, Portion, Schedule
from anneal.pretrain.figures import figures, told
from anneal.pretrain.show import Known, supposed
from anneal.pretrain.size import check_model, parameters_of, vocabulary_of
from anneal.pretrain.supplies import allocated
from anneal.report.decision import Decision
from anneal.store import read_value, write_value
from tests.report.example import decision

pytestmark = pytest.mark.integration

ARCTIC = [
    *("pretrain=arctic_snowcoder", "model=llama_1b3", "pretrain.engine.processes=64"),
    *("prices.usd_per_hour=2.5", "prices.flops_per_second=4e14", "tokenizer.vocabulary=64000"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    """One for all: what the installed packages hold is read once."""
    return f"store={tmp_path_factory.mktemp('store')}"


def run(*words: str, capsys) -> str:
    assert main(["pretrain", "--dry-run", *words]) == 0
    return capsys.readouterr().out


def test_a_real_size_that_this_machine_cannot_feed_is_told_whole(store, capsys):
    out = run(*ARCTIC, store, capsys=capsys)
    flat = re.sub(r"\s+", " ", out)
    for row in (
        "general 499,998,785,536 119,209 512 x 8,192",
        "high_quality 50,000,297,984 11,921 512 x 8,192",
        "synthetic 4,999,610,368 1,192 512 x 8,192",
        "1,364,297,728 parameters, vocabulary 64,000",
        "4.54e+21 FLOPs = 6 x parameters x tokens",
        "49.3 hours = FLOPs / (64 devices x 4e+14 FLOP/s)",
        "3,154.9 device-hours = hours x 64 devices",
        "7,887.33 USD = device-hours x 2.5 USD/h",
        "98.2 GB = parameters x (12 bytes x 6 states)",
        "general: 499,998,785,536 tokens asked (general 499,998,785,536), none is prepared yet",
        "12,500,074,496 unique would do (limit 4 epochs)",
        "attention over long sequences is not in these FLOPs: general +30%",
        "left out stdlib: no phase asks for it",
        "1,000 steps up from 0, then",
    ):
        assert row in flat, row
    flops = 6 * 1_364_297_728 * 554_998_693_888
    assert pytest.approx(flops / 4e14 / 3600, abs=0.05) == 3_154.9
    assert pytest.approx(flops / 4e14 / 3600 * 2.5, abs=0.005) == 7_887.33


def test_without_a_decision_the_real_budget_in_equal_parts_is_supposed(store, capsys):
    out = run(store, capsys=capsys)
    assert "no decision yet: the real budget in equal parts" in out
    assert re.search(r"synthetic +exercises +524,288 +524,288 +0", out)


@pytest.mark.parametrize("real", [{"usd": 3.0}, {"flops": 1e15}, {"tokens": 900}])
def test_a_real_budget_in_money_or_flops_is_supposed_too(real):
    ask = settings.load(None, ["source=[stdlib,packages]"])
    ask = ask.model_copy(update={"budget": ask.budget.model_copy(update={"real": Real(**real)})})
    supplies = {
        n: Supply(name=n, kind="general", content=n, tokens=10**6, max_epochs=16)
        for n in ("stdlib", "packages")
    }
    bought = supposed(ask, Known(supplies, (), ()), 10**6)
    each = {"tokens": 450, "usd": 3 / (6e6 / 0.75 * ask.prices.usd_per_flop) / 2}
    each["flops"] = 1e15 / (6e6 / 0.75) / 2
    assert set(bought.values()) == {int(each[ask.budget.real.axis])}


def test_a_decision_of_another_sweep_or_none_is_refused(store, tmp_path, capsys):
    assert main(["pretrain", "--dry-run", store, str(tmp_path / "no.json")]) == 2
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "bad.json").write_text("{}")
    assert main(["pretrain", "--dry-run", store, "--decision", str(tmp_path / "bad.json")]) == 2
    assert "not a Decision" in capsys.readouterr().err
    assert main(["pretrain", "--dry-run", store, "a.json", "--decision", "b.json"]) == 2
    assert "one decision at a time" in capsys.readouterr().err
    write_value(tmp_path / "other.json", decision(sweep="other"))
    assert main(["pretrain", "--dry-run", store, str(tmp_path / "other.json")]) == 2
    assert "it is of the sweep `other`, not of `demo`" in capsys.readouterr().err
    assert main(["pretrain", "--dry-run", store, "pretrain=null"]) == 2
    assert "asks for no full run" in capsys.readouterr().err


def test_a_decision_is_laid_out_as_it_buys(store, tmp_path, capsys):
    made = decision(sweep="demo")
    names = ("stdlib", "packages", "exercises", CONTROL)
    rows = [made.allocation[0].model_copy(update={"source": n, "tokens": 0}) for n in names]
    rows[0] = rows[0].model_copy(update={"tokens": 300_000})
    rows[2] = rows[2].model_copy(update={"tokens": 100_000})
    rows[3] = rows[3].model_copy(update={"tokens": 10_000})
    file = tmp_path / "decision.json"
    write_value(file, made.model_copy(update={"allocation": tuple(rows), "replay_share": 0.5}))
    assert allocated(read_value(file, Decision), "general") == {
        "stdlib": 300_000,
        "packages": 0,
        "exercises": 100_000,
        "general": 10_000,
    }
    out = run(str(file), store, capsys=capsys)
    assert "supposed" not in out
    assert "left out   packages: the decision buys none of it" in out
    # a quarter of all 410,000 is the last phase's, the synthetic source first in it
    assert re.search(r"synthetic +exercises +100,000 +99,968 +-32 +whole sequences of 128", out)
    asked = re.findall(r"^ (?:high_quality|synthetic) +stdlib +([\d,]+)", out, re.MULTILINE)
    assert sum(int(n.replace(",", "")) for n in asked) == 300_000
    # replay: as much as sources, and what was bought besides
    asked = re.findall(r"^ (?:high_quality|synthetic) +general +([\d,]+)", out, re.MULTILINE)
    assert sum(int(n.replace(",", "")) for n in asked) == 410_000


def laid(*, pool=None, every=()) -> LaidOut:
    phase = Phase(
        name="only",
        mixture=(Portion(source="a", content="a", share=1.0, tokens=102_400, pool=pool),),
        tokens=102_400,
        batch=8,
        sequence=128,
        schedule=Schedule(peak=1.0, warmup=0.1, start=0.5, final=0.2),
    )
    row = AuditRow(phase="only", source="a", asked=102_000, tokens=102_400, unique=pool or 51_200)
    return LaidOut(phases=(phase,), audit=(row,), shortages=tuple(every))


PRICES = Prices(usd_per_hour=3.6, flops_per_second=1e9)


def priced(found: LaidOut, engine: Means | None = None, **more):
    engine = engine or Means(engine="deepspeed", processes=2)
    return figures(found, engine=engine, parameters=1000, vocabulary=7, prices=PRICES, **more)


def test_figures_follow_from_their_formulas():
    found = priced(laid())
    assert found.flops == 6 * 1000 * 102_400
    assert found.hours == found.flops / 2e9 / 3600
    assert found.device_hours == 2 * found.hours
    assert found.usd == pytest.approx(found.device_hours * 3.6)
    assert found.phases[0].mixture[0].epochs == 2
    assert found.steps == 100
    assert (found.states, found.weights, found.disk_bytes) == (3, 0, 36_000)
    keep = Keep(newest=1, boundaries=True, every=10_000, best=True)
    kept = priced(laid(), Means(engine="deepspeed", keep=keep))
    # one newest, one being written, one boundary; ten every so often and the best
    assert (kept.states, kept.weights) == (3, 11)
    assert kept.disk_bytes == 1000 * (12 * 3 + 4 * 11)
    assert "11 copies of weights" in kept.formulas["disk"]


def test_attention_is_told_where_a_shape_is_known():
    shape = LlamaShape(hidden=64, layers=2, heads=2, kv_heads=2, feed_forward=64)
    assert priced(laid()).phases[0].attention == 0
    assert priced(laid(), shape=shape).phases[0].attention == 6 * 2 * 64 * 128 / 6000


def test_what_lacks_is_told_by_source():
    short = Shortage(
        source="a", asked=102_400, exist=10, needed=6_400, limit=16, phases={"only": 102_400}
    )
    (lack,) = priced(laid(every=[short])).lacks
    assert (lack.exist, lack.needed) == (10, 6_400)
    (lack,) = priced(laid(every=[short]), unknown=["a", "b"], limits={"a": 16}).lacks
    assert (lack.exist, lack.needed, lack.limit) == (None, 6_400, 16)
    (lack,) = priced(laid(pool=25_600), unknown=["a"], limits={"a": 16}).lacks
    assert (lack.needed, lack.limit) == (25_600, 4)
    assert priced(laid(), unknown=["a"]).phases[0].mixture[0].epochs is None
    assert priced(laid(pool=25_600), unknown=["a"]).phases[0].mixture[0].epochs == 4


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Schedule(kind="constant", peak=0.003), "constant 0.003"),
        (Schedule(kind="linear", peak=0.003), "linear from 0.003 to 0"),
        (
            Schedule(kind="cosine", peak=1.0, final=0.1, warmup=0.1, start=0.2),
            "100 steps up from 0.2, then cosine from 1 to 0.1",
        ),
        (Schedule(kind="one_minus_sqrt", peak=1.0), "1 - sqrt from 1 to 0"),
        (Schedule(kind="wsd", peak=1.0, decay=0.25), "constant 1, linear to 0 over the last 25%"),
    ],
)
def test_schedules_in_words(schedule, words):
    assert told(schedule, 1000) == words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrain=btlm", "model=llama_7b"], "8,192 tokens, the model has 4,096 positions"),
        (["model=checkpoint", "model.path=x"], "start scratch, but the model is the checkpoint x"),
        (
            ["pretrain.engine.processes=3", "pretrain.engine.long.sequence_parallel=3"],
            "sequence_parallel=3 does not divide the model's heads",
        ),
    ],
)
def test_what_the_model_cannot_do_is_refused(words, message):
    with pytest.raises(PlanError, match=message) as caught:
        check_model(settings.load(None, words))
    assert caught.value.hint


def test_vocabulary_of_an_existing_tokenizer_and_parameters_of_a_checkpoint(tmp_path):
    (tmp_path / "tokenizer.json").write_text(
        '{"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2, "content": "<e>"}]}'
    )
    theirs = f"+tokenizer={{kind: huggingface, path: '{tmp_path}'}}"
    assert vocabulary_of(settings.load(None, ["~tokenizer", theirs])) == 3
    away = settings.load(None, ["~tokenizer", "+tokenizer={kind: huggingface, path: nowhere}"])
    with pytest.raises(PlanError, match="cannot be counted here"):
        vocabulary_of(away)
    model = ["model=checkpoint", "model.path=nowhere", "pretrain=olmo2"]
    with pytest.raises(PlanError, match="cannot be counted here"):
        parameters_of(settings.load(None, model), 3)
    assert parameters_of(settings.load(None, [*model, "model.parameters=77"]), 3) == 77
