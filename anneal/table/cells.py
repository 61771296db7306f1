"""What stands in a table's cells: headers, numbers and their doubts.

Generous where nothing can be misread: headers in any case (`Unique Tokens`), thousands separators
in counts (`4,096,000`, `4_096_000`, `4 096 000`). Strict wherever a guess could change a number:
`3,121` as a score is three thousand to one reader and three to another, so scores take no
separators; `1.5B`, `12 GB`, `nan` and `-` are errors that say what to write.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable

from anneal.errors import TableError

Cell = str | float | bool | None
"""What a reader found: text (CSV), a number or a truth value (Parquet), nothing."""

_PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:([,_ '\u00a0\u2009\u202f])\d{3})(?:\1\d{3})*(\.\d+)?")
_MISSING = {"nan", "na", "n/a", "null", "none", "-", "\N{EN DASH}", "inf", "-inf", "+inf"}
_SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


def header(text: str) -> str:
    """A column's name as it is compared: `Unique Tokens ` -> `unique_tokens`."""
    return re.sub(r"[\s.\-]+", "_", text.strip().casefold())


def near(name: str, known: Iterable[str]) -> str:
    """The known name that `name` was probably meant to be; empty where none is close.

    >>> near("toknes", ["tokens", "score"]), near("unique", ["unique_tokens"]), near("x", ["usd"])
    ('tokens', 'unique_tokens', '')
    """
    names = list(known)
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    if found:
        return found[0]
    words = set(name.split("_"))
    return next((k for k in names if k.split("_")[0] in words and k not in _ORDINARY), "")


_ORDINARY = {"source", "tokens", "score", "target"}
"""Words that other columns are named with too (`source_url`, `tokens_per_second`)."""


def empty(cell: Cell) -> bool:
    """Whether nothing stands there."""
    return (
        cell is None
        or (isinstance(cell, str) and not cell.strip())
        or (isinstance(cell, float) and math.isnan(cell))
    )


def text(cell: Cell) -> str:
    """A name: surrounding blanks gone."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and cell == int(cell):
        return str(int(cell))
    return str(cell).strip()


def number(cell: Cell, where: str, *, grouped: bool = True) -> float:
    """A finite number.

    Args:
        where: the cell's place, for the error.
        grouped: whether thousands separators may stand in it.

    Raises:
        TableError: empty, not a number, infinite, or one that can be read in two ways.
    """
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        if math.isfinite(cell):
            return float(cell)
        raise TableError(
            f"{where}: got {cell}, not a finite number", hint="leave failed runs out of the table"
        )
    given = "" if cell is None else str(cell).strip()
    if _PLAIN.fullmatch(given):
        value = float(given)
        if math.isfinite(value):
            return value
        raise TableError(f"{where}: got `{given}`, too large for a number", hint="check the digits")
    if not given or given.casefold() in _MISSING:
        shown = f"got `{given}`, not a number" if given else "is empty"
        raise TableError(f"{where}: {shown}", hint="leave failed runs out of the table")
    match = _GROUPED.fullmatch(given)
    if match and grouped:
        return float(given.replace(match[1], ""))
    if match or re.fullmatch(r"[+-]?\d+,\d+", given):
        raise TableError(
            f"{where}: got `{given}`, which can be read in two ways",
            hint="write a decimal point, and no thousands separators in scores",
        )
    raise TableError(
        f"{where}: got `{given[:40]}`, not a number", hint="write digits alone: 1500000000 or 1.5e9"
    )


def truth(cell: Cell, where: str) -> bool:
    """A yes or no; empty is no.

    Raises:
        TableError: anything else.
    """
    if empty(cell):
        return False
    word = text(cell).casefold()
    if word in {"1", "true", "yes"}:
        return True
    if word in {"0", "false", "no"}:
        return False
    raise TableError(f"{where}: got `{word[:40]}`, not yes or no", hint="write yes, no or nothing")


def amount(word: str, what: str) -> float:
    """A positive amount typed on the command line: `800000`, `8e5`, `800,000`, `800k`, `1.5B`.

    Raises:
        TableError: anything else.
    """
    match = re.fullmatch(r"(.*?)\s*([kKmMbBtT]?)", word.strip())
    assert match is not None
    try:
        value = number(match[1], what) * _SUFFIXES[match[2].casefold()]
    except TableError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise TableError(
            f"{what}: got `{word}`, not a positive number", hint="write 800000, 8e5 or 800k"
        )
    return value
