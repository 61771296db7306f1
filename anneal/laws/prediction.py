"""What a law says about a point, with how far that is from any run.

An interval knows the noise of the runs; it does not know that the law holds where nothing was run
(`uncertainty`: fitted with a wrong shape, a 90% interval held the truth 16 times beyond the data in
49% of worlds). So a number never travels without its extrapolation factor: how many times the
tokens exceed the largest run of that source, or fall short of its smallest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from anneal.laws.fits import Fit, predict
from anneal.laws.forms import Where
from anneal.laws.points import Floats, Ints
from anneal.laws.support import Support
from anneal.laws.uncertainty import band, outcomes

FAR = 4.0
"""Extrapolation beyond which the words warn (assumed)."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """Scores at n points: of the curve, and of one new run there.

    Args:
        labels: (n,) groups.
        tokens, unique: (n,) tokens trained, and unique ones among them.
        value: (n,) median of the draws, score.
        low, high: (n,) interval of the curve: what the law may be there, score.
        run_low, run_high: (n,) interval of a new run: the same with the run's own noise, score.
        extrapolation: (n,) tokens over the group's largest run, its smallest run over tokens below
            that, 1 within.
        level: of both intervals.
        words: (n,) the extrapolation in words; empty within the runs.
    """

    labels: tuple[str, ...]
    tokens: Floats
    unique: Floats
    value: Floats
    low: Floats
    high: Floats
    run_low: Floats
    run_high: Floats
    extrapolation: Floats
    level: float
    words: tuple[str, ...]


class Drawn(Protocol):
    """A law with draws: an ensemble or a blend."""

    @property
    def fit(self) -> Fit: ...

    @property
    def noise(self) -> Floats: ...

    def curve(self, at: Where) -> Floats: ...


def forecast(
    law: Drawn,
    group: ArrayLike,
    tokens: ArrayLike,
    unique: ArrayLike | None = None,
    *,
    rng: np.random.Generator,
    level: float = 0.9,
) -> Prediction:
    """Predict scores with intervals of the curve and of a new run, and their extrapolation.

    Args:
        law: an `Ensemble` or a `Blend`.
        group: code or (n,) codes of groups.
        tokens: (n,) source tokens, above 0.
        unique: (n,) unique tokens; where None every token is new.
        rng: draws the new runs' noise.
    """
    x = np.atleast_1d(np.asarray(tokens, dtype=np.float64))
    pool = x if unique is None else np.atleast_1d(np.asarray(unique, dtype=np.float64))
    code = np.atleast_1d(np.asarray(group, dtype=np.int64))
    code, x, pool = (np.array(a) for a in np.broadcast_arrays(code, x, pool))
    curve = predict(law, code, x, pool)
    low, high = band(curve, level=level)
    run_low, run_high = band(outcomes(law, code, x, pool, rng=rng), level=level)
    factor, words = _extrapolation(law.fit, code, x, pool)
    return Prediction(
        labels=tuple(law.fit.frame.labels[c] for c in code),
        tokens=x,
        unique=pool,
        value=np.asarray(np.median(curve, axis=0)),
        low=low,
        high=high,
        run_low=run_low,
        run_high=run_high,
        extrapolation=factor,
        level=level,
        words=words,
    )


def _extrapolation(
    fit: Fit, group: Ints, tokens: Floats, unique: Floats
) -> tuple[Floats, tuple[str, ...]]:
    frame = fit.frame
    everywhere = Support("any run", (frame.low, frame.high), (1.0, 1.0), 0, 0)
    reached = [fit.support[c] if fit.support else everywhere for c in group]
    low = np.array([s.tokens[0] for s in reached])
    high = np.array([s.tokens[1] for s in reached])
    factor = np.maximum(np.maximum(tokens / high, low / tokens), 1.0)
    factor = np.where(factor < 1.0 + 1e-9, 1.0, factor)
    words = []
    for label, s, x, u, f in zip(
        (frame.labels[c] for c in group), reached, tokens, unique, factor, strict=True
    ):
        parts = []
        if f > 1.0:
            side = "beyond the largest" if x > s.tokens[1] else "below the smallest"
            warning = ": far from any run" if f > FAR else ""
            parts.append(f"{f:.3g}x {side} run{warning}")
        most = max(s.epochs[1], 1.0)
        if x / u > most * (1.0 + 1e-9):
            parts.append(f"{x / u:.3g} epochs, runs reached {most:.3g}")
        words.append(f"`{label}`: {'; '.join(parts)}" if parts else "")
    return factor, tuple(words)
