"""Predictions written down before a run, measurements beside them, and how often intervals held.

Three rules keep the record honest. A prediction is written once, under the address of its content,
and never again. The first one made for a phase end and a score is the one that counts: a later and
better informed one changes nothing. And once the phase has been trained no other prediction of it
is taken, nor is a measurement that is older than the prediction it would settle.

    predictions/<address>/prediction.json   before the phase starts
    predictions/<address>/measured.json     after it, beside the prediction that counts
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from anneal.errors import StoreError
from anneal.plan.predictions import AIM, Calibration, Measurement, Prediction, Subject, calibrate
from anneal.store import Store, V, read_value, write_value

PREDICTION, MEASURED = "prediction.json", "measured.json"


def predict(store: Store, prediction: Prediction) -> Prediction:
    """Writes a prediction, unless it or one that says the same is there already.

    Returns:
        The prediction that counts for this phase end and score: the first one made.

    Raises:
        StoreError: another one, when the phase has been trained already.
    """
    subject, score = prediction.subject, prediction.score
    known = _of(store, subject.boundary, score)
    if any(prediction.same(other) for other in known):
        return known[0]
    if any(_measured(store, p) for p in known) or trained(store, subject):
        raise StoreError(
            f"prediction of `{score}` after phase `{subject.phase}`: the phase has been trained, "
            "and what is said afterwards is no prediction",
            hint="the first prediction, made before, is the one that counts",
        )
    write_value(store.prediction(prediction.address) / PREDICTION, prediction)
    return _of(store, subject.boundary, score)[0]


def trained(store: Store, subject: Subject) -> bool:
    """Whether a run has already left the state at this phase end."""
    return (store.boundary(subject.boundary) / "boundary.json").exists()


def counted(store: Store, subject: Subject, score: str = AIM) -> Prediction | None:
    """The prediction that counts: the first one made for this phase end and score."""
    return next(iter(_of(store, subject.boundary, score)), None)


def settle(
    store: Store,
    subject: Subject,
    score: str = AIM,
    *,
    measured: float,
    run: str,
    finished: str,
) -> Measurement:
    """Writes what was measured beside the prediction that counts; the first time only.

    Args:
        subject: the phase end.
        score: the weighted aim, or a guard's name.
        measured: bits per byte.
        run: identifier of the run that measured it.
        finished: when the phase ended, UTC, ISO 8601.

    Returns:
        The measurement on record: this one, or an earlier one of the same phase end.

    Raises:
        StoreError: nothing was predicted, or only after the phase had ended.
    """
    prediction = counted(store, subject, score)
    if prediction is None:
        raise StoreError(
            f"`{score}` after phase `{subject.phase}`: measured, but never predicted",
            hint="a prediction is written before its phase starts",
        )
    before = _measured(store, prediction)
    if before is not None:
        return before
    if datetime.fromisoformat(finished) < datetime.fromisoformat(prediction.made):
        raise StoreError(
            f"`{score}` after phase `{subject.phase}`: measured at {finished}, predicted only at "
            f"{prediction.made}",
            hint="a prediction is written before its phase starts",
        )
    found = Measurement(
        prediction=prediction.address,
        measured=measured,
        inside=prediction.inside(measured),
        error=measured - prediction.value,
        run=run,
        finished=finished,
    )
    write_value(store.prediction(prediction.address) / MEASURED, found)
    return found


def measurement(store: Store, prediction: Prediction) -> Measurement | None:
    """What was measured of a prediction; None until it is settled."""
    return _measured(store, prediction)


def calibration(store: Store) -> Calibration | None:
    """How often intervals held, over every settled prediction that counts; None without any.

    Deterministic: equal records give equal values. Predictions of what was known beforehand
    (`Prediction.known`) are left out.

    Raises:
        StoreError: a record is damaged or was changed.
    """
    first: dict[tuple[str, str], Prediction] = {}
    for prediction in _all(store):
        first.setdefault((prediction.subject.boundary, prediction.score), prediction)
    settled = []
    for prediction in first.values():
        found = _measured(store, prediction)
        if found is not None and not prediction.known:
            settled.append((prediction, found))
    return calibrate(settled)


def _of(store: Store, boundary: str, score: str) -> list[Prediction]:
    """Every prediction of one phase end and score, the first made first."""
    return [p for p in _all(store) if (p.subject.boundary, p.score) == (boundary, score)]


def _all(store: Store) -> Iterator[Prediction]:
    """Every prediction of a store, the first made first."""
    found = []
    for address in store.predictions():
        folder = store.prediction(address)
        if not (folder / PREDICTION).exists() and not (folder / MEASURED).exists():
            continue  # a kill before the file was renamed into place
        prediction = _read(store, address, PREDICTION, Prediction)
        if prediction.address != address:
            raise StoreError(
                f"{folder / PREDICTION}: does not have the address {address} of what was "
                "predicted: it was changed afterwards",
                hint=_HINT,
            )
        found.append(prediction)
    return iter(sorted(found, key=lambda p: (datetime.fromisoformat(p.made), p.address)))


def _measured(store: Store, prediction: Prediction) -> Measurement | None:
    address = prediction.address
    path = store.prediction(address) / MEASURED
    if not path.exists():
        return None
    found = _read(store, address, MEASURED, Measurement)
    error = found.measured - prediction.value
    if (found.prediction, found.inside, found.error) != (
        address,
        prediction.inside(found.measured),
        error,
    ):
        raise StoreError(
            f"{path}: does not agree with the prediction beside it: it was changed afterwards",
            hint=_HINT,
        )
    return found


_HINT = (
    "a record of predictions is never remade: restore the file, or move its folder away and lose it"
)


def _read(store: Store, address: str, name: str, kind: type[V]) -> V:
    try:
        return read_value(store.prediction(address) / name, kind)
    except StoreError as error:
        raise StoreError(error.what, hint=_HINT) from error
