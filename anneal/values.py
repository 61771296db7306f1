"""Values: frozen, strictly checked records, and the address of their content.

Everything `anneal` is told (sources, budgets, phases) and everything it finds (manifests, results)
is a `Value`: a frozen pydantic model that refuses unknown fields, NaN and infinity. A value has
one canonical JSON text, so it has an `address`: two runs with the same address are the same run,
whoever asked for them, whenever, and under whatever name.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict

ADDRESS_LENGTH = 20
"""Hex digits kept of the SHA-256: 80 bits, a collision among 1e9 values has odds below 1e-6."""


class Value(BaseModel):
    """Base of every record: frozen, no unknown fields, no NaN or infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


def canonical(value: Value | Any) -> str:
    """The one JSON text of `value`: sorted keys, no spaces, floats as Python's shortest repr.

    Raises:
        TypeError: for anything without a stable text form (sets, bytes, objects, NaN).
    """
    plain = value.model_dump(mode="json") if isinstance(value, Value) else value
    try:
        return json.dumps(
            plain, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True
        )
    except (TypeError, ValueError) as error:
        raise TypeError(f"no stable form to address: {error}") from error


def address(value: Value | Any) -> str:
    """Content address of `value`: the first 20 hex digits of the SHA-256 of its canonical text."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:ADDRESS_LENGTH]
