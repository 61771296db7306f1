"""Values and their addresses."""

import pytest
from pydantic import ValidationError

from anneal.values import Value, address, canonical


class Point(Value):
    x: float
    y: float = 0.0
    tags: tuple[str, ...] = ()


def test_address_depends_on_content_alone():
    assert address(Point(x=1)) == address(Point(y=0.0, x=1.0, tags=()))
    assert address(Point(x=1)) != address(Point(x=1 + 1e-15))


def test_address_of_plain_data_ignores_key_order():
    assert address({"a": 1, "b": [2, None]}) == address({"b": [2, None], "a": 1})


@pytest.mark.parametrize("bad", [{1, 2}, b"bytes", float("nan"), object()])
def test_what_has_no_stable_form_is_refused(bad):
    with pytest.raises(TypeError, match="no stable form"):
        canonical({"value": bad})


@pytest.mark.parametrize("bad", [{"x": float("nan")}, {"x": 1, "z": 2}, {"x": float("inf")}])
def test_values_refuse_what_they_do_not_know(bad):
    with pytest.raises(ValidationError):
        Point(**bad)


def test_values_are_frozen():
    with pytest.raises(ValidationError):
        Point(x=1).x = 2
