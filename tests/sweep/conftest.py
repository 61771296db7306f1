"""A sweep to ask about."""

from __future__ import annotations

import pytest

from tests.integration.test_planted import ask_in


@pytest.fixture
def ask(tmp_path):
    return ask_in(tmp_path)
