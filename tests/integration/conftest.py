"""Fixtures that integration tests share with unit tests."""

from tests.curation.conftest import carry_out

__all__ = ["carry_out"]
