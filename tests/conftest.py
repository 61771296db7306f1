"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# no test may reach a hub or an account
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """Corpora and published tables beside the checkout; tests skip where there are none."""
    folder = Path(os.environ.get("ANNEAL_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}")
    return folder
