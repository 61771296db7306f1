"""Predictions on record: written once, the first one counts, nothing is said afterwards."""

import itertools

import pytest
from scipy import stats

from anneal import calibration as record
from anneal.errors import StoreError
from anneal.plan.predictions import (
    Measurement,
    Prediction,
    Subject,
    calibrate,
    held_words,
    wilson,
)
from anneal.store import Store, write, write_value

BEFORE, LATER, AFTER = (f"2026-01-0{day}T00:00:00+00:00" for day in (1, 2, 3))


def subject(boundary: str = "a" * 20, index: int = 1) -> Subject:
    return Subject(boundary=boundary, phase="high-quality", index=index, tokens=1000)


def prediction(**more) -> Prediction:
    given = {
        "subject": subject(),
        "value": 1.5,
        "low": 1.4,
        "high": 1.6,
        "level": 0.9,
        "basis": "a law",
        "decision": "d",
        "analysis": "e",
        "extrapolation": 2.0,
        "made": BEFORE,
    }
    return Prediction(**(given | more))


def settled(store: Store, measured: float, **more):
    made = record.predict(store, prediction(**more))
    return record.settle(
        store, made.subject, made.score, measured=measured, run="r", finished=AFTER
    )


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


def test_a_prediction_is_written_under_the_address_of_all_of_it(store):
    made = record.predict(store, prediction())
    assert store.predictions() == [made.address]
    assert made == prediction()
    others = [
        prediction(**{key: value})
        for key, value in {
            "value": 1.51,
            "made": LATER,
            "basis": "another",
            "broken": ("x",),
            "score": "guard",
            "subject": subject("b" * 20),
        }.items()
    ]
    assert len({made.address, *(p.address for p in others)}) == 7


def test_saying_the_same_again_writes_nothing(store):
    made = record.predict(store, prediction())
    path = store.prediction(made.address) / "prediction.json"
    before = path.stat().st_mtime_ns
    assert record.predict(store, prediction(made=LATER)) == made
    assert store.predictions() == [made.address]
    assert path.stat().st_mtime_ns == before


def test_the_first_prediction_counts(store):
    record.predict(store, prediction())
    assert record.predict(store, prediction(value=1.55, made=LATER)).value == 1.5
    assert len(store.predictions()) == 2
    found = record.settle(store, subject(), measured=1.58, run="r", finished=AFTER)
    assert found.prediction == prediction().address
    assert found.error == pytest.approx(0.08)
    assert record.calibration(store).n == 1


def test_nothing_is_predicted_after_the_measurement(store):
    settled(store, 1.55)
    assert record.predict(store, prediction(made=LATER)).made == BEFORE  # says the same
    with pytest.raises(StoreError, match="has been trained") as caught:
        record.predict(store, prediction(value=1.55, made=LATER))
    assert "first prediction" in caught.value.hint
    # another score of the same phase end was not measured
    record.predict(store, prediction(score="guard"))


def test_nothing_is_predicted_of_a_phase_that_left_its_state(store):
    write(store.boundary(subject().boundary) / "boundary.json", "{}")
    with pytest.raises(StoreError, match="has been trained"):
        record.predict(store, prediction())
    assert store.predictions() == []


def test_a_measurement_is_written_once(store):
    first = settled(store, 1.7)
    assert not first.inside
    again = record.settle(store, subject(), measured=1.5, run="other", finished=AFTER)
    assert again == first
    assert record.measurement(store, prediction()) == first


def test_a_measurement_needs_an_older_prediction(store):
    with pytest.raises(StoreError, match="never predicted"):
        record.settle(store, subject(), measured=1.5, run="r", finished=AFTER)
    record.predict(store, prediction(made=AFTER))
    with pytest.raises(StoreError, match="predicted only at"):
        record.settle(store, subject(), measured=1.5, run="r", finished=LATER)
    assert record.calibration(store) is None


def test_calibration_counts_by_level_and_by_run(store):
    assert record.calibration(store) is None
    for i, measured in enumerate([1.41, 1.5, 1.59, 1.7]):
        settled(store, measured, subject=subject(f"{i:020d}"))
    settled(store, 2.0, subject=subject("c" * 20), level=0.5, made=LATER, broken=("decays twice",))
    settled(store, 1.5, subject=subject("d" * 20), known=True)  # known beforehand: not counted
    record.predict(store, prediction(subject=subject("e" * 20)))  # not settled
    found = record.calibration(store)
    assert (found.n, found.inside, found.runs, found.broken) == (5, 3, 1, 1)
    assert [(h.level, h.n, h.inside) for h in found.levels] == [(0.5, 1, 0), (0.9, 4, 3)]
    assert found.mean_error == pytest.approx((0.09 + 0 + 0.09 + 0.2 + 0.5) / 5)
    assert found.mean_width == pytest.approx(0.2)
    assert (found.oldest, found.newest) == (BEFORE, LATER)
    assert record.calibration(store) == found
    assert "our 90% intervals have held 3 of 4 times [36%, 94%]" in held_words(found)


def test_the_order_of_the_records_changes_no_bit():
    rows = []
    for i in range(4):
        made = prediction(subject=subject(f"{i:020d}"), value=1.4 + i / 30)
        measured = 1.45 + i / 70
        error = measured - made.value
        inside = made.inside(measured)
        rows.append(
            (
                made,
                Measurement(
                    prediction=made.address,
                    measured=measured,
                    inside=inside,
                    error=error,
                    run="r",
                    finished=AFTER,
                ),
            )
        )
    found = {calibrate(order).model_dump_json() for order in itertools.permutations(rows)}
    assert len(found) == 1


@pytest.mark.parametrize("n", [1, 3, 9, 40])
def test_wilson_inverts_the_score_test(n):
    z = stats.norm.ppf(0.95)
    for k in range(n + 1):
        low, high = wilson(k, n)
        assert 0 <= low <= k / n <= high <= 1
        for end in (low, high):
            if 0 < end < 1:
                assert abs(k / n - end) == pytest.approx(z * (end * (1 - end) / n) ** 0.5)
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("name", ["prediction.json", "measured.json"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "empty"])
def test_a_damaged_record_is_a_clear_error(store, name, damage):
    settled(store, 1.5)
    path = store.prediction(prediction().address) / name
    text = path.read_text()
    if damage == "truncated":
        path.write_text(text[: len(text) // 2])
    elif damage == "empty":
        path.write_text("")
    else:
        path.write_text(text.replace("1.5", "1.45").replace("true", "false"))
    with pytest.raises(StoreError, match=name) as caught:
        record.calibration(store)
    assert "never remade" in caught.value.hint


def test_a_measurement_without_its_prediction_is_an_error_and_an_empty_folder_is_not(store):
    settled(store, 1.5)
    folder = store.prediction(prediction().address)
    (folder / "prediction.json").unlink()
    with pytest.raises(StoreError, match=r"prediction\.json: missing"):
        record.calibration(store)
    (folder / "measured.json").unlink()
    assert record.calibration(store) is None


def test_a_value_outside_its_interval_is_refused(store):
    with pytest.raises(ValueError, match="outside its interval"):
        prediction(value=1.7)
    with pytest.raises(StoreError):
        write_value(store.prediction("x") / "prediction.json", prediction())
        record.calibration(store)  # under an address that is not its own
