"""The presets of the full run: each composes, and lays out as its paper says."""

from __future__ import annotations

import shlex

import pytest
import torch

from anneal import settings
from anneal.errors import SettingsError
from anneal.plan.audit import LaidOut
from anneal.plan.budget import Supply
from anneal.plan.flops import attention_flops, llama_parameters
from anneal.plan.lay_out import lay_out
from anneal.plan.schedule import learning_rate
from anneal.plan.values import LlamaShape, Phase
from anneal.sweep.base import base_spec
from anneal.sweep.values import Sweep
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.integration

PRESETS = sorted(p.stem for p in (REPOSITORY / "conf" / "pretrain").glob("*.yaml"))
BOUGHT = {"stdlib": 600_000, "packages": 0, "packages_filtered": 800_000, "exercises": 100_000}


def laid(ask: Sweep, tokens: int = 10**13, allocated=BOUGHT, share: float = 0.25) -> LaidOut:
    """On made-up supplies, each of `tokens`."""
    supplies = {
        s.name: Supply(
            name=s.name, kind=s.kind, content=s.name, tokens=tokens, max_epochs=s.max_epochs
        )
        for s in (*ask.source, *ask.replay)
    }
    return lay_out(
        ask.pretrain,
        supplies=supplies,
        replay=ask.replay[0].name,
        replay_share=share,
        allocated=allocated,
    )


def preset(name: str, *words: str) -> LaidOut:
    return laid(settings.load(None, [f"pretrain={name}", *words]))


def rate(phase: Phase, steps: float) -> float:
    """Learning rate after so many steps."""
    return learning_rate(phase.schedule, steps * phase.batch * phase.sequence, phase.tokens)


def shares(phase: Phase) -> dict[str, float]:
    return {p.source: p.share for p in phase.mixture}


def demo_words(name: str) -> list[str]:
    """The words that a preset's header gives for the demo's size."""
    lines = (REPOSITORY / "conf" / "pretrain" / f"{name}.yaml").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("# Demo: ")]
    return shlex.split(line.removeprefix("# Demo: "))


@pytest.mark.parametrize("name", PRESETS)
def test_each_lays_out_at_the_size_of_the_demo_with_the_words_of_its_header(name):
    words = demo_words(name)
    assert words[0] == f"pretrain={name}"
    ask = settings.load(None, words)
    found = laid(ask)
    assert 1_000 < found.tokens < 5_000_000
    assert ask.pretrain.engine.processes == 2
    assert ask.pretrain.engine.engine == "deepspeed"
    assert ask.pretrain.engine.keep.boundaries
    for phase in found.phases:
        assert phase.steps >= 5
        assert phase.batch * phase.sequence <= 2048


def test_the_names_of_the_presets():
    named = {"three_phase", "arctic_snowcoder", "crystal", "olmo2", "olmo3", "btlm", "bilingual"}
    assert named == set(PRESETS)
    assert settings.load(None).pretrain == settings.load(None, ["pretrain=three_phase"]).pretrain
    assert settings.load(None, ["pretrain=null"]).pretrain is None


def test_three_phases_begin_with_the_base_s_training_and_end_as_the_micro_anneals():
    ask = settings.load(None)
    general, best, synthetic = laid(ask).phases

    class Manifest:
        name, content, tokens, tokenizer, vocabulary = "general", "general", 10**9, "t", 4096

    class Target:
        content = "x"

    manifests = {"general": Manifest(), "stdlib_heldout": Target(), "prose_heldout": Target()}
    base = base_spec(ask, manifests).phases[0]
    same = ("tokens", "batch", "sequence", "schedule")
    assert [getattr(general, key) for key in same] == [getattr(base, key) for key in same]
    assert best.schedule == ask.phase.schedule
    assert (best.batch, best.sequence) == (ask.phase.batch, ask.phase.sequence)
    assert "exercises" in shares(synthetic)
    assert "exercises" not in shares(best)
    own = {r.source: 0 for r in laid(ask).audit}
    for row in laid(ask).audit:
        own[row.source] += row.asked
    assert own["stdlib"] == BOUGHT["stdlib"]
    assert rate(synthetic, synthetic.steps) == rate(best, best.steps) == 0.0
    ask = settings.load(None, ["base.tokens=500000", "base.schedule.peak=1e-3", "phase=olmo2"])
    general, best, _ = laid(ask).phases
    assert (general.tokens, general.schedule.peak) == (499_712, 1e-3)
    assert best.sequence == 256


def test_arctic_snowcoder_is_500_50_and_5_billion_with_its_rates():
    general, best, synthetic = preset("arctic_snowcoder").phases
    step = 512 * 8192
    for phase, tokens in ((general, 500e9), (best, 50e9), (synthetic, 5e9)):
        assert abs(phase.tokens - tokens) <= step / 2
        assert (phase.batch, phase.sequence) == (512, 8192)
    assert (general.steps, best.steps, synthetic.steps) == (119_209, 11_921, 1_192)
    assert rate(general, 0) == 0
    assert rate(general, 600) == pytest.approx(5.3e-4, rel=1e-12)
    assert rate(general, general.steps) == pytest.approx(5.3e-5, rel=1e-12)
    middle = (600 + general.steps) / 2
    assert rate(general, middle) == pytest.approx((5.3e-4 + 5.3e-5) / 2, rel=1e-9)  # a cosine's
    assert rate(best, 0) == 0
    assert rate(best, 500) == pytest.approx(2.65e-4, rel=1e-12)
    assert rate(best, 1000) == pytest.approx(5.3e-4, rel=1e-12)
    assert rate(best, best.steps) == 0
    assert shares(general) == {"general": 1.0}
    assert shares(best) == {"packages_filtered": 1.0}
    assert shares(synthetic) == {"exercises": 1.0}
    (portion,) = best.mixture
    assert portion.pool == best.tokens // 4  # 12.5B unique, four times
    assert abs(portion.pool - 12.5e9) < step
    assert [p.optimiser_state for p in (best, synthetic)] == ["kept", "kept"]


def test_a_scaled_recipe_keeps_its_proportions_and_its_warm_up():
    small = preset("arctic_snowcoder", "pretrain.scale=0.001").phases
    assert [p.tokens / 1e6 for p in small] == pytest.approx([500, 50, 5], rel=0.2)
    assert [p.steps for p in small] == [119, 12, 1]
    assert [p.schedule.warmup for p in small] == [1 / 119, 1 / 12, 0]
    tiny = settings.load(None, demo_words("arctic_snowcoder"))
    general, best, _ = laid(tiny).phases
    assert (general.steps, best.steps) == (1172, 117)
    assert round(best.schedule.warmup * best.steps) == 10  # 8.4% of the phase, as at full size
    assert best.mixture[0].pool == best.tokens // 4


def test_crystal_is_one_decay_over_two_phases_and_then_warms_up_again():
    text, code, last = preset("crystal").phases
    assert (text.steps, code.steps, last.steps) == (79_762, 214_317, 27_728)
    # one continuous decay: the end of stage 1 is the beginning of stage 2
    assert rate(text, text.steps) == pytest.approx(rate(code, 0), rel=1e-9)
    assert rate(text, 86) == pytest.approx(0.012, rel=1e-12)
    assert rate(code, 0) == 0.0087825
    assert rate(code, code.steps) == pytest.approx(1.3679e-4, rel=1e-6)
    assert rate(last, 0) == 0
    assert rate(last, 276) == pytest.approx(0.002, rel=1e-12)
    assert rate(last, last.steps) == pytest.approx(2e-4, rel=1e-12)
    # the authors' own line from .012 to 1.2408e-4 over 294,337 steps has the same rate there
    line = 0.012 - (0.012 - 1.2408e-4) * (text.steps - 86) / 294_337
    assert rate(text, text.steps) == pytest.approx(line, rel=1e-3)
    slopes = [
        rate(phase, steps) - rate(phase, steps + 1000)
        for phase, steps in ((text, 40_000), (code, 100_000))
    ]
    assert slopes[0] == pytest.approx(slopes[1], rel=5e-3)
    assert shares(code) == pytest.approx({"packages_filtered": 0.6278, "general": 0.3722}, abs=1e-6)
    assert shares(last) == pytest.approx(
        {"stdlib": 0.7996, "general": 0.167, "packages_filtered": 0.0334}, abs=1e-6
    )
    assert last.tokens == 119_934_025_728


@pytest.mark.parametrize(
    ("name", "peak", "step", "replay"),
    [("olmo2", 6.135e-5, 2_097_152, 0.472), ("olmo3", 2.0712e-4, 2**21, 0.325)],
)
def test_olmo_anneals_a_base_from_its_own_rate_to_zero(name, peak, step, replay):
    ask = settings.load(None, [f"pretrain={name}"])
    assert ask.pretrain.start == "base"
    found = laid(ask, allocated={"stdlib": 3 * 10**10, "packages": 2 * 10**10})
    (phase,) = found.phases
    assert phase.batch * phase.sequence == step
    assert (rate(phase, 0), rate(phase, phase.steps)) == (peak, 0)
    assert phase.optimiser_state == "kept"
    assert shares(phase)["general"] == pytest.approx(replay, abs=1e-4)
    got = {p.source: p.tokens for p in phase.mixture}
    assert 0 <= 3 * 10**10 - got["stdlib"] < phase.sequence


def test_btlm_raises_the_context_for_the_last_quarter():
    short, long = preset("btlm").phases
    assert (short.sequence, long.sequence) == (2048, 8192)
    assert short.batch * short.sequence == long.batch * long.sequence
    assert short.tokens / (short.tokens + long.tokens) == pytest.approx(0.75, rel=1e-4)
    assert short.tokens + long.tokens == pytest.approx(627e9, rel=1e-4)
    assert rate(short, short.steps) == pytest.approx(rate(long, 0), rel=1e-9)
    assert rate(long, long.steps) == pytest.approx(4e-5, rel=1e-6)


def test_bilingual_trains_embeddings_first_and_then_all_with_half_replay():
    ask = settings.load(None, ["pretrain=bilingual"])
    embeddings, full = laid(ask).phases
    assert ask.pretrain.start == "base"
    assert (embeddings.trainable, full.trainable) == ("embeddings", "all")
    assert full.optimiser_state == "reset"
    for phase in (embeddings, full):
        assert shares(phase)["general"] == pytest.approx(0.5, abs=0.01)
    own = sum(p.tokens for x in (embeddings, full) for p in x.mixture if p.source != "general")
    assert 0 <= sum(BOUGHT.values()) - own < 3 * 128


@pytest.mark.integration  # transformers takes seconds to load
@pytest.mark.parametrize(
    ("name", "vocabulary", "parameters"),
    [("llama_1b3", 64_000, 1_364_297_728), ("llama_7b", 32_000, 6_738_415_616)],
)
def test_models_have_as_many_parameters_as_transformers_makes(name, vocabulary, parameters):
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = settings.load(None, [f"model={name}"]).model
    assert isinstance(shape, LlamaShape)
    assert llama_parameters(shape, vocabulary) == parameters
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=shape.max_positions,
        tie_word_embeddings=shape.tied,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_attention_is_a_third_of_the_rest_at_four_times_the_width():
    shape = LlamaShape(hidden=2048, layers=24, heads=16, kv_heads=16, feed_forward=5632)
    inside = llama_parameters(shape, 1)
    assert attention_flops(shape, 1, 8192) / (6 * inside) == pytest.approx(0.33, abs=0.01)


@pytest.mark.parametrize(
    ("words", "what", "hint"),
    [
        (
            ["pretrain.phases.general.tokenz=5"],
            "unknown key `pretrain.phases.general.tokenz`",
            "`tokens`",
        ),
        (["pretrain.scael=2"], "unknown key `pretrain.scael`", "`scale`"),
        (
            ["pretrain.engine.keep.boundary=true"],
            "unknown key `pretrain.engine.keep.boundary`",
            "`boundaries`",
        ),
        (
            ["pretrain.phases.generl.batch=4"],
            "`pretrain.phases.generl.mixture` is missing",
            "`general`",
        ),
        (["pretrain.phases.general.batch=0"], "`pretrain.phases.general.batch`", ""),
        (["pretrain=arctic"], "pretrain/arctic", "did you mean arctic_snowcoder"),
        (["pretrain.phases=3"], "`pretrain.phases` must map names", "conf/pretrain/"),
        (["pretrain.phases.high_quality.tokens=5"], "tokens follow from the decision", ""),
        (
            ["pretrain.engine.watch.guard_limits.prose=3"],
            "pretrain.engine.watch names no target: prose",
            "",
        ),
        (
            ["pretrain.engine.watch.gates=[{phase: general, target: prose, at_most: 3}]"],
            "names no target: prose",
            "",
        ),
    ],
)
def test_bad_words_of_a_full_run_are_one_clear_error(words, what, hint):
    with pytest.raises(SettingsError) as caught:
        settings.load(None, words)
    assert what in str(caught.value)
    assert hint in caught.value.hint
    assert caught.value.hint


def test_phases_can_be_changed_added_and_taken_out():
    words = ["pretrain.phases.general.tokens=64000", "~pretrain.phases.synthetic"]
    ask = settings.load(None, words)
    assert [p.name for p in ask.pretrain.phases] == ["general", "high_quality"]
    assert ask.pretrain.phases[0].tokens == 64_000
    more = ["pretrain.phases.last.mixture={stdlib: 1.0}", "pretrain.phases.last.tokens=5e4"]
    ask = settings.load(None, [*words, *more])
    assert [p.name for p in ask.pretrain.phases] == ["general", "high_quality", "last"]
    assert laid(ask).phases[-1].tokens == 50_176
    # an override of shares is merged: what it takes out gets 0
    ask = settings.load(
        None,
        [
            *demo_words("arctic_snowcoder"),
            "pretrain.phases.high_quality.mixture={filtered: 0, high_quality: 1}",
        ],
    )
    assert shares(laid(ask).phases[1]) == {"stdlib": 1.0}


def test_a_sweep_file_may_have_phases_of_its_own(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "defaults:\n  - anneal\n  - source@replay: general\n  - source: [stdlib]\n"
        "  - target: [stdlib_heldout]\n  - override pretrain: null\n  - _self_\n"
        "question: mine?\nprices: {usd_per_hour: 1, flops_per_second: 1e12}\n"
        "tokenizer: {sources: [general, stdlib]}\n"
        "pretrain:\n  phases:\n    first: {mixture: replay, tokens: 64_000}\n"
        "    then: {mixture: {stdlib: 0.5, replay: 0.5}, tokens: 1e5}\n"
    )
    ask = settings.load(tmp_path / "mine.yaml")
    assert [p.name for p in ask.pretrain.phases] == ["first", "then"]
    assert [p.tokens for p in laid(ask, allocated={}).phases] == [63_488, 100_352]
