"""Ensembles planted without fitting: known laws with a known spread over the draws."""

from __future__ import annotations

import numpy as np

from anneal.laws import FORMS, Ensemble, Fit
from anneal.laws.forms import Frame, layout

LABELS = tuple("abcdefgh")
PLENTY = 10**12


def falling(
    exponent,
    scale,
    *,
    floor=1.4,
    base=3.4,
    r_star=None,
    penalty=None,
    spread=0.0,
    draws=1,
    seed=0,
    labels=None,
    high=8e5,
) -> Ensemble:
    """shifted_power: `spread` is the SD of every log exponent and log scale over the draws."""
    exponent, scale = np.asarray(exponent, float), np.asarray(scale, float)
    labels = LABELS[: exponent.size] if labels is None else labels
    ending = "_repeated" if r_star else "_overfit" if penalty else ""
    form = FORMS["shifted_power" + ending]
    frame = Frame(labels, base, 1e5, floor, 0.98 * base, 5e4, high, 1e5)
    where = layout(form, labels)
    theta = np.zeros((draws, where.size))
    share = floor / frame.ceiling
    theta[:, where.floor] = np.log(share / (1 - share))
    theta[:, where.exponent] = np.log(exponent)
    theta[:, where.scale] = np.log(scale)
    rng = np.random.default_rng(seed)
    own = np.concatenate([where.exponent, where.scale])
    theta[:, own] += spread * rng.standard_normal((draws, own.size))
    if where.repeats >= 0:
        theta[:, where.repeats] = np.log(r_star) if r_star else penalty / floor
    fit = Fit(form, frame, theta.mean(axis=0), {}, "ok", converged=True)
    return Ensemble(fit, theta, np.full(draws, 0.005), 0, 0)


def guard_law(level, slope, *, labels=None, spread=0.0, draws=1, seed=1) -> Ensemble:
    """log_linear with x0 = 1e5: level + slope per doubling; `spread` is the SD of the slope."""
    level, slope = np.asarray(level, float), np.asarray(slope, float)
    labels = LABELS[: level.size] if labels is None else labels
    form = FORMS["log_linear"]
    frame = Frame(labels, None, 1e5, 1.0, 1.0, 1e5, 8e5, 1e5)
    where = layout(form, labels)
    theta = np.zeros((draws, where.size))
    theta[:, where.scale] = level
    theta[:, where.exponent] = slope
    rng = np.random.default_rng(seed)
    theta[:, where.exponent] += spread * rng.standard_normal((draws, level.size))
    fit = Fit(form, frame, theta.mean(axis=0), {}, "ok", converged=True)
    return Ensemble(fit, theta, np.full(draws, 0.005), 0, 0)
