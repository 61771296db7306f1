"""Choosing among mixture laws by what they say of mixtures unlike those they saw.

A mixture law is wanted where no run has been: at the best mixture. Rows left out at random lie
among their neighbours and flatter whatever follows the data closely, so rows are held out by place:

    cluster   every cluster of alike mixtures in turn (k-means on the roots of the shares, whose
              distance is Hellinger's): a part of the simplex that nothing near was trained on
    far       the mixtures farthest from the middle of all: beyond the edge
    best      the mixtures with the best scores, unseen: what a decision asks

The rule, stated before any table is seen: the deficit of a fold is 1 minus Spearman's rank
correlation on it; the three kinds weigh alike; the approach with the smallest mean deficit is
chosen, among those with at most `limit` parameters. A law that does not beat both baselines (the
mean, and a linear regression on the shares) is not offered. The held-out errors stand beside it.

Holding out by score truncates the noise with it, which lowers every approach's `best` row alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from anneal.errors import LawError
from anneal.laws.mixture_laws import DELTA, mixture_laws, shares_of
from anneal.laws.points import Floats
from anneal.laws.surface_fits import SurfaceFit, fit_surface
from anneal.laws.surfaces import Surface

KINDS = ("cluster", "far", "best")
CLUSTERS = 6
FAR, BEST = 0.25, 0.2
"""Shares of the rows that `far` and `best` hold out."""
FEWEST = 24
"""Rows below which the folds are too small to rank (assumed)."""
SPREADS = (0.5, 1.5, 5.0)
"""Widths of the priors that compete, in logarithms: tight to wide."""
BASELINES = ("mean", "linear")


@dataclass(frozen=True)
class MixtureFold:
    """Rows to fit and rows to predict; `kind` is one of `KINDS`."""

    kind: str
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]


@dataclass(frozen=True)
class MixtureRow:
    """How one approach did on the held-out mixtures.

    Args:
        approach: a baseline, or form and spread of its prior: `pool (1.5)`.
        form, spread: empty and 0 for a baseline.
        parameters: fitted numbers, all of them counted.
        rank: kind -> Spearman's correlation, mean of its folds; 0 where all guesses are equal.
        error: kind -> root mean square error of its rows, score.
        deficit: mean over the kinds of 1 - rank; infinite where a fold could not be fitted.
        message: why, then.
    """

    approach: str
    form: str
    spread: float
    parameters: int
    rank: dict[str, float]
    error: dict[str, float]
    deficit: float
    message: str = ""


@dataclass(frozen=True, eq=False)
class MixtureChoice:
    """What was chosen, with every approach's row, the smallest deficit first.

    Args:
        rows: all approaches.
        pick: the chosen row, or None where no law beats the baselines.
        fit: the chosen law on all rows, or None.
        message: the choice in words.
    """

    rows: tuple[MixtureRow, ...]
    pick: MixtureRow | None
    fit: SurfaceFit | None
    message: str


def mixture_folds(shares: Floats, score: Floats, *, rng: np.random.Generator) -> list[MixtureFold]:
    """The held-out parts of a table; see the module's text.

    Args:
        shares: (n, m) that sum to 1.
        score: (n,), smaller is better.
        rng: draws the centres that k-means begins with.

    Raises:
        LawError: fewer than `FEWEST` rows.
    """
    if score.size < FEWEST:
        raise LawError(
            f"mixtures: {score.size} runs, choosing a law by held-out mixtures needs {FEWEST}",
            hint="name the law, or run more mixtures",
        )
    root = np.sqrt(shares)
    code = _clusters(root, rng)
    folds = [MixtureFold("cluster", code != k, code == k) for k in np.unique(code)]
    away = ((root - root.mean(axis=0)) ** 2).sum(axis=1)
    far = away > np.quantile(away, 1.0 - FAR)
    best = score <= np.quantile(score, BEST)
    folds += [MixtureFold("far", ~far, far), MixtureFold("best", ~best, best)]
    return [f for f in folds if f.test.sum() >= 3 and f.train.any()]


def choose_mixture_law(
    forms: tuple[str, ...],
    shares: Floats,
    score: Floats,
    *,
    rng: np.random.Generator,
    limit: int = 40,
    spreads: tuple[float, ...] = SPREADS,
    starts: int = 2,
) -> MixtureChoice:
    """Choose a law of the shares, and how tightly its parameters are held.

    Args:
        forms: rows of `mixture_laws.MIXTURE_LAWS` that compete.
        shares: (n, m) shares of the runs; rounded ones are brought to sum 1.
        score: (n,) scores at one model size and run length, smaller is better.
        rng: draws clusters and starts.
        limit: most parameters a law may have.
        spreads: prior spreads that compete.
        starts: of each held-out fit; the chosen law is fitted from four times as many.

    Raises:
        LawError: unknown form, bad shares or scores, too few rows.
    """
    mixed = shares_of(shares)
    measured = np.asarray(score, dtype=np.float64)
    tables = {spread: mixture_laws(spread=spread) for spread in spreads}
    unknown = [form for form in forms if form not in tables[spreads[0]]]
    if unknown:
        raise LawError(
            f"mixture law `{unknown[0]}`: unknown",
            hint=f"one of {', '.join(tables[spreads[0]])}",
        )
    folds = mixture_folds(mixed, measured, rng=rng)
    rows = [_baseline(name, mixed, measured, folds) for name in BASELINES]
    for form in forms:
        for spread in spreads:
            surface = tables[spread][form]
            size = len(surface.parameters({"shares": mixed.shape[1]}))
            if size <= limit:
                rows.append(_law_row(surface, spread, size, mixed, measured, folds, rng, starts))
    rows.sort(key=lambda row: row.deficit)
    first = rows[0]
    if first.approach in BASELINES:
        text = f"no law ranks held-out mixtures better than the baseline `{first.approach}`"
        return MixtureChoice(tuple(rows), None, None, text)
    law = fit_surface(
        tables[first.spread][first.form],
        {"shares": mixed},
        measured,
        rng=rng,
        starts=4 * starts,
        delta=DELTA,
    )
    base = next(row for row in rows if row.approach in BASELINES)
    text = (
        f"{first.approach}: held-out rank correlation {1.0 - first.deficit:.3f} with "
        f"{first.parameters} parameters; best baseline `{base.approach}` {1.0 - base.deficit:.3f}"
    )
    return MixtureChoice(tuple(rows), first, law, text)


def _clusters(points: Floats, rng: np.random.Generator) -> NDArray[np.int64]:
    """(n,) codes by Lloyd's k-means from rows drawn as k-means++ does."""
    count = min(CLUSTERS, max(2, points.shape[0] // 8))
    centres = points[[int(rng.integers(points.shape[0]))]]
    for _ in range(count - 1):
        away = ((points[:, None] - centres) ** 2).sum(axis=2).min(axis=1)
        total = float(away.sum())
        if total <= 0:
            break
        centres = np.vstack([centres, points[rng.choice(points.shape[0], p=away / total)]])
    code = np.zeros(points.shape[0], dtype=np.int64)
    for _ in range(50):
        code = ((points[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        moved = np.vstack(
            [
                points[code == k].mean(axis=0) if (code == k).any() else centre
                for k, centre in enumerate(centres)
            ]
        )
        if np.allclose(moved, centres):
            break
        centres = moved
    return code


def _baseline(name: str, shares: Floats, score: Floats, folds: list[MixtureFold]) -> MixtureRow:
    guesses = []
    for fold in folds:
        if name == "mean":
            guesses.append(np.full(int(fold.test.sum()), score[fold.train].mean()))
        else:  # no intercept: shares sum to 1
            slope = np.linalg.lstsq(shares[fold.train], score[fold.train], rcond=None)[0]
            guesses.append(shares[fold.test] @ slope)
    size = 1 if name == "mean" else shares.shape[1]
    return _row(name, "", 0.0, size, folds, guesses, score)


def _law_row(
    surface: Surface,
    spread: float,
    size: int,
    shares: Floats,
    score: Floats,
    folds: list[MixtureFold],
    rng: np.random.Generator,
    starts: int,
) -> MixtureRow:
    approach = f"{surface.name} ({spread:g})"
    guesses = []
    for fold in folds:
        law = fit_surface(
            surface,
            {"shares": shares[fold.train]},
            score[fold.train],
            rng=rng,
            starts=starts,
            delta=DELTA,
        )
        if not law.usable:
            text = f"fold `{fold.kind}`: {law.outcome}: {law.message}"
            return MixtureRow(approach, surface.name, spread, size, {}, {}, np.inf, text)
        guesses.append(law.curve({"shares": shares[fold.test]}))
    return _row(approach, surface.name, spread, size, folds, guesses, score)


def _row(
    approach: str,
    form: str,
    spread: float,
    size: int,
    folds: list[MixtureFold],
    guesses: list[Floats],
    score: Floats,
) -> MixtureRow:
    rank: dict[str, list[float]] = {}
    square: dict[str, list[Floats]] = {}
    for fold, guess in zip(folds, guesses, strict=True):
        rank.setdefault(fold.kind, []).append(rank_correlation(guess, score[fold.test]))
        square.setdefault(fold.kind, []).append((guess - score[fold.test]) ** 2)
    ranks = {kind: float(np.mean(r)) for kind, r in rank.items()}
    errors = {kind: float(np.sqrt(np.concatenate(s).mean())) for kind, s in square.items()}
    deficit = float(np.mean([1.0 - r for r in ranks.values()]))
    return MixtureRow(approach, form, spread, size, ranks, errors, deficit)


def rank_correlation(guess: Floats, truth: Floats) -> float:
    """Spearman's correlation; 0 where either side cannot tell the rows apart."""
    if np.ptp(guess) <= 1e-12 * float(np.abs(guess).max()) or np.ptp(truth) <= 0:
        return 0.0
    return float(stats.spearmanr(guess, truth).statistic)
