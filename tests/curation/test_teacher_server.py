"""A server in trouble: what passes is waited out, what lasts is one clear error."""

from __future__ import annotations

import os
import signal
import time

import pytest
from asking import seeds, step, well
from fake_server import completion, serving
from pydantic import ValidationError

from anneal.curation import teacher_server
from anneal.errors import SourceError, StoreError


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(teacher_server, "FIRST_PAUSE_SECONDS", 0.001)


@pytest.mark.parametrize(
    "trouble",
    [
        (429, {"error": "slow down"}, {"Retry-After": "0"}),
        (500, b"<html>oops</html>", {}),
        (503, {}, {}),
        b"<html>welcome</html>",
        b'{"choices": [{"mess',
        {"choices": []},
        {"choices": [{"message": {"content": 5}, "finish_reason": "stop"}], "usage": {}},
        {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]},
        (200, b'{"choices": [', {"Content-Length": "4000"}),  # a body that breaks off
        (200, b"not gzip", {"Content-Encoding": "gzip"}),
    ],
    ids=str,
)
def test_passing_trouble_passes_and_lasting_trouble_is_one_clear_error(trouble, carry_out):
    def now_and_then(path, said, number):
        return trouble if number % 3 == 1 else well(path, said, number)

    with serving(now_and_then) as (url, _):
        made, record = carry_out(step(url), seeds(8))
    assert len(made) == record.notes["requests"] == 8
    with serving(lambda *words: trouble) as (url, asked):
        with pytest.raises(SourceError, match=rf"^teacher {url}: .*\(tried 8 times\)") as caught:
            carry_out(step(url, seed=2, teacher={"parallel": 2}), seeds(8))
    assert "what was answered is kept" in caught.value.hint
    assert len(asked) <= 2 * 8


@pytest.mark.parametrize(
    ("status", "message", "hint"),
    [
        (401, "bad key", "teacher.key_variable"),
        (404, "The model `teacher` does not exist.", "correct teacher.model"),
        (422, "top_p: wrong", "settings"),
        (301, "moved", "correct"),
    ],
)
def test_what_will_not_pass_ends_the_step_with_the_servers_words(status, message, hint, carry_out):
    with serving(lambda *words: (status, {"error": {"message": message}}, {})) as (url, asked):
        with pytest.raises(SourceError, match=f"{status}: {message}") as caught:
            carry_out(step(url), seeds(5))
    assert hint in caught.value.hint
    assert len(asked) <= 6


def test_a_teacher_that_is_down_or_nowhere_is_one_clear_error(carry_out):
    with pytest.raises(SourceError, match=r"teacher http://127\.0\.0\.1:9/v1: ConnectError"):
        carry_out(step(), seeds(3))


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("not an address", "must be an address"),
        ("ftp://127.0.0.1/v1", "must be an address"),
        ("http://127.0.0.1 /v1", "must be an address"),
        ("http://[::1/v1", "Invalid IPv6"),
        ("http://127.0.0.1:99999/v1", "Port out of range"),
        ("https://me:secret@127.0.0.1/v1", "must hold no key"),
        ("https://127.0.0.1/v1?key=secret", "must hold no key"),
    ],
)
def test_an_address_is_one_and_holds_no_secret(url, what):
    with pytest.raises(ValidationError, match=what):
        step(url)


def test_a_teacher_that_hangs_is_given_up(carry_out):
    def slow(path, said, number):
        time.sleep(0.3)
        return well(path, said, number)

    with serving(slow) as (url, _):
        with pytest.raises(SourceError, match="ReadTimeout"):
            carry_out(step(url, teacher={"timeout_seconds": 0.02}), seeds(1))


def test_what_was_answered_before_the_trouble_is_kept(carry_out):
    """The server breaks for good in the middle; nothing that it answered is asked again."""

    def breaks(path, said, number):
        return well(path, said, number) if number <= 23 else (500, b"", {})

    with serving(breaks) as (url, asked):
        with pytest.raises(SourceError, match="500"):
            carry_out(step(url, teacher={"parallel": 4}), seeds(50))
    answered = 23
    with serving(well) as (url, asked):
        made, record = carry_out(step(url, teacher={"parallel": 4}), seeds(50))
    assert len(asked) == 50 - answered
    assert record.notes["requests_found_in_cache"] == answered
    with serving(well) as (url, asked):
        whole, _ = carry_out(step(url, teacher={"model": "other"}), seeds(50))
    assert [d.text for d in made] == [d.text for d in whole]


def test_the_key_goes_to_the_server_and_nowhere_else(
    carry_out, monkeypatch, tmp_path, capfd, caplog
):
    caplog.set_level("DEBUG")
    key = "sk-very-secret-0123456789"
    keyed = {"key_variable": "TEACHER_KEY"}
    with pytest.raises(SourceError, match="`TEACHER_KEY`, which should hold its key, is not set"):
        carry_out(step(teacher=keyed), seeds(1))
    monkeypatch.setenv("TEACHER_KEY", key)

    def answer(path, said, number):
        if number > 3:
            return 401, {"error": {"message": f"Incorrect API key provided: {key}"}}, {}
        return well(path, said, number)

    with serving(answer) as (url, asked):
        with pytest.raises(SourceError, match=r"provided: \*\*\*") as caught:
            carry_out(step(url, teacher=keyed), seeds(5))
    assert asked[0][2]["Authorization"] == f"Bearer {key}"
    assert key not in str(caught.value) + "".join(capfd.readouterr()) + caplog.text
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes()


def test_half_a_surrogate_pair_in_an_answer_is_no_crash(carry_out):
    with serving(lambda *words: completion("a \ud800 b")) as (url, _):
        made, _ = carry_out(step(url), seeds(1))
    assert made[0].text == "a ? b\n"


def test_a_full_disk_is_a_store_error_and_loses_nothing_that_was_kept(carry_out, monkeypatch):
    real, calls = os.fsync, 0

    def full(handle):
        nonlocal calls
        calls += 1
        if calls > 5:
            raise OSError(28, "No space left on device")
        real(handle)

    with serving(well) as (url, _):
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="disk full"):
            carry_out(step(url, teacher={"parallel": 1}), seeds(20))
        monkeypatch.setattr(os, "fsync", real)
        made, record = carry_out(step(url), seeds(20))
    assert len(made) == 20
    assert record.notes["requests_found_in_cache"] == 5


def test_told_to_stop_it_stops_at_once_and_keeps_what_came(carry_out):
    """A worker's SIGTERM raises SystemExit wherever the main thread happens to be."""

    def slow_later(path, said, number):
        if number > 5:
            time.sleep(3)
        return well(path, said, number)

    def stop(number, frame):
        raise SystemExit(75)

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with serving(slow_later) as (url, _):
            signal.setitimer(signal.ITIMER_REAL, 0.7)
            with pytest.raises(SystemExit):
                carry_out(step(url, teacher={"parallel": 2}), seeds(9))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with serving(well) as (url, asked):
        made, _ = carry_out(step(url), seeds(9))
    assert (len(made), len(asked)) == (9, 4)
