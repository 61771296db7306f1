"""The measurements a law is fitted to: one row a run, groups as integer codes.

A law sees no sources, files or runs, only arrays. `group` says which curve a row belongs to;
`tokens` is how much of its source the run trained on, repeats included; `unique` is how many
different tokens the run could draw from (its pool), so `tokens / unique` is its epochs. The score
is smaller-is-better and positive, bits per byte as a rule. `anchor` is the score of the un-annealed
base: the point at zero tokens that every curve of a sweep shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anneal.errors import LawError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Points:
    """A table of n results in m groups, checked once here and trusted afterwards.

    Args:
        labels: names of the m groups.
        group: (n,) codes into `labels`.
        tokens: (n,) source tokens trained, above 0 (the base itself is `anchor`, not a row).
        unique: (n,) unique tokens in the run's pool, above 0.
        score: (n,) measured score, above 0.
        seed: (n,) the runs' seeds: rows equal in all but seed measure the noise.
        anchor: score of the un-annealed base, or None where it was not measured.

    Raises:
        LawError: unequal lengths, no rows, NaN or infinity, a value that is not positive, a code
            without a label.
    """

    labels: tuple[str, ...]
    group: Ints
    tokens: Floats
    unique: Floats
    score: Floats
    seed: Ints
    anchor: float | None = None

    def __post_init__(self) -> None:
        floats: dict[str, ArrayLike] = {
            "tokens": self.tokens,
            "unique": self.unique,
            "score": self.score,
        }
        for name, given in floats.items():
            array = np.array(given, dtype=np.float64)
            object.__setattr__(self, name, _locked(array))
        for name in ("group", "seed"):
            object.__setattr__(self, name, _locked(np.array(getattr(self, name), dtype=np.int64)))
        sizes = {n: getattr(self, n).shape for n in ("group", "tokens", "unique", "score", "seed")}
        if len(set(sizes.values())) != 1 or len(self.group.shape) != 1:
            raise LawError(f"results: columns must be equally long, got {sizes}")
        if self.group.size == 0:
            raise LawError("results: no rows", hint="no run has finished: see `status`")
        for name in floats:
            _positive(name, getattr(self, name), self.labels, self.group)
        if self.group.min() < 0 or self.group.max() >= len(self.labels):
            raise LawError(
                f"results: group codes {self.group.min()}..{self.group.max()}, "
                f"but {len(self.labels)} labels"
            )
        if self.anchor is not None and not (np.isfinite(self.anchor) and self.anchor > 0):
            raise LawError(f"results: score of the base must be a positive number: {self.anchor}")

    @property
    def largest(self) -> float:
        """The largest number of source tokens any run trained on."""
        return float(self.tokens.max())

    def rows(self, keep: NDArray[np.bool_]) -> Points:
        """The rows where `keep` is true, with the same labels and anchor."""
        return Points(
            labels=self.labels,
            group=self.group[keep],
            tokens=self.tokens[keep],
            unique=self.unique[keep],
            score=self.score[keep],
            seed=self.seed[keep],
            anchor=self.anchor,
        )

    def cells(self) -> Ints:
        """(n,) code of each row's cell: rows with equal group, tokens and unique are one cell."""
        keys = np.column_stack([self.group.astype(np.float64), self.tokens, self.unique])
        _, codes = np.unique(keys, axis=0, return_inverse=True)
        return np.asarray(codes, dtype=np.int64).reshape(-1)


def _locked(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array


def _positive(name: str, values: Floats, labels: tuple[str, ...], group: Ints) -> None:
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if bad.size:
        row = int(bad[0])
        code = int(group[row])
        label = labels[code] if 0 <= code < len(labels) else f"group {code}"
        raise LawError(
            f"results, row {row} ({label}): {name} must be a positive number, got {values[row]}",
            hint="leave failed runs out of the table",
        )
