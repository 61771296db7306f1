import numpy as np
import pytest

from anneal.errors import LawError
from anneal.laws import Points

GOOD = {
    "labels": ("a", "b"),
    "group": [0, 0, 1],
    "tokens": [1e5, 2e5, 1e5],
    "unique": [1e5, 1e5, 1e6],
    "score": [3.0, 2.8, 2.9],
    "seed": [0, 0, 0],
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"score": [3.0, np.nan, 2.9]}, r"row 1 \(a\): score must be a positive number, got nan"),
        ({"score": [3.0, 2.0, np.inf]}, r"row 2 \(b\): score"),
        ({"tokens": [0.0, 2e5, 1e5]}, r"row 0 \(a\): tokens"),
        ({"unique": [1e5, -1.0, 1e6]}, r"row 1 \(a\): unique"),
        ({"group": [0, 0, 2]}, "2 labels"),
        ({"group": [0, 0, -1]}, "2 labels"),
        ({"seed": [0, 0]}, "equally long"),
        ({"anchor": float("nan")}, "base"),
        ({k: [] for k in ("group", "tokens", "unique", "score", "seed")}, "no rows"),
    ],
)
def test_a_table_that_cannot_be_fitted_is_refused_where_it_is_made(change, words):
    with pytest.raises(LawError, match=words):
        Points(**{**GOOD, **change})


def test_the_table_keeps_its_own_copy_and_cannot_be_written_to():
    scores = np.array([3.0, 2.8, 2.9])
    points = Points(**{**GOOD, "score": scores})
    scores[0] = 99.0
    assert points.score[0] == 3.0
    with pytest.raises(ValueError, match="read-only"):
        points.score[0] = 1.0


def test_cells_are_rows_equal_in_all_but_seed():
    points = Points(("a",), [0, 0, 0, 0], [1, 1, 1, 2], [5, 5, 6, 5], [3, 2, 2, 1], [0, 1, 0, 0])
    cells = points.cells()
    assert cells[0] == cells[1]
    assert len(set(cells[1:])) == 3
