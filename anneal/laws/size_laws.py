"""Laws of size: loss against parameters, tokens, epochs and compute.

All of them say that the loss falls towards a floor E as powers of what is spent. They differ in
how many powers they take, and in what happens far away from the data:

    power_*         L = E + A x^-alpha, x FLOPs or tokens; pure_ in front: E = 0
    chinchilla      L = E + A N^-alpha + B D^-beta
    overtraining    L = E + (a M^eta + b M^-eta) C^-eta, M = D / N: the same with one exponent
    shifted_tokens  L = E + S (1 + D / tau)^-alpha: finite at D = 0, where it is E + S
    bounded_tokens  L = E + (L0 - E) h / (1 + h), h = b D^-beta
    bounded         L = E + (L0 - E) h / (1 + h), h = a N^-alpha + b D^-beta: between the floor and
                    an uninformed guess L0, so that no small run is promised an infinite loss
    bounded_repeats the same with + c N^gamma U^-delta in h: large models over-fit small pools

Units: N parameters, D tokens seen, U unique tokens, C FLOPs, loss in the unit of the score. What a
repeated token is worth otherwise: `repeat_laws`.
"""

from __future__ import annotations

import numpy as np

from anneal.laws.points import Floats
from anneal.laws.surfaces import Columns, Input, Law, Parameter, Surface, Widths

SIZE = Input("n_params", "parameters")
TOKENS = Input("d_tokens", "tokens seen")
UNIQUE = Input("u_tokens", "unique tokens")
COMPUTE = Input("flops", "FLOPs")
RATIO = Input("tokens_per_param", "tokens per parameter")

ONE_LINE = 0.9995
"""Correlation of log N and log D above which they are one column (assumed: at a tenfold range of
each this leaves them 3% apart)."""


def term(size: Floats, power: Floats, x: Floats) -> tuple[Floats, Floats, Floats]:
    """A x^-a and its derivatives by A and a, each (B, n), for A, a (B,) and x (n,) or (B, n)."""
    log_x = np.log(x)
    unit = np.exp(-power[:, None] * log_x)
    whole = size[:, None] * unit
    return whole, unit, -whole * log_x


def stack(*slopes: Floats) -> Floats:
    """(B, n, p) of p derivatives (B, n)."""
    return np.stack(np.broadcast_arrays(*slopes), axis=2)


def floor(name: str = "E") -> Parameter:
    """A positive floor; drawn as a share of the lowest score."""
    return Parameter(name, "score", "log", 1e-3, 1e3, (0.3, 0.97))


def coefficient(name: str, unit: str) -> Parameter:
    """A coefficient of any size; drawn as a share, see `placed`."""
    return Parameter(name, unit, "log", 1e-9, 1e18, (0.02, 1.0))


def exponent(name: str) -> Parameter:
    """A positive exponent."""
    return Parameter(name, "1", "log", 0.005, 3.0, (0.05, 1.0))


def placed(
    values: Floats, score: Floats, terms: list[tuple[int, int, Floats]], bent: bool = True
) -> Floats:
    """Starts drawn as shares, in units: E of the lowest score, A x^-a of the range of scores.

    Args:
        terms: column of A, column of a, and x (n,), whose geometric mean A x^-a is set at.
    """
    out = values.copy()
    if bent:
        out[:, 0] *= score.min()
    reach = np.ptp(score) if bent else score.max()
    for size, power, x in terms:
        out[:, size] *= reach * np.exp(out[:, power] * np.log(x).mean())
    return out


def one_line(columns: Columns) -> str:
    """Why N and D do not vary apart, if they do not."""
    n, d = np.log(columns["n_params"]), np.log(columns["d_tokens"])
    if np.ptp(n) < 1e-9 or np.ptp(d) < 1e-9:
        return f"{'n_params' if np.ptp(n) < 1e-9 else 'd_tokens'} has one value"
    if abs(float(np.corrcoef(n, d)[0, 1])) > ONE_LINE:
        return "n_params and d_tokens lie on one line: a law of one of them is all there is"
    return ""


def _power(name: str, column: Input, *, bent: bool) -> Surface:
    """A row for a power law in one column, with or without a floor."""

    def law(value: Floats, columns: Columns) -> tuple[Floats, Floats]:
        fall, by_a, by_alpha = term(value[:, -2], value[:, -1], columns[column.name])
        if not bent:
            return fall, stack(by_a, by_alpha)
        return value[:, :1] + fall, stack(np.ones_like(fall), by_a, by_alpha)

    def parameters(_: Widths) -> tuple[Parameter, ...]:
        own = (coefficient("A", f"score x {column.unit}^alpha"), exponent("alpha"))
        return (floor(), *own) if bent else own

    def place(values: Floats, columns: Columns, score: Floats) -> Floats:
        first = 1 if bent else 0
        return placed(values, score, [(first, first + 1, columns[column.name])], bent)

    return Surface(
        name=name,
        formula=f"L = {'E + ' if bent else ''}A {column.name}^-alpha",
        source="2001.08361 (no floor); 2504.11393 (3-parameter, in compute)",
        identifiable="at least four values of the column, the floor only where the curve bends",
        inputs=(column,),
        parameters=parameters,
        law=law,
        place=place,
    )


def _shifted_tokens(value: Floats, columns: Columns) -> tuple[Floats, Floats]:
    e, span, tau, alpha = (column[:, None] for column in value.T)
    reach = 1.0 + columns["d_tokens"] / tau
    unit = reach**-alpha
    fall = span * unit
    by_tau = fall * alpha * (1.0 - 1.0 / reach) / tau
    return e + fall, stack(np.ones_like(unit), unit, by_tau, -fall * np.log(reach))


def _shifted_tokens_parameters(_: Widths) -> tuple[Parameter, ...]:
    tau = Parameter("tau", "tokens", "log", 1.0, 1e16, (0.003, 3.0))
    return (floor(), Parameter("S", "score", "log", 1e-6, 1e6, (0.5, 3.0)), tau, exponent("alpha"))


def _shifted_tokens_place(values: Floats, columns: Columns, score: Floats) -> Floats:
    """S was drawn as a share of the range of scores, tau of the middle number of tokens."""
    out = values.copy()
    out[:, 0] *= score.min()
    out[:, 1] *= np.ptp(score)
    out[:, 2] *= np.exp(np.log(columns["d_tokens"]).mean())
    return out


def _bounded_tokens(value: Floats, columns: Columns) -> tuple[Floats, Floats]:
    e, top = value[:, :1], value[:, 1:2]
    h, by_b, by_beta = term(value[:, 2], value[:, 3], columns["d_tokens"])
    share = h / (1.0 + h)
    by_h = (top - e) / (1.0 + h) ** 2
    return e + (top - e) * share, stack(1.0 - share, share, by_h * by_b, by_h * by_beta)


def _bounded_tokens_parameters(_: Widths) -> tuple[Parameter, ...]:
    return (floor(), _guess(), coefficient("b", "tokens^beta"), exponent("beta"))


def _bounded_tokens_place(values: Floats, columns: Columns, score: Floats) -> Floats:
    out = values.copy()
    out[:, 0] *= score.min()
    out[:, 1] *= score.max()
    middle = float(np.median(score))
    h = np.maximum(middle - out[:, 0], 1e-3) / np.maximum(out[:, 1] - middle, 1e-3)
    out[:, 2] = h * np.exp(out[:, 3] * np.log(columns["d_tokens"]).mean())
    return out


def _guess() -> Parameter:
    """The score of an uninformed guess; drawn as a multiple of the highest score."""
    return Parameter("L0", "score", "log", 1e-3, 1e4, (1.0, 4.0))


def _chinchilla(value: Floats, columns: Columns) -> tuple[Floats, Floats]:
    e, a, b, alpha, beta = value.T
    by_n, n_a, n_alpha = term(a, alpha, columns["n_params"])
    by_d, d_b, d_beta = term(b, beta, columns["d_tokens"])
    return e[:, None] + by_n + by_d, stack(np.ones_like(by_n), n_a, d_b, n_alpha, d_beta)


def chinchilla_parameters(_: Widths) -> tuple[Parameter, ...]:
    """E, A, B, alpha, beta."""
    return (
        floor(),
        coefficient("A", "score x parameters^alpha"),
        coefficient("B", "score x tokens^beta"),
        exponent("alpha"),
        exponent("beta"),
    )


def chinchilla_place(values: Floats, columns: Columns, score: Floats) -> Floats:
    """Starts in the units of the table."""
    terms = [(1, 3, columns["n_params"]), (2, 4, columns["d_tokens"])]
    return placed(values, score, terms)


def _overtraining(value: Floats, columns: Columns) -> tuple[Floats, Floats]:
    e, a, b, eta = value.T
    log_m, log_c = np.log(columns["tokens_per_param"]), np.log(columns["flops"])
    many = np.exp(eta[:, None] * (log_m - log_c))
    few = np.exp(-eta[:, None] * (log_m + log_c))
    high, low = a[:, None] * many, b[:, None] * few
    by_eta = high * (log_m - log_c) - low * (log_m + log_c)
    return e[:, None] + high + low, stack(np.ones_like(high), many, few, by_eta)


def _one_ratio(columns: Columns) -> str:
    m = columns["tokens_per_param"]
    return "tokens_per_param has one value: use power_compute" if m.max() < 1.01 * m.min() else ""


def _overtraining_parameters(_: Widths) -> tuple[Parameter, ...]:
    unit = "score x FLOPs^eta"
    return (floor(), coefficient("a", unit), coefficient("b", unit), exponent("eta"))


def _overtraining_place(values: Floats, columns: Columns, score: Floats) -> Floats:
    m, c = columns["tokens_per_param"], columns["flops"]
    return placed(values, score, [(1, 3, c / m), (2, 3, c * m)])


def _bounded(*, repeats: bool) -> Law:
    """The law with h of two terms, or of three with over-fitting."""

    def law(value: Floats, columns: Columns) -> tuple[Floats, Floats]:
        e, top, a, b, alpha, beta = value[:, :6].T
        by_n, n_a, n_alpha = term(a, alpha, columns["n_params"])
        by_d, d_b, d_beta = term(b, beta, columns["d_tokens"])
        h, slopes = by_n + by_d, [n_a, d_b, n_alpha, d_beta]
        if repeats:
            c, gamma, delta = (column[:, None] for column in value[:, 6:].T)
            log_n, log_u = np.log(columns["n_params"]), np.log(columns["u_tokens"])
            unit = np.exp(gamma * log_n - delta * log_u)
            h = h + c * unit
            slopes += [unit, c * unit * log_n, -c * unit * log_u]
        share = h / (1.0 + h)
        by_h = (top - e)[:, None] / (1.0 + h) ** 2
        score = e[:, None] + (top - e)[:, None] * share
        return score, stack(1.0 - share, share, *(by_h * s for s in slopes))

    return law


def _bounded_parameters(widths: Widths) -> tuple[Parameter, ...]:
    return (
        floor(),
        _guess(),
        coefficient("a", "parameters^alpha"),
        coefficient("b", "tokens^beta"),
        exponent("alpha"),
        exponent("beta"),
    )


def _bounded_repeated_parameters(widths: Widths) -> tuple[Parameter, ...]:
    over = coefficient("c", "tokens^delta / parameters^gamma")
    return (*_bounded_parameters(widths), over, exponent("gamma"), exponent("delta"))


def _bounded_place(values: Floats, columns: Columns, score: Floats) -> Floats:
    """L0 was drawn as a multiple of the highest score; terms of h as shares of h itself."""
    out = values.copy()
    out[:, 0] *= score.min()
    out[:, 1] *= score.max()
    middle = float(np.median(score))
    h = np.maximum(middle - out[:, 0], 1e-3) / np.maximum(out[:, 1] - middle, 1e-3)
    log_n, log_d = np.log(columns["n_params"]).mean(), np.log(columns["d_tokens"]).mean()
    out[:, 2] *= h * np.exp(out[:, 4] * log_n)
    out[:, 3] *= h * np.exp(out[:, 5] * log_d)
    if out.shape[1] > 6:
        log_u = np.log(columns["u_tokens"]).mean()
        out[:, 6] *= h * np.exp(out[:, 8] * log_u - out[:, 7] * log_n)
    return out


SIZE_SURFACES: dict[str, Surface] = {
    s.name: s
    for s in (
        _power("power_compute", COMPUTE, bent=True),
        _power("pure_power_compute", COMPUTE, bent=False),
        _power("power_tokens", TOKENS, bent=True),
        _power("pure_power_tokens", TOKENS, bent=False),
        Surface(
            name="chinchilla",
            formula="L = E + A n_params^-alpha + B d_tokens^-beta",
            source="Hoffmann et al. 2022, 2203.15556, equation 2; 2404.10102",
            identifiable="N and D vary apart; A and alpha (B and beta) always trade off",
            inputs=(SIZE, TOKENS),
            parameters=chinchilla_parameters,
            law=_chinchilla,
            place=chinchilla_place,
            refuse=one_line,
        ),
        Surface(
            name="shifted_tokens",
            formula="L = E + S (1 + d_tokens / tau)^-alpha",
            source="ours, a power of D + tau; M3 of 2209.06640 is a power of 1 / D + gamma instead",
            identifiable="tokens below and above tau; without them S and tau trade off",
            inputs=(TOKENS,),
            parameters=_shifted_tokens_parameters,
            law=_shifted_tokens,
            place=_shifted_tokens_place,
        ),
        Surface(
            name="bounded_tokens",
            formula="L = E + (L0 - E) h / (1 + h), h = b d_tokens^-beta",
            source="2605.09189 in one column; M4 of 2209.06640 with its alpha at 1",
            identifiable="some scores near L0, some near E",
            inputs=(TOKENS,),
            parameters=_bounded_tokens_parameters,
            law=_bounded_tokens,
            place=_bounded_tokens_place,
        ),
        Surface(
            name="overtraining",
            formula="L = E + (a M^eta + b M^-eta) flops^-eta, M = tokens_per_param",
            source="Gadre et al. 2024, 2403.08540, equation 4",
            identifiable="two values of M at least; where N and D share one exponent",
            inputs=(COMPUTE, RATIO),
            parameters=_overtraining_parameters,
            law=_overtraining,
            place=_overtraining_place,
            refuse=_one_ratio,
        ),
        Surface(
            name="bounded",
            formula="L = E + (L0 - E) h / (1 + h), h = a n_params^-alpha + b d_tokens^-beta",
            source="2605.09189 (its first two terms)",
            identifiable="as chinchilla; L0 only where some runs come near an uninformed guess",
            inputs=(SIZE, TOKENS),
            parameters=_bounded_parameters,
            law=_bounded(repeats=False),
            place=_bounded_place,
            refuse=one_line,
        ),
        Surface(
            name="bounded_repeats",
            formula=(
                "L = E + (L0 - E) h / (1 + h), "
                "h = a n_params^-alpha + b d_tokens^-beta + c n_params^gamma u_tokens^-delta"
            ),
            source="2605.09189",
            identifiable="as bounded, and pools that are repeated by several sizes of model",
            inputs=(SIZE, TOKENS, UNIQUE),
            parameters=_bounded_repeated_parameters,
            law=_bounded(repeats=True),
            place=_bounded_place,
            refuse=one_line,
        ),
    )
}
"""Laws in size, tokens and compute by name."""
