"""Numbers as a person reads them: sensible digits, one unit, the interval beside the value.

Every number in the report goes through here, so that the page and its Markdown twin cannot differ.
Bits per byte get three or four decimals, counts a suffix (4.1M), FLOPs two digits (3.2e15), money
the digits that matter, and probabilities whole percents that never claim certainty from a finite
number of draws.
"""

from __future__ import annotations

import math

from anneal.report.law_rows import Interval

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"
"""Printed where there is no value."""


def decimal(value: float, digits: int, *, sign: bool = False) -> str:
    """`value` with a fixed number of decimals; zero never carries a minus.

    >>> decimal(-0.00001, 3), decimal(1234.5, 1), decimal(0.02, 3, sign=True)
    ('0.000', '1,234.5', '+0.020')
    """
    text = f"{abs(value):,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        return text
    return (MINUS if value < 0 else "+" if sign else "") + text


def interval(value: Interval, digits: int, *, sign: bool = False) -> str:
    """`2.413 [2.401, 2.426]`."""
    low, high = (decimal(v, digits, sign=sign) for v in (value.low, value.high))
    return f"{decimal(value.value, digits, sign=sign)} [{low}, {high}]"


def significant(value: float, digits: int = 3, *, sign: bool = False) -> str:
    """`value` to `digits` significant digits, written out between 1e-4 and 1e6, else as 3.2e15.

    >>> significant(0.012345), significant(1234567.0), significant(52.31), significant(0)
    ('0.0123', '1.23e6', '52.3', '0')
    """
    if value == 0:
        return "0"
    mantissa, exponent = f"{abs(value):.{digits - 1}e}".split("e")
    power = int(exponent)
    lead = MINUS if value < 0 else "+" if sign else ""
    if -5 < power < 6:
        return f"{lead}{float(f'{mantissa}e{power}'):,.{max(0, digits - 1 - power)}f}"
    return f"{lead}{mantissa}e{power}".replace("e-", f"e{MINUS}")


def interval_significant(value: Interval, digits: int = 3) -> str:
    """An interval of a parameter whose scale is not known beforehand."""
    low, high = significant(value.low, digits), significant(value.high, digits)
    return f"{significant(value.value, digits)} [{low}, {high}]"


def count(value: float) -> str:
    """Tokens, documents: `512`, `820k`, `4.1M`, `41.2M`, `1.3B`, `2.0T`.

    >>> count(512), count(8200), count(999_960), count(412_000_000)
    ('512', '8.2k', '1.0M', '412M')
    """
    if abs(value) < 1000:
        return decimal(value, 0)
    for suffix in "kMBT":
        value /= 1000
        if abs(value) < 999.95 or suffix == "T":
            break
    return decimal(value, 1 if abs(value) < 99.95 else 0) + suffix


def flops(value: float) -> str:
    """`3.2e15`; plain below a thousand."""
    if value == 0:
        return "0"
    if 0.1 <= value < 1000:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("e-", f"e{MINUS}")


def usd(value: float) -> str:
    """Money without its unit: cents from 1 to 1,000, whole dollars above, two digits below.

    >>> usd(0), usd(0.00312), usd(12.3), usd(12345.6)
    ('0', '0.0031', '12.30', '12,346')
    """
    if value == 0:
        return "0"
    if abs(value) < 1:
        return significant(value, 2)
    return decimal(value, 2 if abs(value) < 1000 else 0)


def percent(value: float) -> str:
    """A share of something: `34.2%`, and `0%` or `100%` only when exact."""
    if value in (0.0, 1.0):
        return f"{value:.0%}"
    if 0 < value < 0.0005:
        return "<0.1%"
    return decimal(100 * value, 1) + "%"


def probability(value: float) -> str:
    """Whole percents; `>99%` and `<1%` at the ends, as finitely many draws prove no certainty."""
    if value > 0.99:
        return ">99%"
    if value < 0.01:
        return "<1%"
    return f"{value:.0%}"


def seconds(value: float) -> str:
    """`12.0 s`, `4.2 min`, `3.1 h`."""
    if value < 60:
        return f"{decimal(value, 1)} s"
    if value < 3600:
        return f"{decimal(value / 60, 1)} min"
    return f"{decimal(value / 3600, 1)} h"


def epochs(value: float) -> str:
    """`3.2`, whole numbers as such, and two digits below 1."""
    if 0 < value < 1:
        return significant(value, 2)
    return decimal(value, 0 if value == math.floor(value) else 1)


def mixture(shares: dict[str, float]) -> str:
    """`packages 61.0%, stdlib 39.0%`, the largest first, sources without tokens left out."""
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {percent(share)}" for name, share in ordered if share > 0) or NONE


def when(moment: str) -> str:
    """`2025-06-01T12:30:05+00:00` as `2025-06-01 12:30 UTC`; other text as it is."""
    if len(moment) >= 16 and moment[10:11] == "T" and moment[:4].isdigit():
        return f"{moment[:10]} {moment[11:16]} UTC"
    return moment
