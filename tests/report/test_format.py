"""Numbers as a person reads them."""

from __future__ import annotations

import pytest

from anneal.report import format as show
from anneal.report import markdown
from anneal.report.law_rows import Interval


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (8_200, "8.2k"),
        (99_949, "99.9k"),
        (99_951, "100k"),
        (999_499, "999k"),
        (999_960, "1.0M"),
        (4_096_000, "4.1M"),
        (41_238_016, "41.2M"),
        (412_000_000, "412M"),
        (3.4e12, "3.4T"),
        (2.5e16, "25,000T"),
    ],
)
def test_count(value: float, text: str) -> None:
    assert show.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.00312, "0.0031"), (0.999, "1.0"), (12.3, "12.30"), (12345.6, "12,346")],
)
def test_usd(value: float, text: str) -> None:
    assert show.usd(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.012345, "0.0123"), (9.999, "10.0"), (1.234e6, "1.23e6"), (-3.2e-7, "−3.20e−7")],
)
def test_significant(value: float, text: str) -> None:
    assert show.significant(value) == text


def test_flops_have_a_bare_exponent() -> None:
    assert show.flops(3.21e15) == "3.2e15"
    assert show.flops(0) == "0"


def test_interval_and_sign() -> None:
    value = Interval(value=-0.01, low=-0.02, high=0.0)
    assert show.interval(value, 3) == "−0.010 [−0.020, 0.000]"
    assert show.interval(value, 3, sign=True) == "−0.010 [−0.020, 0.000]"
    assert show.decimal(0.02, 2, sign=True) == "+0.02"


def test_rounding_to_zero_loses_the_sign() -> None:
    assert show.decimal(-1e-9, 4) == "0.0000"


def test_probability_never_claims_certainty() -> None:
    assert show.probability(1.0) == ">99%"
    assert show.probability(0.0) == "<1%"
    assert show.probability(0.5) == "50%"


def test_percent_is_exact_only_when_it_is() -> None:
    assert show.percent(0.0) == "0%"
    assert show.percent(1.0) == "100%"
    assert show.percent(1e-6) == "<0.1%"
    assert show.percent(0.3418) == "34.2%"


def test_epochs_below_one_keep_two_digits() -> None:
    assert [show.epochs(v) for v in (0.0, 0.048, 1.0, 7.49, 16.0)] == [
        "0",
        "0.048",
        "1",
        "7.5",
        "16",
    ]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("packages_filtered", "packages_filtered"),
        ("_x_ *y*", r"\_x\_ \*y\*"),
        ("1.584 [1.565, 1.603]", "1.584 [1.565, 1.603]"),
        ("[a](javascript:b)", "[a]&#40;javascript:b)"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("a\n# b", "a # b"),
        ("# heading", r"\# heading"),
        ("a | b", r"a \| b"),
    ],
)
def test_markdown_escape(text: str, escaped: str) -> None:
    assert markdown.escape(text) == escaped


def test_markdown_code_falls_back_where_backticks_would_break() -> None:
    assert markdown.code("torch 2.11") == "`torch 2.11`"
    assert markdown.code("a|`b`") == r"a\|\`b\`"
