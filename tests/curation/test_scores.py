"""Known scores: found by content, kept through a kill, bounded."""

from __future__ import annotations

import os

import numpy as np
import pytest

from anneal.curation import scores
from anneal.curation.scores import Rows, digests


def texts(start: int, stop: int) -> list[bytes]:
    return [f"text {i}".encode() for i in range(start, stop)]


def add(rows: Rows, start: int, stop: int) -> None:
    numbers = np.arange(start, stop, dtype=float)
    rows.add(digests(texts(start, stop)), numbers[:, None], numbers * 2, numbers / 8)


def test_rows_are_found_again_by_content_alone(tmp_path):
    rows = Rows(tmp_path / "a", 1)
    assert rows.find(digests(texts(0, 3))).tolist() == [-1, -1, -1]
    add(rows, 0, 300)
    rows.close()
    again = Rows(tmp_path / "a", 1)
    place = again.find(digests([b"text 299", b"unheard of", b"text 0"]))
    assert (place >= 0).tolist() == [True, False, True]
    found = again.known[place[[0, 2]]]
    assert found["value"][:, 0].tolist() == [299, 0]
    assert found["flops"].tolist() == [598, 0]
    assert found["seconds"].tolist() == [299 / 8, 0]
    assert (Rows(tmp_path / "b", 1).find(digests(texts(0, 3))) < 0).all()


def test_segments_are_merged_and_a_row_that_was_made_twice_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "SECONDS", -1.0)
    one, other = Rows(tmp_path / "a", 1), Rows(tmp_path / "a", 1)
    add(one, 0, 10)
    add(one, 10, 20)
    add(other, 5, 15)  # another process, at the same time
    assert len(list((tmp_path / "a").glob("*.npy"))) == 3
    third = Rows(tmp_path / "a", 1)
    third.close()
    assert len(list((tmp_path / "a").iterdir())) == 1
    one.close()  # its segments are gone meanwhile
    assert len(Rows(tmp_path / "a", 1).known) == 20


def test_a_damaged_segment_is_as_good_as_none(tmp_path):
    rows = Rows(tmp_path / "a", 1)
    add(rows, 0, 10)
    rows.close()
    (path,) = (tmp_path / "a").glob("*.npy")
    for data in (path.read_bytes()[:-9], b"", path.read_bytes()[:-1] + b"x"):
        path.write_bytes(data)
        assert len(Rows(tmp_path / "a", 1).known) == 0
    (tmp_path / "a" / "stranger.npy").write_bytes(b"not ours")
    rows = Rows(tmp_path / "a", 1)
    add(rows, 0, 10)
    rows.close()
    assert len(Rows(tmp_path / "a", 1).known) == 10
    assert len(list((tmp_path / "a").iterdir())) == 1


@pytest.mark.parametrize(("room", "left"), [(3.5, {"new", "old", "older"}), (1.5, {"new"})])
def test_what_was_not_used_for_longest_goes_first(tmp_path, monkeypatch, room, left):
    for age, name in enumerate(("old", "older", "oldest")):
        rows = Rows(tmp_path / name, 1)
        add(rows, 0, 10)
        rows.close()
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    (segment,) = (tmp_path / "old").iterdir()
    monkeypatch.setattr(scores, "LIMIT", int(room * segment.stat().st_size))
    rows = Rows(tmp_path / "new", 1)
    add(rows, 0, 10)
    rows.close()
    assert {path.name for path in tmp_path.iterdir()} == left


def test_one_annotator_alone_stays_within_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "LIMIT", 40 * 15)
    rows = Rows(tmp_path / "a", 1)
    add(rows, 0, 10)
    add(rows, 10, 20)
    rows.close()
    assert len(Rows(tmp_path / "a", 1).known) == 10
