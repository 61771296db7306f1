"""Surfaces: laws over any columns, such as model size, compute, mixture shares or learning rates.

`forms` holds the laws of a sweep, where the only column is a source's tokens. Published laws have
more columns and fewer assumptions in common, so here a law is a row of data: a function of named
columns, with the names, units, bounds and starting ranges of its parameters. Everything else is
shared: `surface_fits` searches from many starts and names its outcome, `surface_draws` resamples
whole runs and predicts with intervals.

Parameters have values (what a paper prints) and free numbers (what the engine moves):

    log       value = exp(free)                       positive numbers of unknown size
    logit     value = low + (high - low) / (1 + exp(-free))    numbers inside an interval
    identity  value = free                            numbers of either sign

A law is written over values; `Surface.evaluate` turns free numbers into values and the law's exact
derivatives into derivatives by free numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from anneal.errors import LawError
from anneal.laws.points import Floats

Columns = Mapping[str, Floats]
"""Name -> (n,) or (n, m) numbers; what every row of a table says besides its score."""
Widths = Mapping[str, int]
"""Name -> 0 for an (n,) column, m for an (n, m) column."""

LOGIT_END = 12.0
"""Free numbers of a logit stop here: 6e-6 of the interval from its end."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a surface.

    Args:
        name, unit: as reports print them.
        transform: how its free number is made.
        low, high: bounds of the value; for `logit` the ends of its interval.
        start: range of values from which starts are drawn, evenly in the free number.
        prior: centre (a value) and SD (of the free number) of a normal prior; None for none.
    """

    name: str
    unit: str
    transform: Literal["log", "identity", "logit"]
    low: float
    high: float
    start: tuple[float, float]
    prior: tuple[float, float] | None = None

    def free(self, value: ArrayLike) -> Floats:
        """Free numbers of values within the bounds; same shape."""
        x = np.asarray(value, dtype=np.float64)
        if self.transform == "log":
            return np.asarray(np.log(np.clip(x, self.low, self.high)))
        if self.transform == "logit":
            share = np.clip((x - self.low) / (self.high - self.low), 6.2e-6, 1.0 - 6.2e-6)
            return np.asarray(np.log(share / (1.0 - share)))
        return x

    @property
    def ends(self) -> tuple[float, float]:
        """Bounds of the free number."""
        if self.transform == "logit":
            return -LOGIT_END, LOGIT_END
        if self.transform == "log":
            return float(np.log(self.low)), float(np.log(self.high))
        return self.low, self.high


@dataclass(frozen=True)
class Input:
    """A column that a surface reads.

    Args:
        name, unit: as in the table.
        wide: an (n, m) column, such as the shares of a mixture.
        positive: whether its numbers must be above zero.
        tracked: whether going beyond its range counts as extrapolation.
    """

    name: str
    unit: str
    wide: bool = False
    positive: bool = True
    tracked: bool = True


Law = Callable[[Floats, Columns], tuple[Floats, Floats]]
"""Values (B, p), columns -> scores (B, n), derivatives by values (B, n, p)."""


def _all_is_well(columns: Columns) -> str:
    return ""


@dataclass(frozen=True)
class Surface:
    """A law over columns: a row of `catalogue.SURFACES`.

    Args:
        name, formula: as reports print them.
        source: paper and equation.
        identifiable: when a table determines its parameters, in words.
        inputs: the columns it reads.
        parameters: widths of the columns -> its parameters, in the order of `law`.
        law: scores and exact derivatives by the parameters' values.
        place: turns drawn starting values (count, p) into ones that suit columns and score.
        refuse: columns -> why they cannot carry this law; empty where they can.
    """

    name: str
    formula: str
    source: str
    identifiable: str
    inputs: tuple[Input, ...]
    parameters: Callable[[Widths], tuple[Parameter, ...]]
    law: Law
    place: Callable[[Floats, Columns, Floats], Floats] | None = None
    refuse: Callable[[Columns], str] = _all_is_well

    def names(self, columns: Columns) -> tuple[str, ...]:
        """Names of the parameters for columns of these widths."""
        return tuple(p.name for p in self.parameters(widths(columns)))

    def values(self, theta: Floats, columns: Columns) -> Floats:
        """(B, p) values of free numbers (B, p)."""
        return _values(self.parameters(widths(columns)), theta)[0]

    def free(self, values: ArrayLike, columns: Columns) -> Floats:
        """(B, p) free numbers of values (B, p) or (p,)."""
        value = np.atleast_2d(np.asarray(values, dtype=np.float64))
        parameters = self.parameters(widths(columns))
        return np.column_stack([p.free(value[:, i]) for i, p in enumerate(parameters)])

    def evaluate(self, theta: Floats, columns: Columns) -> tuple[Floats, Floats]:
        """Scores (B, n) and exact derivatives by free numbers (B, n, p) for theta (B, p)."""
        value, by_free = _values(self.parameters(widths(columns)), theta)
        score, slope = self.law(value, columns)
        return score, slope * by_free[:, None, :]


def widths(columns: Columns) -> dict[str, int]:
    """Name -> 0 for (n,) columns, m for (n, m) columns."""
    return {name: (0 if x.ndim == 1 else x.shape[1]) for name, x in columns.items()}


def _values(parameters: tuple[Parameter, ...], theta: Floats) -> tuple[Floats, Floats]:
    """Values (B, p) and their derivatives by the free numbers (B, p)."""
    kind = np.array([p.transform for p in parameters])
    value, by_free = theta.copy(), np.ones_like(theta)
    logs, logits = kind == "log", kind == "logit"
    if logs.any():
        value[:, logs] = by_free[:, logs] = np.exp(theta[:, logs])
    if logits.any():
        low = np.array([p.low for p in parameters])[logits]
        span = np.array([p.high for p in parameters])[logits] - low
        share = 1.0 / (1.0 + np.exp(-theta[:, logits]))
        value[:, logits] = low + span * share
        by_free[:, logits] = span * share * (1.0 - share)
    return value, by_free


def checked(surface: Surface, columns: Mapping[str, ArrayLike]) -> dict[str, Floats]:
    """The inputs of a surface as arrays of equal length.

    Raises:
        LawError: a column that is missing, of the wrong shape, not finite or not positive.
    """
    table: dict[str, Floats] = {}
    for column in surface.inputs:
        where = f"law `{surface.name}`, column `{column.name}`"
        if column.name not in columns:
            raise LawError(
                f"{where}: missing, the table has {', '.join(columns) or 'none'}",
                hint=f"give it in {column.unit}",
            )
        x = np.asarray(columns[column.name], dtype=np.float64)
        if x.ndim != (2 if column.wide else 1):
            raise LawError(f"{where}: {'(n, m)' if column.wide else '(n,)'} asked, got {x.shape}")
        bad = ~np.isfinite(x) | ((x <= 0) if column.positive else False)
        if bad.any():
            row = int(np.argwhere(bad)[0][0])
            need = "finite and positive" if column.positive else "finite"
            raise LawError(f"{where}, row {row}: must be {need}, got {x[row]}")
        table[column.name] = x
    lengths = {name: x.shape[0] for name, x in table.items()}
    if len(set(lengths.values())) > 1:
        raise LawError(f"law `{surface.name}`: columns must be equally long, got {lengths}")
    return table
