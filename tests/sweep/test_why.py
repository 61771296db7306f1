"""Which field made a run a new one."""

from __future__ import annotations

import pytest

from anneal.errors import SettingsError
from anneal.plan.values import Optimiser, Portion
from anneal.sweep.why import ABSENT, differing, leaves, nearest, why
from tests.sweep.standing import BASE, begin, finish, plan, spec
from tests.training import tiny


def test_one_field_is_found_among_all():
    made = spec()
    other = made.model_copy(update={"optimiser": Optimiser(beta2=0.99)})
    assert differing(made, other) == {"optimiser.beta2": (0.95, 0.99)}
    assert differing(made, made) == {}
    assert len(leaves(made)) > 30


def test_a_source_more_is_no_shift_of_the_others():
    made = spec()
    phase = made.phases[0]
    extra = Portion(source="written", content="written", share=0.25)
    code, web = phase.mixture
    mixture = (extra, code.model_copy(update={"share": 0.5}), web)
    other = made.model_copy(update={"phases": (phase.model_copy(update={"mixture": mixture}),)})
    found = differing(made, other)
    assert found["phases.0.mixture.code.share"] == (0.75, 0.5)
    assert found["phases.0.mixture.written.share"] == (ABSENT, 0.25)
    assert not [name for name in found if ".web." in name]


def test_the_nearest_has_the_fewest_differing_fields():
    made = spec(seed=1)
    others = {
        "a": spec(seed=1, steps=8).model_copy(update={"precision": "bfloat16"}),
        "b": spec(seed=2),
        "c": spec(seed=3),
    }
    assert nearest(made, others) == "b"
    assert nearest(made, others, last={"b"}) == "c"  # as near, and not of the same plan
    assert nearest(made, others, last=set("abc")) == "b"


def test_it_names_sources_behind_addresses_and_labels_behind_runs(ask, tmp_path, capsys):
    tiny.store(tmp_path)  # the tokens, below the sweep's store
    made = spec()
    store = plan(ask, made)
    moved = made.phases[0].mixture[0].model_copy(update={"content": "written"})
    phase = made.phases[0].model_copy(update={"mixture": (moved, made.phases[0].mixture[1])})
    finish(store, made.model_copy(update={"phases": (phase,)}), label="code as it was")
    finish(store, BASE, label="base")
    why(ask, made.id[:8])
    out = capsys.readouterr().out
    assert out.startswith(f"run {made.id} (code 384 seed 0): not finished\n")
    assert f"(code as it was), 1 of {len(leaves(made))} fields differ: a new run by\n" in out
    assert "phases.0.mixture.code.content" in out
    assert "code (code: 3,000 tokens of documents made)" in out
    assert "written (written: 2,000 tokens of documents made)" in out

    other = spec().model_copy(update={"start": made.start.model_copy(update={"run": "gone"})})
    begin(store, other, label="elsewhere")
    why(ask, other.id)
    out = capsys.readouterr().out
    assert f"{BASE.id[:10]} (base)" in out
    assert "start.run" in out


def test_any_run_of_the_store_by_a_prefix_that_is_its_own(ask, capsys):
    store = plan(ask, spec())
    why(ask, spec().id)
    assert "No other run of this store is finished" in capsys.readouterr().out
    lone = spec(seed=9)
    finish(store, lone, label="lone")
    why(ask, lone.id[:10])
    assert f"run {lone.id} (lone): finished\n" in capsys.readouterr().out
    for word, what in (("zz", "no such run"), ("", "no such run")):
        with pytest.raises(SettingsError, match=what):
            why(ask, word)
    twins = [spec(seed=n) for n in range(40)]
    first = {}
    for one in twins:
        begin(store, one)
        first.setdefault(one.id[0], []).append(one.id)
    letter = next(k for k, v in first.items() if len(v) > 1)
    with pytest.raises(SettingsError, match="begin so"):
        why(ask, letter)
