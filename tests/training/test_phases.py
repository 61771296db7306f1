"""Runs of three phases: hand-offs, resuming, rules that end a run, and what stays on disk."""

import json
import shutil

import pytest

from anneal.errors import StoreError
from anneal.plan.means import Gate, Keep, Watch
from anneal.plan.values import LlamaShape, PhaseEnd, Result
from anneal.store import read_value
from anneal.training import checkpoint
from anneal.training.loop import train
from anneal.training.tensors import read_tensors
from anneal.training.watch import Aborted, Interrupted
from anneal.training.workbench import Workbench
from tests.training import tiny

pytestmark = pytest.mark.integration

BOUNDARIES = tiny.means(keep=Keep(boundaries=True).model_dump())


@pytest.fixture
def store(tmp_path):
    return tiny.store(tmp_path)


def run(store, task, **more) -> Result:
    return train(task, store, bench=Workbench(), **more)


def stop_after(steps: int):
    """Says to stop once that many steps were asked about."""
    asked = iter(range(10**6))
    return lambda: next(asked) >= steps - 1


def measured(result: Result) -> tuple:
    ends = [
        e.model_dump(exclude={"seconds", "finished", "reused", "boundary", "verified"})
        for e in result.phases
    ]
    return result.weights, result.scores, result.final_loss, result.source_tokens, ends


def test_three_phases_are_measured_kept_and_read_back(store):
    result = run(store, tiny.task(means=BOUNDARIES))
    assert [e.phase for e in result.phases] == ["general", "high_quality", "synthetic"]
    assert [e.tokens for e in result.phases] == [12 * 128, 22 * 128, 30 * 128]
    assert all(e.verified and not e.reused for e in result.phases)
    assert result.scores == result.phases[-1].scores
    for index, end in enumerate(result.phases):
        folder = store.boundary(end.boundary)
        assert end.boundary == tiny.spec().boundary(index)
        assert {p.name for p in folder.iterdir()} >= {"boundary.json", "config.json"}
        assert sum(end.source_tokens.values()) == end.steps * 128
    assert result.phases[1].source_tokens == {"code": 960, "web": 320}
    assert result.phases[-1].scores["aim"].bpb < result.phases[0].scores["aim"].bpb
    # linear to zero: the last step uses the rate at its middle token
    assert result.phases[1].learning_rate == pytest.approx(5e-3 * 0.5 / 8)


def test_keeping_and_reading_back_changes_nothing(store, tmp_path):
    kept = run(store, tiny.task(means=BOUNDARIES))
    (tmp_path / "b").mkdir()
    plain = run(tiny.store(tmp_path / "b"), tiny.task())
    assert measured(plain) == measured(kept)


@pytest.mark.parametrize("steps", [1, 7, 11, 12, 22, 27])
@pytest.mark.parametrize("boundaries", [False, True])
def test_stopped_anywhere_it_ends_with_the_same_bits(store, tmp_path, steps, boundaries):
    means = BOUNDARIES if boundaries else tiny.MEANS
    (tmp_path / "b").mkdir()
    whole = run(tiny.store(tmp_path / "b"), tiny.task(means=means))
    with pytest.raises(Interrupted):
        run(store, tiny.task(means=means), stopping=stop_after(steps))
    assert measured(run(store, tiny.task(means=means))) == measured(whole)
    assert not checkpoint.checkpoints(store.run(tiny.spec().id))


def test_a_changed_last_phase_trains_the_last_phase_alone(store):
    run(store, tiny.task(means=BOUNDARIES))
    other = tiny.spec(tiny.GENERAL, tiny.GOOD, tiny.phase("synthetic", {"written": 1.0}, 5))
    trained = []
    result = run(
        store,
        tiny.task(other, BOUNDARIES),
        report=lambda done, *_: trained.append(done),
    )
    assert [e.reused for e in result.phases] == [True, True, False]
    assert min(trained) == 22 * 128 + 128
    assert result.source_tokens["web"] == 12 * 128 + 320
    assert result.tokens_per_second > 0


def test_a_shared_phase_is_scored_on_the_runs_own_targets(store):
    run(store, tiny.task(means=BOUNDARIES))
    other = tiny.spec(tiny.GENERAL, tiny.GOOD, tiny.phase("synthetic", {"written": 1.0}, 5))
    other = other.model_copy(update={"targets": other.targets[:1]})
    result = run(store, tiny.task(other, BOUNDARIES))
    assert [set(e.scores) for e in result.phases] == [{"aim"}] * 3


def test_everything_but_the_result_lost_nothing_is_trained_again(store):
    first = run(store, tiny.task(means=BOUNDARIES))
    shutil.rmtree(store.run(first.run))
    trained = []
    again = run(store, tiny.task(means=BOUNDARIES), report=lambda *a: trained.append(a))
    assert not trained
    assert measured(again) == measured(first)
    assert not any(e.reused for e in again.phases)


def test_a_boundary_of_another_place_is_refused(store):
    first = run(store, tiny.task(means=BOUNDARIES))
    shutil.rmtree(store.boundary(first.phases[2].boundary))
    path = store.boundary(first.phases[1].boundary) / "boundary.json"
    record = json.loads(path.read_text())
    record["end"]["learning_rate"] *= 2
    path.write_text(json.dumps(record))
    shutil.rmtree(store.run(first.run))
    with pytest.raises(StoreError, match=r"its learning_rate is .*, the run's is .* there"):
        run(store, tiny.task(means=BOUNDARIES))


@pytest.mark.parametrize("file", ["model.safetensors", "optimiser.safetensors"])
def test_an_altered_boundary_is_refused(store, file):
    first = run(store, tiny.task(means=BOUNDARIES))
    shutil.rmtree(store.boundary(first.phases[2].boundary))
    path = store.boundary(first.phases[1].boundary) / file
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    shutil.rmtree(store.run(first.run))
    with pytest.raises(StoreError, match=r"are not those that were written"):
        run(store, tiny.task(means=BOUNDARIES))


def test_a_boundary_on_other_data_is_refused(store):
    first = run(store, tiny.task(means=BOUNDARIES))
    shutil.rmtree(store.boundary(first.phases[2].boundary))
    shutil.rmtree(store.run(first.run))
    shard = store.tokens("code") / "0.bin"
    shard.write_bytes(bytes(len(shard.read_bytes())))
    with pytest.raises(StoreError, match=r"ended on other data"):
        run(store, tiny.task(means=BOUNDARIES))


def test_a_checkpoint_that_scores_otherwise_is_left_behind(store, tmp_path, capfd):
    (tmp_path / "b").mkdir()
    whole = run(tiny.store(tmp_path / "b"), tiny.task())
    means = tiny.means(checkpoint_seconds=0.0)
    with pytest.raises(Interrupted):
        run(store, tiny.task(means=means), stopping=stop_after(9))
    newest = checkpoint.checkpoints(store.run(tiny.spec().id))[-1]
    weights = read_tensors(newest / "model.safetensors")
    name = next(n for n in weights if "mlp" in n)
    weights[name] += 1.0
    (newest / "model.safetensors").unlink()
    from anneal.training.tensors import write_tensors

    write_tensors(weights, newest / "model.safetensors")
    result = run(store, tiny.task(means=means))
    assert "left behind" in capfd.readouterr().out
    assert (result.weights, result.resumed) == (whole.weights, 1)


def test_half_a_checkpoint_is_never_loaded(store, tmp_path):
    (tmp_path / "b").mkdir()
    whole = run(tiny.store(tmp_path / "b"), tiny.task())
    with pytest.raises(Interrupted):
        run(store, tiny.task(), stopping=stop_after(9))
    folder = store.run(tiny.spec().id)
    (newest,) = checkpoint.checkpoints(folder)
    half = folder / f".{newest.name.replace('9', '8')}.writing"  # a kill during a later save
    shutil.copytree(newest, half)
    (half / "progress.json").unlink()
    assert run(store, tiny.task()).weights == whole.weights
    assert not list(folder.glob(".checkpoint*"))


def test_phases_may_differ_in_batch_sequence_and_what_learns(store):
    wide = tiny.phase("long", {"web": 1.0}, 4, batch=2, sequence=64)
    words = tiny.phase("embeddings", {"code": 1.0}, 4, trainable="embeddings")
    last = tiny.phase("all", {"code": 1.0}, 4, optimiser_state="reset")
    result = run(store, tiny.task(tiny.spec(wide, words, last), BOUNDARIES))
    states = [read_tensors(store.boundary(e.boundary) / "model.safetensors") for e in result.phases]
    changed = {n for n in states[0] if not states[0][n].equal(states[1][n])}
    assert changed == {"model.embed_tokens.weight"}
    assert all(not states[1][n].equal(states[2][n]) for n in states[0])


def test_kept_weights(store):
    keep = Keep(every=700, best=True).model_dump()
    means = tiny.means(keep=keep, watch=Watch(evaluate_tokens=512).model_dump())
    result = run(store, tiny.task(means=means))
    names = sorted(p.name for p in (store.run(result.run) / "kept").iterdir())
    every = [n for n in names if not n.startswith("best")]
    assert every == [f"{n:015d}" for n in (768, 1408, 2176, 2816, 3584)]
    (best,) = [n for n in names if n.startswith("best")]
    rows = [
        json.loads(line)
        for line in (store.run(result.run) / "evaluations.jsonl").read_text().splitlines()
    ]
    assert [r["tokens"] for r in rows] == [512, 1024, 2048, 2560, 3072, 3584]  # 1536 ends a phase
    lowest = min(rows, key=lambda r: r["scores"]["aim"])
    assert best == f"best-{lowest['tokens']:015d}"


def test_a_guard_above_its_limit_ends_the_run(store):
    watch = Watch(evaluate_tokens=512, guard_limits={"guard": 0.01})
    with pytest.raises(Aborted, match=r"guard `guard` is .* after 512 tokens, limit 0.0100"):
        run(store, tiny.task(means=tiny.means(watch=watch.model_dump())))


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({"at_most": 0.1}, r"asked was at most 0\.1000"),
        ({"better_by": 5.0}, r"asked was 5 better than \d\.\d{4} at its start"),
    ],
)
def test_a_gate_that_is_not_passed_ends_the_run_before_the_next_phase(store, gate, said):
    watch = Watch(gates=(Gate(phase="high_quality", target="aim", **gate),))
    trained = []
    with pytest.raises(Aborted, match=rf"gate of phase `high_quality`: `aim` is .*{said}"):
        run(
            store,
            tiny.task(means=tiny.means(watch=watch.model_dump())),
            report=lambda done, *_: trained.append(done),
        )
    assert max(trained) == 22 * 128
    ends = sorted(store.run(tiny.spec().id).glob("phase-*.json"))
    assert [read_value(p, PhaseEnd).phase for p in ends] == ["general", "high_quality"]


def test_a_spike_ends_the_run(store):
    calm = tiny.phase("calm", {"web": 1.0}, 120)
    wild = tiny.phase("wild", {"web": 1.0}, 40).model_copy(
        update={"schedule": calm.schedule.model_copy(update={"kind": "constant", "peak": 30.0})}
    )
    watch = Watch(spike=0.5).model_dump()
    with pytest.raises(Aborted, match=r"spike: the last 10 losses average .* limit 0.5 above it"):
        run(store, tiny.task(tiny.spec(calm, wild), tiny.means(watch=watch)))


def test_too_little_space_is_said_before_training(store, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    trained = []
    with pytest.raises(StoreError, match=r"0\.00 GB free, .* GB needed: 7 states of 14 bytes"):
        run(store, tiny.task(means=BOUNDARIES), report=lambda *a: trained.append(a))
    assert not trained


def test_what_comes_later_or_how_it_is_scored_leaves_a_boundary_as_it_is():
    spec = tiny.spec()
    fewer = spec.model_copy(update={"targets": (), "score_sequence": 64})
    assert spec.boundary(0) == tiny.spec(tiny.GENERAL).boundary(0) == fewer.boundary(0)
    assert spec.boundary(0) != spec.boundary(1)
    other = spec.model_copy(update={"start": LlamaShape(hidden=32, heads=1, kv_heads=1)})
    assert spec.boundary(0) != other.boundary(0)
