"""Half the sequences at once: what it may be, and that losses stay what they were."""

from __future__ import annotations

import pytest

from anneal.plan.failures import smaller
from anneal.plan.means import LongSequences, Means
from anneal.plan.values import LlamaShape, Phase, Portion, RunSpec, RunTask


def task(*batches: int, **means) -> RunTask:
    phases = tuple(
        Phase(
            mixture=(Portion(source="web", content="web", share=1.0),),
            tokens=batch * 16,
            batch=batch,
            sequence=16,
        )
        for batch in batches
    )
    spec = RunSpec(start=LlamaShape(), phases=phases, tokenizer="t", vocabulary=99)
    return RunTask(spec=spec, means=Means(**means), label="a", code="test")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (task(8), 4),
        (task(8, micro_batch=4), 2),
        (task(8, micro_batch=64), 4),  # more than the batch is the batch
        (task(8, micro_batch=1), None),
        (task(1), None),
        (task(6), 3),
        (task(9), 3),
        (task(7), 1),
        (task(8, 12), 4),  # one that divides both
        (task(), 4),  # only scored
        (task(16, engine="deepspeed", processes=4), 2),
        (task(16, engine="deepspeed", processes=4, micro_batch=2), 1),
        (task(4, engine="deepspeed", processes=4), None),
        (
            task(16, engine="deepspeed", processes=4, long=LongSequences(sequence_parallel=2)),
            4,
        ),
    ],
)
def test_half_of_what_a_process_has_at_once(given, expected):
    less = smaller(given)
    assert (less and less.means.micro_batch) == expected
    if less is not None:
        assert less.spec == given.spec
        assert less.means.model_copy(update={"micro_batch": given.means.micro_batch}) == given.means
