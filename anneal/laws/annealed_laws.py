"""Repeated data under a schedule: what is learnt, what annealing adds, what repeating costs.

A run over a small pool shows three things at once: it learns, its learning rate falls, and it sees
the same text again. A law without the schedule reads the fall of the rate as learning that goes on,
a law without the pool reads over-fitting as a floor. Both laws here take the schedule as `tissue`
does (2408.11029), over sizes; they differ in what a further epoch does:

    annealed_effective  L = E + A N^-alpha + B (s1 D'/D)^-beta - C s2
                        D' = effective tokens of D over a pool of U (2305.16264, equation 5)
    annealed_overfit    L = E + A N^-alpha + B s1^-beta - C s2 + P (N/U)^delta (D/U - 1)^kappa

In the first an epoch can at worst be worth nothing. In the second it does harm, the more of it the
more parameters there are for a token of the pool: the additive penalty of 2605.01640 (only its
abstract could be read) with exponents of ours. Seen on 2305.16264's own curves: at 44 epochs their
validation loss ends a third above that of the same run on new text.

Identifiable: three sizes, and rates that fall over the points that are fitted; `annealed_overfit`
needs pools of several sizes relative to the model, one of them seen more than twice.
"""

from __future__ import annotations

import numpy as np

from anneal.laws.points import Floats
from anneal.laws.repeat_laws import effective, epochs_worth, unrepeated
from anneal.laws.schedule_laws import RATE
from anneal.laws.size_laws import (
    SIZE,
    TOKENS,
    UNIQUE,
    coefficient,
    exponent,
    floor,
    placed,
    stack,
    term,
)
from anneal.laws.surfaces import Columns, Input, Parameter, Surface, Widths

S1, S2 = Input("s1", RATE), Input("s2", RATE, positive=False)


def _common() -> tuple[Parameter, ...]:
    return (
        floor("E"),
        coefficient("A", "score x parameters^alpha"),
        coefficient("B", f"score x ({RATE})^beta"),
        exponent("alpha"),
        exponent("beta"),
        Parameter("C", f"score / {RATE}", "log", 1e-9, 1e9, (0.05, 1.0)),
    )


def _effective_parameters(_: Widths) -> tuple[Parameter, ...]:
    return (*_common(), epochs_worth("R_D", 15.387756))


def _effective(value: Floats, columns: Columns) -> tuple[Floats, Floats]:
    e, a, b, alpha, beta, c, worth = value.T
    data, by_worth, _ = effective(columns["d_tokens"], columns["u_tokens"], worth)
    learnt = columns["s1"] * data / columns["d_tokens"]
    by_n, n_a, n_alpha = term(a, alpha, columns["n_params"])
    by_d, d_b, d_beta = term(b, beta, learnt)
    area = np.broadcast_to(columns["s2"], by_n.shape)
    score = e[:, None] + by_n + by_d - c[:, None] * area
    d_worth = -beta[:, None] * by_d / data * by_worth
    return score, stack(np.ones_like(by_n), n_a, d_b, n_alpha, d_beta, -area, d_worth)


def _overfit_parameters(_: Widths) -> tuple[Parameter, ...]:
    return (
        *_common(),
        Parameter("P", "score", "log", 1e-9, 1e3, (1e-3, 0.1)),
        Parameter("delta", "1", "log", 0.05, 3.0, (0.3, 1.5), (0.8, 0.7)),
        Parameter("kappa", "1", "log", 0.2, 3.0, (0.5, 1.5), (1.0, 0.5)),
    )


def _overfit(value: Floats, columns: Columns) -> tuple[Floats, Floats]:
    e, a, b, alpha, beta, c, penalty, delta, kappa = value.T
    by_n, n_a, n_alpha = term(a, alpha, columns["n_params"])
    by_d, d_b, d_beta = term(b, beta, columns["s1"])
    area = np.broadcast_to(columns["s2"], by_n.shape)
    excess = columns["d_tokens"] / columns["u_tokens"] - 1.0
    log_excess = np.log(np.maximum(excess, 1e-300))
    log_crowd = np.log(columns["n_params"] / columns["u_tokens"])
    unit = np.exp(delta[:, None] * log_crowd + kappa[:, None] * log_excess)
    unit = np.where(excess > 0, unit, 0.0)
    harm = penalty[:, None] * unit
    score = e[:, None] + by_n + by_d - c[:, None] * area + harm
    by_kappa = np.where(excess > 0, harm * log_excess, 0.0)
    ones = np.ones_like(by_n)
    return score, stack(ones, n_a, d_b, n_alpha, d_beta, -area, unit, harm * log_crowd, by_kappa)


def _place(values: Floats, columns: Columns, score: Floats) -> Floats:
    """C was drawn as a share of the range of scores over the largest annealing area."""
    out = placed(values, score, [(1, 3, columns["n_params"]), (2, 4, columns["s1"])])
    out[:, 5] *= np.ptp(score) / max(float(np.abs(columns["s2"]).max()), 1e-300)
    return out


def _refuse(columns: Columns) -> str:
    if np.unique(columns["n_params"]).size < 3:
        return "fewer than three sizes: A and alpha cannot be seen beside E"
    if np.abs(columns["s2"]).max() <= 0:
        return "the learning rate never falls: C cannot be seen"
    return unrepeated(columns)


_INPUTS = (SIZE, TOKENS, UNIQUE, S1, S2)

ANNEALED_SURFACES: dict[str, Surface] = {
    s.name: s
    for s in (
        Surface(
            name="annealed_effective",
            formula="L = E + A n_params^-alpha + B (s1 D'/D)^-beta - C s2, D' as effective_data",
            source="2408.11029, equation 1, with 2305.16264, equation 5; the combination is ours",
            identifiable="three sizes, falling rates, pools that are repeated",
            inputs=_INPUTS,
            parameters=_effective_parameters,
            law=_effective,
            place=_place,
            refuse=_refuse,
        ),
        Surface(
            name="annealed_overfit",
            formula=(
                "L = E + A n_params^-alpha + B s1^-beta - C s2 "
                "+ P (n_params/u_tokens)^delta (d_tokens/u_tokens - 1)^kappa"
            ),
            source="2408.11029, equation 1, with an additive penalty as in 2605.01640; ours",
            identifiable="as annealed_effective, pools of several sizes, one seen more than twice",
            inputs=_INPUTS,
            parameters=_overfit_parameters,
            law=_overfit,
            place=_place,
            refuse=_refuse,
        ),
    )
}
"""Laws of repeated data under a schedule by name."""
