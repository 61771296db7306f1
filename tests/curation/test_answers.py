"""Answers are found again, after a kill too; damage is named."""

from __future__ import annotations

import random

import pytest

from anneal.curation import answers as answers_module
from anneal.curation.answers import Answers
from anneal.curation.teacher import Answer, Request
from anneal.errors import StoreError


def answer(text: str) -> Answer:
    return Answer(text, "stop", 1, 2, 0.5)


def key(number: int) -> str:
    return Request(f"prompt {number}", 10, 0.0, 1.0, 0).key("teacher")


def test_answers_are_found_again_across_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(answers_module, "SHARD", 10)
    cache = Answers(tmp_path / "a")
    for number in range(0, 95, 5):
        cache.add((key(n), answer(f"é {n}")) for n in range(number, number + 5))
        assert cache.get(key(number)) == answer(f"é {number}")
    cache.close()
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 10
    assert all(name.endswith(".jsonl.zst") for name in files)
    found = Answers(tmp_path / "a")
    order = list(range(95))
    random.Random(0).shuffle(order)
    assert all(found.get(key(n)) == answer(f"é {n}") for n in order)
    assert found.get(key(95)) is None


def test_a_journal_of_a_killed_process_is_taken_over_but_for_a_torn_line(tmp_path):
    cache = Answers(tmp_path)
    cache.add((key(n), answer(str(n))) for n in range(3))
    (journal,) = tmp_path.glob("journal-*")
    # while its process lives, others read it and leave it
    assert Answers(tmp_path).get(key(2)) == answer("2")
    assert journal.exists()
    cache._lock.close()  # what a kill does
    with journal.open("ab") as file:
        file.write(b'{"key": "torn')
    heir = Answers(tmp_path)
    assert [heir.get(key(n)) for n in range(4)] == [answer("0"), answer("1"), answer("2"), None]
    assert not journal.exists()
    assert len(list(tmp_path.glob("*.zst"))) == 1


def test_a_damaged_shard_is_named(tmp_path):
    cache = Answers(tmp_path)
    cache.add([(key(0), answer("x" * 100))])
    cache.close()
    (shard,) = tmp_path.glob("*.zst")
    whole = shard.read_bytes()
    for broken in (whole[:-5], b"", whole[:20] + bytes([whole[20] ^ 255]) + whole[21:]):
        shard.write_bytes(broken)
        with pytest.raises(StoreError, match=r"damaged") as caught:
            Answers(tmp_path)
        assert str(shard) in caught.value.what
        assert "delete the file" in caught.value.hint
