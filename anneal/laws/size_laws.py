"""Laws of size: scores against parameters, tokens, epochs and compute. (being filled)"""

from __future__ import annotations

import numpy as np

from anneal.laws.points import Floats
from anneal.laws.surfaces import Columns, Input, Parameter, Surface, Widths

N = Input("n_params", "parameters")
D = Input("d_tokens", "tokens")


def _log_term(coefficient: Floats, exponent: Floats, x: Floats) -> tuple[Floats, Floats]:
    """A x^-a (B, n) and log x (n,)."""
    return coefficient[:, None] * np.exp(-exponent[:, None] * np.log(x)), np.log(x)


def _chinchilla(value: Floats, columns: Columns) -> tuple[Floats, Floats]:
    e, a, b, alpha, beta = value.T
    by_n, log_n = _log_term(a, alpha, columns["n_params"])
    by_d, log_d = _log_term(b, beta, columns["d_tokens"])
    ones = np.ones_like(by_n)
    slope = np.stack([ones, by_n / a[:, None], by_d / b[:, None], -by_n * log_n, -by_d * log_d], 2)
    return e[:, None] + by_n + by_d, slope


def _exponent(name: str) -> Parameter:
    return Parameter(name, "1", "log", 0.01, 3.0, (0.1, 1.0))


def _chinchilla_parameters(widths: Widths) -> tuple[Parameter, ...]:
    return (
        Parameter("E", "score", "log", 1e-3, 1e2, (0.3, 0.95)),
        Parameter("A", "score x parameters^alpha", "log", 1e-6, 1e15, (0.02, 1.0)),
        Parameter("B", "score x tokens^beta", "log", 1e-6, 1e15, (0.02, 1.0)),
        _exponent("alpha"),
        _exponent("beta"),
    )


def _chinchilla_place(values: Floats, columns: Columns, score: Floats) -> Floats:
    """E, A and B were drawn as shares of the smallest score and of the range at the middle row."""
    out = values.copy()
    out[:, 0] *= score.min()
    for term, exponent, name in ((1, 3, "n_params"), (2, 4, "d_tokens")):
        middle = np.log(columns[name]).mean()
        out[:, term] *= np.ptp(score) * np.exp(out[:, exponent] * middle)
    return out


chinchilla = Surface(
    name="chinchilla",
    formula="L = E + A N^-alpha + B D^-beta",
    source="Hoffmann et al. 2022, arXiv 2203.15556, equation 2",
    identifiable="N and D vary apart",
    inputs=(N, D),
    parameters=_chinchilla_parameters,
    law=_chinchilla,
    place=_chinchilla_place,
)
