"""Fixtures that integration tests share with unit tests and with each other."""

from pathlib import Path

import pytest

from tests.curation.conftest import carry_out
from tests.integration import full_run

__all__ = ["carry_out"]


@pytest.fixture(scope="session")
def decided(tmp_path_factory) -> Path:
    """A small sweep that has decided: what full runs begin with. Copy it, never write to it."""
    folder = tmp_path_factory.mktemp("decided")
    full_run.write_corpus(folder)
    done = full_run.anneal(folder, "sweep", "small.yaml")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def undisturbed(decided, tmp_path_factory) -> Path:
    """A full run of two DeepSpeed processes from beginning to end, and what it printed."""
    folder = full_run.copy(decided, tmp_path_factory.mktemp("undisturbed") / "c")
    (folder / "said").write_text(full_run.pretrain(folder))
    return folder


@pytest.fixture
def fresh(decided, tmp_path) -> Path:
    """A decided sweep, nothing of the full run there yet."""
    return full_run.copy(decided, tmp_path / "c")


@pytest.fixture
def done(undisturbed, tmp_path) -> Path:
    """A finished full run to change something about."""
    return full_run.copy(undisturbed, tmp_path / "c")
