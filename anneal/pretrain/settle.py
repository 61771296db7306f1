"""Predictions of a full run on record, and what was measured beside them.

A run that is killed and goes on says everything again; what counts stays what was said first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from anneal import calibration
from anneal.plan.predictions import AIM, Measurement, NoPrediction, Prediction, Said
from anneal.plan.scores import aim
from anneal.plan.values import PhaseEnd, RunSpec, Score
from anneal.store import Store


def write_down(store: Store, said: Sequence[Said]) -> tuple[Said, ...]:
    """Writes predictions before their phases start, and returns those that count.

    Of a phase end that was predicted before, the first prediction counts; of one that was trained
    before it was ever predicted there is none.

    Raises:
        StoreError: a record is damaged, or the store cannot be written.
    """
    out: list[Said] = []
    for one in said:
        known = calibration.counted(store, one.subject, one.score)
        if known is not None:
            out.append(known)
        elif isinstance(one, Prediction) and calibration.trained(store, one.subject):
            reason = "trained before it was predicted"
            out.append(NoPrediction(subject=one.subject, score=one.score, reason=reason))
        else:
            out.append(calibration.predict(store, one) if isinstance(one, Prediction) else one)
    return tuple(out)


@dataclass(frozen=True)
class Beside:
    """What was said of a phase end, and what was measured there.

    Args:
        said: the prediction that counts, or why there is none.
        measured: bits per byte; None where the run did not come so far.
        settled: the record; None where nothing was predicted, measured, or in time.
    """

    said: Said
    measured: float | None
    settled: Measurement | None


def settle_run(
    store: Store, spec: RunSpec, said: Sequence[Said], ends: Sequence[PhaseEnd]
) -> tuple[Beside, ...]:
    """Sets what was measured beside what was said, and writes it down.

    Args:
        store: where predictions lie.
        spec: the run.
        said: as `write_down` returned them.
        ends: the phase ends that the run has reached, in any order.

    Raises:
        StoreError: a record is damaged, or the store cannot be written.
    """
    reached = {end.index: end for end in ends}
    out = []
    for one in said:
        end = reached.get(one.subject.index)
        measured = None if end is None else measured_score(spec, end.scores, one.score)
        settled = None
        if end is not None and measured is not None and isinstance(one, Prediction):
            in_time = datetime.fromisoformat(one.made) <= datetime.fromisoformat(end.finished)
            settled = calibration.measurement(store, one)
            if settled is None and in_time:
                settled = calibration.settle(
                    store,
                    one.subject,
                    one.score,
                    measured=measured,
                    run=spec.id,
                    finished=end.finished,
                )
        out.append(Beside(one, measured, settled))
    return tuple(out)


def measured_score(spec: RunSpec, scores: Mapping[str, Score], name: str = AIM) -> float | None:
    """A score by name: a target's bits per byte, or the weighted mean of the aims; None where not
    all of it was measured."""
    if name != AIM:
        return scores[name].bpb if name in scores else None
    return aim({target: found.bpb for target, found in scores.items()}, spec.targets)
