"""Laws of repetition: what a token is worth again, and a parameter that lacks data.

    effective_data  chinchilla with D -> D': each further epoch of a pool of U tokens is worth less
    datablations    and N -> N': parameters beyond what U tokens can use are worth less too
    qqt             L = E + A exp(-beta m): in epoch k + 1 the exponent is down to beta 2^(-k/tau)

D tokens seen, U unique tokens, D / U epochs, N parameters. Muennighoff et al. (2305.16264) publish
R_D = 15.39 and R_N = 5.31; on their table other values fit as well (runs/datablations/SOURCE.md),
so read predictions, not parameters. Goyal et al.'s code keeps the floor inside the product of
`qqt`, so that repeated epochs could push the loss below it; here it stands outside.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anneal.laws.points import Floats
from anneal.laws.size_laws import (
    SIZE,
    TOKENS,
    UNIQUE,
    chinchilla_parameters,
    chinchilla_place,
    coefficient,
    exponent,
    floor,
    one_line,
    placed,
    stack,
    term,
)
from anneal.laws.surfaces import Columns, Parameter, Surface, Widths

MOST_EPOCHS = 512
"""`qqt` adds one term an epoch; pools repeated more often are refused."""


SMALLEST_SHARE = 1e-6
"""Of a model's parameters that `datablations` lets a pool use."""


def effective(
    x: Floats, unique: Floats, worth: Floats
) -> tuple[Floats, Floats, NDArray[np.float64]]:
    """What x units are worth when only `unique` of them are new: 2305.16264, equation 5.

    x' = U + U R* (1 - exp(-(x / U - 1) / R*)) for x > U, x otherwise.

    Args:
        x: (n,) units used.
        unique: (n,) or (B, n) different units U.
        worth: (B,) R*: excess epochs after which a further one is worth 1/e of a new one.

    Returns:
        x' and its derivatives by R* and by U, each (B, n).
    """
    r = worth[:, None]
    excess = np.maximum(x / unique - 1.0, 0.0)
    fade = np.exp(-excess / r)
    again = excess > 0
    value = np.where(again, unique * (1.0 + r * (1.0 - fade)), x)
    by_worth = np.where(again, unique * (1.0 - fade - fade * excess / r), 0.0)
    by_unique = np.where(again, 1.0 + r * (1.0 - fade) - fade * x / unique, 0.0)
    return value, by_worth, by_unique


def epochs_worth(name: str, published: float) -> Parameter:
    """R*, drawn weakly to its published value: factor e either way, as `forms` has it."""
    return Parameter(name, "excess epochs", "log", 0.05, 1e3, (1.0, 60.0), prior=(published, 1.0))


def _effective_data(value: Floats, columns: Columns) -> tuple[Floats, Floats]:
    e, a, b, alpha, beta, worth = value.T
    data, by_worth, _ = effective(columns["d_tokens"], columns["u_tokens"], worth)
    by_n, n_a, n_alpha = term(a, alpha, columns["n_params"])
    by_d, d_b, d_beta = term(b, beta, data)
    d_worth = -beta[:, None] * by_d / data * by_worth
    ones = np.ones_like(by_n)
    return e[:, None] + by_n + by_d, stack(ones, n_a, d_b, n_alpha, d_beta, d_worth)


def _effective_parameters(widths: Widths) -> tuple[Parameter, ...]:
    return (*chinchilla_parameters(widths), epochs_worth("R_D", 15.387756))


def _datablations(value: Floats, columns: Columns) -> tuple[Floats, Floats]:
    """N_opt = G (U G)^(beta / alpha), G = (alpha A / (beta B))^(1 / (alpha + beta)): the size for
    which U tokens are compute-optimal; U_N = min(N, N_opt)."""
    e, a, b, alpha, beta = (column[:, None] for column in value[:, :5].T)
    n, pool = columns["n_params"], columns["u_tokens"]
    both, ratio = alpha + beta, beta / alpha
    log_g = (np.log(alpha * a) - np.log(beta * b)) / both
    log_best = log_g * (1.0 + ratio) + ratio * np.log(pool)
    # at trial values far from any table the optimum can be many powers of ten away
    used = np.minimum(n, np.maximum(np.exp(np.minimum(log_best, 700.0)), n * SMALLEST_SHARE))
    capped = (used < n) & (used > n * SMALLEST_SHARE)
    size, by_worth, by_used = effective(n, used, value[:, 6])
    data, d_by_worth, _ = effective(columns["d_tokens"], pool, value[:, 5])
    by_n, n_a, n_alpha = term(value[:, 1], value[:, 3], size)
    by_d, d_b, d_beta = term(value[:, 2], value[:, 4], data)
    by_size = -alpha * by_n / size
    # by_used holds only where N > U_N, that is where the optimum caps it
    by_log_best = np.where(capped, by_size * by_used * used, 0.0)
    g_alpha = 1.0 / (alpha * both) - log_g / both
    g_beta = -1.0 / (beta * both) - log_g / both
    shift = log_g + np.log(pool)
    best_alpha = g_alpha * (1.0 + ratio) - shift * ratio / alpha
    best_beta = g_beta * (1.0 + ratio) + shift / alpha
    slope = stack(
        np.ones_like(by_n),
        n_a + by_log_best * (1.0 + ratio) / (both * a),
        d_b - by_log_best * (1.0 + ratio) / (both * b),
        n_alpha + by_log_best * best_alpha,
        d_beta + by_log_best * best_beta,
        -beta * by_d / data * d_by_worth,
        by_size * by_worth,
    )
    return e + by_n + by_d, slope


def _datablations_parameters(widths: Widths) -> tuple[Parameter, ...]:
    return (*_effective_parameters(widths), epochs_worth("R_N", 5.309743))


def _qqt(value: Floats, columns: Columns) -> tuple[Floats, Floats]:
    """m = log n_1 + sum_k 2^(-k / tau) log(n_(k+1) / n_k), n_k tokens seen after k epochs."""
    e, a, beta, tau = value.T
    x, unique = columns["d_tokens"], columns["u_tokens"]
    seen = np.minimum(x, unique)
    worth = np.broadcast_to(np.log(seen), (value.shape[0], x.size)).copy()
    by_tau = np.zeros_like(worth)
    for k in range(1, int(np.ceil(float((x / unique).max()) - 1e-9))):
        more = np.log(np.clip(x / (k * unique), 1.0, (k + 1) / k))
        weight = 0.5 ** (k / tau)
        worth += weight[:, None] * more
        by_tau += (weight * k * np.log(2.0) / tau**2)[:, None] * more
    unit = np.exp(-beta[:, None] * worth)
    fall = a[:, None] * unit
    slope = stack(np.ones_like(fall), unit, -fall * worth, -fall * beta[:, None] * by_tau)
    return e[:, None] + fall, slope


def _qqt_parameters(_: Widths) -> tuple[Parameter, ...]:
    half_life = Parameter("tau", "epochs", "log", 0.05, 200.0, (0.5, 20.0))
    return (floor(), coefficient("A", "score x tokens^beta"), exponent("beta"), half_life)


def _qqt_place(values: Floats, columns: Columns, score: Floats) -> Floats:
    return placed(values, score, [(1, 2, columns["d_tokens"])])


def unrepeated(columns: Columns) -> str:
    """Why what an epoch is worth cannot be seen, if it cannot."""
    epochs = columns["d_tokens"] / columns["u_tokens"]
    if epochs.max() <= 1.0 + 1e-9:
        return "no run sees its pool twice: what an epoch is worth cannot be seen"
    if epochs.max() > MOST_EPOCHS:
        return f"{epochs.max():.3g} epochs, the law is written for up to {MOST_EPOCHS}"
    return ""


def _repeated_grid(columns: Columns) -> str:
    return unrepeated(columns) or one_line(columns)


REPEAT_SURFACES: dict[str, Surface] = {
    s.name: s
    for s in (
        Surface(
            name="effective_data",
            formula=(
                "L = E + A n_params^-alpha + B D'^-beta, D' = U + U R_D (1 - exp(-(D/U - 1)/R_D))"
            ),
            source="Muennighoff et al. 2023, 2305.16264, equations 4 and 5, with N' = N",
            identifiable="N and D vary apart, some runs repeat their pool several times",
            inputs=(SIZE, TOKENS, UNIQUE),
            parameters=_effective_parameters,
            law=_effective_data,
            place=chinchilla_place,
            refuse=_repeated_grid,
        ),
        Surface(
            name="datablations",
            formula=(
                "L = E + A N'^-alpha + B D'^-beta, D' = U + U R_D (1 - exp(-(D/U - 1)/R_D)), "
                "N' = V + V R_N (1 - exp(-(N/V - 1)/R_N)), V = min(N, N_opt(U))"
            ),
            source="Muennighoff et al. 2023, 2305.16264, equations 3 to 6",
            identifiable="as effective_data, and models larger than their pool can use",
            inputs=(SIZE, TOKENS, UNIQUE),
            parameters=_datablations_parameters,
            law=_datablations,
            place=chinchilla_place,
            refuse=_repeated_grid,
        ),
        Surface(
            name="qqt",
            formula="L = E + A exp(-beta m), m = log n_1 + sum_k 2^(-k/tau) log(n_(k+1) / n_k)",
            source="Goyal et al. 2024, 2404.07177, as in their code but with the floor outside",
            identifiable="runs below and above one epoch, one of them above 1 + tau epochs",
            inputs=(TOKENS, UNIQUE),
            parameters=_qqt_parameters,
            law=_qqt,
            place=_qqt_place,
            refuse=unrepeated,
        ),
    )
}
"""Laws of repeated data by name."""
