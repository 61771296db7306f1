"""Falling curves as rates: how fast the score falls as a function of where it is.

Every falling form can be written L = E + S exp(-v), with a depth v that grows with effective
tokens by dv/dD = kappa exp(-v / a): a statement about the model's state, not about its history.
That is what a mixture needs, because several sources move its score at once
(`allocation.mixture`).

    shifted_power   S = L0 - E, v = 0 at D = 0,   kappa = a / tau
    power           S = 1 (score), v = -inf at 0, kappa = a A^(-1/a)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anneal.errors import LawError
from anneal.laws.fits import Fit
from anneal.laws.forms import layout
from anneal.laws.points import Floats
from anneal.laws.uncertainty import Ensemble


@dataclass(frozen=True, eq=False)
class Rates:
    """Rate form of B laws of m groups.

    Args:
        floor: (B,) E, score.
        span: (B,) S, score.
        exponent: (B, m) a.
        log_kappa: (B, m) log of kappa, 1/tokens.
        from_base: v = 0 at D = 0; otherwise v has no lower end.
        r_star: (B,) epochs at a pool of `pool` tokens; None where repeated tokens count in full.
        tilt: (B,) R* = r_star (U / pool)^-tilt.
        penalty: (B,) score per excess epoch; None where the form has none.
    """

    floor: Floats
    span: Floats
    exponent: Floats
    log_kappa: Floats
    from_base: bool
    r_star: Floats | None
    tilt: Floats
    pool: float
    penalty: Floats | None

    def worth(self, unique: Floats) -> Floats | None:
        """(B, m) R* in epochs for pools of `unique` (m,) tokens; None as `r_star`."""
        if self.r_star is None:
            return None
        larger = np.log(unique / self.pool)[None, :]
        return np.asarray(self.r_star[:, None] * np.exp(-self.tilt[:, None] * larger))


def rates(law: Fit | Ensemble) -> Rates:
    """The rate form of a fit or an ensemble.

    Raises:
        LawError: a form that may rise.
    """
    form, frame, theta = law.form, law.frame, law.thetas
    if not form.falls:
        raise LawError(f"law `{form.name}` may rise: it has no rate form")
    where = layout(form, frame.labels)
    floor = frame.ceiling / (1.0 + np.exp(-theta[:, where.floor]))
    log_exponent = theta[:, where.exponent]
    exponent = np.exp(log_exponent)
    scale = theta[:, where.scale]
    if frame.anchor is not None and form.curve == "shifted_power":
        span, log_kappa = frame.anchor - floor, log_exponent - scale
    else:
        span = np.ones_like(floor)
        log_kappa = log_exponent - (np.log(frame.score) + scale) / exponent - np.log(frame.tokens)
    repeats = theta[:, where.repeats]
    return Rates(
        floor=floor,
        span=span,
        exponent=exponent,
        log_kappa=log_kappa,
        from_base=form.curve == "shifted_power",
        r_star=np.exp(repeats) if form.repeats in ("repeated", "scaled") else None,
        tilt=theta[:, where.tilt] if form.repeats == "scaled" else np.zeros_like(floor),
        pool=frame.pool,
        penalty=frame.score * repeats if form.repeats == "overfit" else None,
    )
