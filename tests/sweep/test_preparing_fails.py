"""A preparation step that failed ends the sweep with what the step said."""

from __future__ import annotations

import pytest

from anneal.errors import SourceError
from anneal.launch.values import Outcome
from anneal.plan.values import Failure
from anneal.sweep.prepare import _raise_failure, steps_of


@pytest.mark.parametrize("kind", ["bad_data", "network", "disk_full"])
def test_what_the_step_said_is_what_the_person_reads(ask, kind):
    from anneal.store import Store

    steps = steps_of(ask, Store(ask.store))
    said = "s3://bucket/books: it does not answer hint: check the network"
    failure = Failure(run=steps[0].id, kind=kind, message=said, log="x.log", attempts=3)
    with pytest.raises(SourceError) as raised:
        _raise_failure(Outcome(task=steps[0].id, ok=False, failure=failure), steps)
    assert str(raised.value) == ("s3://bucket/books: it does not answer\nhint: check the network")
