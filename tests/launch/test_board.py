from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anneal.launch.board import Board
from anneal.launch.values import Task
from anneal.plan.failures import INFRASTRUCTURE


def task(name: str, *needs: str, size: float = 1.0, slots: int = 1) -> Task:
    return Task(
        id=name,
        label=name.upper(),
        verb="run",
        spec="s",
        done="d",
        needs=needs,
        size=size,
        slots=slots,
    )


@st.composite
def graphs(draw) -> list[Task]:
    """Tasks that need earlier ones, in any order."""
    count = draw(st.integers(1, 12))
    tasks = []
    for n in range(count):
        earlier = [t.id for t in tasks]
        needs = draw(st.lists(st.sampled_from(earlier), unique=True)) if earlier else []
        size, slots = draw(st.integers(0, 5)), draw(st.integers(1, 3))
        tasks.append(task(f"t{n}", *needs, size=size, slots=slots))
    return draw(st.permutations(tasks))


@given(graphs(), st.data())
def test_every_task_is_settled_once_in_an_order_that_keeps_needs(tasks, data):
    """Whatever fails, dies or ends in whatever order, on three slots."""
    kinds = ["ok", "killed", "disk_full", "bug"]
    done = {t.id for t in tasks if data.draw(st.booleans())}
    limit = data.draw(st.none() | st.integers(1, 3))
    board = Board(tasks, done=done, retries=1, max_failures=limit)
    ok, begun, news, failures = set(done), {}, board.news(), 0
    under_way: list[Task] = []
    while not board.finished:
        while (new := board.next) and new.slots <= 3 - sum(t.slots for t in under_way):
            assert board.take() == new
            assert limit is None or failures < limit
            assert set(new.needs) <= ok
            assert new.id not in done
            begun[new.id] = begun.get(new.id, 0) + 1
            assert board.attempt(new) == begun[new.id] <= 2
            under_way.append(new)
        assert under_way, "nothing ready, nothing under way, and not finished"
        ended = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
        kind = data.draw(st.sampled_from(kinds))
        if kind == "ok":
            board.succeed(ended, 1.0)
            ok.add(ended.id)
        else:
            _, retry = board.fail(ended, kind, "why", log="l", seconds=1.0)
            failures += not retry
            assert not (retry and kind == "bug")
        news += board.news()
    outcomes = board.outcomes()
    assert [o.task for o in outcomes] == [t.id for t in tasks]
    assert sorted(o.task for o in news) == sorted(t.id for t in tasks)
    assert {o.task for o in outcomes if o.ok} == ok
    assert {o.task for o in outcomes if o.skipped} == done
    for outcome in outcomes:
        assert outcome.ok + (outcome.failure is not None) + bool(outcome.missing) == 1
        assert outcome.attempts == outcome.seconds == begun.get(outcome.task, 0)


def test_longest_ready_first_then_in_order():
    board = Board([task("a", size=1), task("b", size=3), task("c", size=3), task("d", "a", size=9)])
    taken = [board.take().id for _ in range(3)]
    assert taken == ["b", "c", "a"]
    assert board.take() is None


def test_the_order_is_kept_when_the_next_does_not_fit():
    """`next` stays the wide task, whatever smaller becomes ready; only a longer one goes before."""
    tasks = [task("a", size=9), task("wide", size=5, slots=2), task("s", size=1)]
    board = Board([*tasks, task("small", "a", size=4), task("long", "a", size=6)])
    assert board.next == board.take() == tasks[0]
    assert board.next == tasks[1]
    board.succeed(tasks[0], 1.0)
    assert [board.take().id for _ in range(4)] == ["long", "wide", "small", "s"]
    assert board.next is None


def test_a_long_chain_fails_as_one():
    chain = [task("t0")] + [task(f"t{n}", f"t{n - 1}") for n in range(1, 3000)]
    board = Board(chain)
    board.fail(board.take(), "bug", "why", log="l", seconds=0.0)
    assert board.finished
    assert {o.missing for o in board.outcomes()[1:]} == {"needs `T0`, which failed (bug)"}


def test_after_a_halt_what_is_under_way_still_counts():
    board = Board([task("a", size=2), task("b"), task("c", "a")])
    first = board.take()
    board.halt("enough")
    assert board.take() is None
    board.succeed(first, 1.0)
    assert [o.ok for o in board.outcomes()] == [True, False, False]
    assert [o.missing for o in board.outcomes()] == ["", "enough", "enough"]


def test_a_killed_task_is_not_retried_after_a_halt():
    board = Board([task("a")])
    first = board.take()
    board.halt("enough")
    failure, retry = board.fail(first, "killed", "why", log="l", seconds=0.0)
    assert not retry
    assert board.finished
    assert failure.kind == "killed"


@pytest.mark.parametrize("kind", sorted(INFRASTRUCTURE))
def test_what_the_infrastructure_failed_is_tried_again_a_bounded_number_of_times(kind):
    board = Board([task("a")], retries=2)
    retried = []
    while not board.finished:
        retried.append(board.fail(board.take(), kind, "why", log="l", seconds=1.0)[1])
    assert retried == [True, True, False]
    (outcome,) = board.outcomes()
    assert (outcome.failure.kind, outcome.attempts, outcome.seconds) == (kind, 3, 3.0)


def test_out_of_memory_is_tried_once_more_and_only_with_less_at_once():
    """Whatever else befalls it meanwhile, and however often the infrastructure may fail it."""
    board = Board([task("a"), task("b", size=0)], retries=1)
    first = board.take()
    assert board.may_shrink(first)
    fail = dict(log="l", seconds=1.0)
    assert board.fail(first, "out_of_memory", "why", **fail, micro_batch=4)[1]
    assert not board.may_shrink(board.take())
    assert board.fail(first, "killed", "why", **fail)[1]
    board.take()
    failure, retry = board.fail(first, "out_of_memory", "why", **fail, micro_batch=2)
    assert not retry
    assert failure.attempts == 3
    other = board.take()
    assert not board.fail(other, "out_of_memory", "why", **fail)[1]
    assert [o.micro_batch for o in board.outcomes()] == [4, None]


def test_what_a_done_task_needs_is_not_asked_for():
    board = Board([task("a"), task("b", "a"), task("c", "b")], done={"b"})
    assert {board.take().id, board.take().id} == {"a", "c"}


@pytest.mark.parametrize("name", ["", "a/b", "..%2f", "a b", "x" * 121])
def test_an_identifier_is_fit_for_a_file_name(name):
    with pytest.raises(ValueError, match="id"):
        task(name)


def test_what_waits_is_named_longest_first():
    tasks = [task("a"), task("b", "a", size=1), task("c", "a", "b", size=3), task("d", size=9)]
    board = Board(tasks)
    assert [t.id for t in board.waiting()] == ["c", "b"]
    assert [board.take().id for _ in range(2)] == ["d", "a"]
    board.succeed(tasks[0], 1.0)
    assert [t.id for t in board.waiting()] == ["c"]
    board.fail(board.take(), "bug", "no", log="", seconds=1.0)
    assert board.waiting() == []
