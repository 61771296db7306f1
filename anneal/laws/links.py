"""Links: from one score to another, from loss to accuracy or from loss to loss.

A law predicts a loss far away; what a person cares about may be an accuracy. The link is fitted on
all runs, small and large, since it does not depend on how a loss was reached (the ladder,
2412.04403; Gadre et al.); both steps' errors then add up.

    sigmoid        accuracy = low + (high - low) / (1 + exp(k (L - L_half)))
    exponential    error = top - k exp(-gamma L), chance at infinite loss
    shifted_power  L_target = E + K (L - E_source)^kappa, between two losses

Accuracies and errors are fitted with `residual="plain"` and a delta of a few points of accuracy
(0.01 to 0.05), since they may be zero; losses with the default. A sigmoid is identifiable when the
runs reach both below and above the bend; where all of them are near chance its height is a guess,
and the fit says so under `loose`.
"""

from __future__ import annotations

import numpy as np

from anneal.laws.points import Floats
from anneal.laws.size_laws import coefficient, floor, stack
from anneal.laws.surfaces import Columns, Input, Parameter, Surface, Widths

LOSS = Input("loss", "loss")
NEAREST = 1e-6
"""Least loss above the source's floor; where a trial floor exceeds a loss the curve is flat."""


def _sigmoid(value: Floats, columns: Columns) -> tuple[Floats, Floats]:
    low, high, k, half = (column[:, None] for column in value.T)
    away = columns["loss"] - half
    share = 1.0 / (1.0 + np.exp(np.clip(k * away, -500.0, 500.0)))
    bend = (high - low) * share * (1.0 - share)
    return low + (high - low) * share, stack(1.0 - share, share, -bend * away, bend * k)


def _sigmoid_parameters(_: Widths) -> tuple[Parameter, ...]:
    return (
        Parameter("low", "accuracy", "logit", 0.0, 1.0, (0.01, 0.5)),
        Parameter("high", "accuracy", "logit", 0.0, 1.5, (0.4, 1.2)),
        Parameter("k", "1 / loss", "log", 1e-2, 1e3, (0.5, 20.0)),
        Parameter("L_half", "loss", "log", 1e-3, 1e3, (0.5, 1.2)),
    )


def _sigmoid_place(values: Floats, columns: Columns, score: Floats) -> Floats:
    """L_half was drawn as a share of the median loss, k as one of 1 over the range of losses."""
    out = values.copy()
    out[:, 2] *= 2.0 / max(float(np.ptp(columns["loss"])), 1e-9)
    out[:, 3] *= float(np.median(columns["loss"]))
    return out


def _exponential(value: Floats, columns: Columns) -> tuple[Floats, Floats]:
    top, k, gamma = (column[:, None] for column in value.T)
    unit = np.exp(-gamma * columns["loss"])
    score = top - k * unit
    return score, stack(np.ones_like(unit), -unit, k * unit * columns["loss"])


def _exponential_parameters(_: Widths) -> tuple[Parameter, ...]:
    return (
        Parameter("top", "error", "logit", 0.0, 1.5, (0.6, 1.1)),
        Parameter("k", "error", "log", 1e-6, 1e6, (0.1, 1.0)),
        Parameter("gamma", "1 / loss", "log", 1e-2, 1e2, (0.2, 3.0)),
    )


def _exponential_place(values: Floats, columns: Columns, score: Floats) -> Floats:
    """k was drawn as the error it takes away at the median loss."""
    out = values.copy()
    out[:, 1] *= np.exp(out[:, 2] * float(np.median(columns["loss"])))
    return out


def _shifted_power(value: Floats, columns: Columns) -> tuple[Floats, Floats]:
    e, size, source, kappa = (column[:, None] for column in value.T)
    above = columns["loss"] - source
    log_above = np.log(np.maximum(above, NEAREST))
    unit = np.exp(kappa * log_above)
    by_source = np.where(above > NEAREST, -size * kappa * unit * np.exp(-log_above), 0.0)
    return e + size * unit, stack(np.ones_like(unit), unit, by_source, size * unit * log_above)


def _shifted_power_parameters(_: Widths) -> tuple[Parameter, ...]:
    return (
        floor("E"),
        coefficient("K", "target loss / loss^kappa"),
        floor("E_source"),
        Parameter("kappa", "1", "log", 0.05, 10.0, (0.5, 2.0)),
    )


def _shifted_power_place(values: Floats, columns: Columns, score: Floats) -> Floats:
    out = values.copy()
    out[:, 0] *= score.min()
    out[:, 2] *= columns["loss"].min()
    middle = float(np.median(score))
    reach = np.maximum(np.median(columns["loss"]) - out[:, 2], 1e-9)
    out[:, 1] = np.maximum(middle - out[:, 0], 1e-9) / reach ** out[:, 3]
    return out


def _one_loss(columns: Columns) -> str:
    return "" if np.ptp(columns["loss"]) > 1e-9 else "all runs have the same loss"


LINK_SURFACES: dict[str, Surface] = {
    s.name: s
    for s in (
        Surface(
            name="sigmoid",
            formula="accuracy = low + (high - low) / (1 + exp(k (loss - L_half)))",
            source="2412.04403, step 2 (there a = low - high, at most 0, and b = high); 2504.11393",
            identifiable="runs on both sides of the bend",
            inputs=(LOSS,),
            parameters=_sigmoid_parameters,
            law=_sigmoid,
            place=_sigmoid_place,
            refuse=_one_loss,
        ),
        Surface(
            name="exponential",
            formula="error = top - k exp(-gamma loss)",
            source="Gadre et al. 2024, 2403.08540, equation 5",
            identifiable="losses over which the error bends; k and gamma trade off otherwise",
            inputs=(LOSS,),
            parameters=_exponential_parameters,
            law=_exponential,
            place=_exponential_place,
            refuse=_one_loss,
        ),
        Surface(
            name="shifted_power",
            formula="L_target = E + K (loss - E_source)^kappa",
            source="Brandfonbrener et al. 2024, 2411.12925, equation 1",
            identifiable="losses within reach of the floors; the four trade off otherwise",
            inputs=(LOSS,),
            parameters=_shifted_power_parameters,
            law=_shifted_power,
            place=_shifted_power_place,
            refuse=_one_loss,
        ),
    )
}
"""Links by name."""
