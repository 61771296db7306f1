"""The store: whole files or none, one sweep at a time."""

import os
import subprocess
import sys

import pytest

from anneal.errors import StoreError
from anneal.store import Store, append, read_value, write, write_value, writing
from anneal.values import Value


class Note(Value):
    text: str


def test_write_replaces_whole(tmp_path):
    path = tmp_path / "deep" / "file.json"
    write(path, "one")
    write(path, "two")
    assert path.read_text() == "two"
    assert os.listdir(path.parent) == ["file.json"]


def test_values_come_back(tmp_path):
    write_value(tmp_path / "n.json", Note(text="ü\n"))
    assert read_value(tmp_path / "n.json", Note) == Note(text="ü\n")


@pytest.mark.parametrize("content", ['{"text": ', '{"other": 1}', ""])
def test_damaged_values_name_their_file(tmp_path, content):
    (tmp_path / "n.json").write_text(content)
    with pytest.raises(StoreError, match=r"n\.json: not a Note"):
        read_value(tmp_path / "n.json", Note)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), writing(tmp_path / "made") as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert os.listdir(tmp_path) == []
    with writing(tmp_path / "made") as folder:
        (folder / "whole").write_text("x")
    assert os.listdir(tmp_path) == ["made"]


def test_the_first_to_finish_a_folder_wins(tmp_path):
    with writing(tmp_path / "made") as mine:
        (mine / "a").write_text("mine")
        with writing(tmp_path / "made") as theirs:
            (theirs / "a").write_text("theirs")
    assert (tmp_path / "made" / "a").read_text() == "theirs"
    assert os.listdir(tmp_path) == ["made"]


HOLD = """
import sys, time
from anneal.store import Store
with Store(sys.argv[1]).lock("sweep demo"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_sweeps_on_one_store_and_a_kill_frees_it(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=f"in use by sweep demo .process {holder.pid}"):
            with Store(tmp_path).lock("another"):
                pass
        holder.kill()
    with Store(tmp_path).lock("another"):
        pass


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    import builtins

    real = builtins.open

    def full(path, *args, **kwargs):
        return real("/dev/full" if ".file.json" in str(path) else path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", full)
    with pytest.raises(StoreError, match="disk full"):
        write(tmp_path / "file.json", "x" * 100_000)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []


def test_append_adds_all_of_it_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "journal"
    append(path, b"one\n")
    append(path, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"journal: disk full"):
        append(path, b"three\n")
    assert path.read_bytes() == b"one\ntwo\n"
    with pytest.raises(FileNotFoundError):
        append(tmp_path / "nowhere" / "journal", b"x")
