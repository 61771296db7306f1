"""Laws of the learning rate: the loss along a run as a function of its schedule.

An anneal lowers the loss in two ways: it trains on, and its learning rate falls. A law in tokens
alone mistakes the second for the first. Two laws separate them, from the schedule eta_1 ... eta_T:

    tissue       L(s) = L0 + A S1^-alpha - C S2                                  (2408.11029)
                 S1 = sum_(i <= s) eta_i, the forward area
                 S2 = sum_(i <= s) m_i, m_i = lambda m_(i-1) + eta_(i-1) - eta_i, the annealing area
    multi_power  L(t) = L0 + A (S1 + S_W)^-alpha - B sum_k (eta_(k-1) - eta_k) G(eta_k^-gamma S_k)
                 G(x) = 1 - (C x + 1)^-beta, S_k = sum_(k <= i <= t) eta_i       (2503.12811)
                 S_W = the sum of the rates during warm-up

`annealing_areas` and `annealing_drops` turn a schedule into the columns that they read. In `tissue`
warm-up steps count at the largest rate (as in its authors' code) and lambda is fixed at 0.999.

Identifiable: `tissue` from one curve whose rate falls (C) and whose S1 spans a decade (alpha);
`multi_power` from at least two schedules with drops at different rates, since C, beta and gamma act
together. Points of one run are correlated: resample runs, not points.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.signal import lfilter

from anneal.errors import LawError
from anneal.laws.points import Floats
from anneal.laws.size_laws import coefficient, exponent, floor, placed, stack, term
from anneal.laws.surfaces import Columns, Input, Parameter, Surface, Widths

FORGETTING = 0.999
"""lambda: momentum of the annealing area, 2408.11029's default."""
RATE = "summed learning rate"


def annealing_areas(
    rate: ArrayLike, at: ArrayLike, *, warmup: int = 0, forgetting: float = FORGETTING
) -> dict[str, Floats]:
    """The columns of `tissue` for points along one run.

    Args:
        rate: (T,) learning rate of every step, at least 0.
        at: (n,) steps, 1 to T.
        warmup: steps counted at the largest rate.
        forgetting: lambda, between 0 and 1.

    Returns:
        s1 and s2, (n,) each.

    Raises:
        LawError: a rate that is negative or not finite; a step outside the schedule.
    """
    eta, steps = _schedule(rate, at)
    eta = eta.copy()
    eta[:warmup] = eta.max()
    drop = np.concatenate([[0.0], eta[:-1] - eta[1:]])
    momentum = np.asarray(lfilter([1.0], [1.0, -forgetting], drop))
    return {"s1": np.cumsum(eta)[steps - 1], "s2": np.cumsum(momentum)[steps - 1]}


def annealing_drops(
    rate: ArrayLike, at: ArrayLike, *, warmup: int = 0, nodes: int = 256
) -> dict[str, Floats]:
    """The columns of `multi_power` for points along one run.

    A cosine drops at every step; neighbouring drops are gathered into at most `nodes` groups of
    equally many steps, each standing at the rate and place of its middle (of all its drop).

    Args:
        rate: (T,) learning rate of every step, at least 0.
        at: (n,) steps, 1 to T.
        warmup: first steps; their rates are S_W, and they are no drops.
        nodes: groups; T or more makes the sum exact.

    Returns:
        s1 (n,), warm-up included, and drop, rate, since (n, nodes): eta_(k-1) - eta_k, eta_k and
        S_k for each group, a drop of zero where it lies ahead of the point.

    Raises:
        LawError: as `annealing_areas`.
    """
    eta, steps = _schedule(rate, at)
    total = np.cumsum(eta)
    change = np.concatenate([[0.0], eta[:-1] - eta[1:]])
    change[: max(warmup, 1)] = 0.0
    places = np.flatnonzero(change)
    groups = np.array_split(places, min(nodes, max(places.size, 1)))
    drop, level, since = (np.zeros((steps.size, nodes)) for _ in range(3))
    level += max(float(eta.max()), 1e-300)
    for k, group in enumerate(groups):
        if group.size == 0:
            continue
        reached = group[None, :] < steps[:, None]
        weight = np.where(reached, np.abs(change[group]), 0.0)
        mass = np.maximum(weight.sum(axis=1), 1e-300)
        some = reached.any(axis=1)
        behind = total[steps - 1][:, None] - (total[group] - eta[group])[None, :]
        drop[:, k] = np.where(reached, change[group], 0.0).sum(axis=1)
        level[:, k] = np.where(some, (weight * eta[group]).sum(axis=1) / mass, level[:, k])
        since[:, k] = np.where(some, (weight * behind).sum(axis=1) / mass, 0.0)
    least = 1e-9 * float(eta.max())
    return {
        "s1": total[steps - 1],
        "drop": drop,
        "rate": np.maximum(level, least),
        "since": np.maximum(since, 0.0),
    }


def _schedule(
    rate: ArrayLike, at: ArrayLike
) -> tuple[Floats, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    eta = np.asarray(rate, dtype=np.float64).reshape(-1)
    bad = np.flatnonzero(~(np.isfinite(eta) & (eta >= 0)))
    if bad.size or eta.size == 0 or eta.max() <= 0:
        where = f"step {int(bad[0]) + 1}: {eta[bad[0]]}" if bad.size else "no positive rate"
        raise LawError(f"schedule: rates must be finite and at least 0, {where}")
    steps = np.asarray(at, dtype=np.int64).reshape(-1)
    if steps.size == 0 or steps.min() < 1 or steps.max() > eta.size:
        raise LawError(f"schedule: points must be steps 1 to {eta.size}, got {steps}")
    return eta, steps


def _tissue(value: Floats, columns: Columns) -> tuple[Floats, Floats]:
    low, a, alpha, c = value.T
    fall, by_a, by_alpha = term(a, alpha, columns["s1"])
    area = np.broadcast_to(columns["s2"], fall.shape)
    score = low[:, None] + fall - c[:, None] * area
    return score, stack(np.ones_like(fall), by_a, by_alpha, -area)


def _tissue_parameters(_: Widths) -> tuple[Parameter, ...]:
    return (
        floor("L0"),
        coefficient("A", f"score x ({RATE})^alpha"),
        exponent("alpha"),
        Parameter("C", f"score / {RATE}", "log", 1e-9, 1e9, (0.05, 1.0)),
    )


def _tissue_place(values: Floats, columns: Columns, score: Floats) -> Floats:
    """C was drawn as a share of the range of scores over the largest annealing area."""
    out = placed(values, score, [(1, 2, columns["s1"])])
    out[:, 3] *= np.ptp(score) / max(float(np.abs(columns["s2"]).max()), 1e-300)
    return out


def _never_falls(columns: Columns) -> str:
    if np.abs(columns["s2"]).max() <= 0:
        return "the learning rate never falls: C cannot be seen"
    return ""


def _never_drops(columns: Columns) -> str:
    return "" if np.abs(columns["drop"]).max() > 0 else "the learning rate never falls"


def _multi_power(value: Floats, columns: Columns) -> tuple[Floats, Floats]:
    low, a, alpha, b, c, beta, gamma = value.T
    fall, by_a, by_alpha = term(a, alpha, columns["s1"])
    drop, since = columns["drop"], columns["since"]
    log_rate = np.log(columns["rate"])
    shape = [v[:, None, None] for v in (c, beta, gamma)]
    x = np.exp(-shape[2] * log_rate) * since
    base = shape[0] * x + 1.0
    left = base ** -shape[1]
    gain = (drop * (1.0 - left)).sum(axis=2)
    by_base = shape[1] * left / base * drop
    by_c = (by_base * x).sum(axis=2)
    by_beta = (left * np.log(base) * drop).sum(axis=2)
    by_gamma = -(by_base * shape[0] * x * log_rate).sum(axis=2)
    score = low[:, None] + fall - b[:, None] * gain
    minus = -b[:, None]
    slope = stack(
        np.ones_like(fall), by_a, by_alpha, -gain, minus * by_c, minus * by_beta, minus * by_gamma
    )
    return score, slope


def _multi_power_parameters(_: Widths) -> tuple[Parameter, ...]:
    return (
        floor("L0"),
        coefficient("A", f"score x ({RATE})^alpha"),
        exponent("alpha"),
        Parameter("B", "score / learning rate", "log", 1e-9, 1e9, (0.1, 3.0)),
        Parameter("C", "learning rate^gamma / summed rate", "log", 1e-9, 1e9, (0.1, 100.0)),
        Parameter("beta", "1", "log", 0.01, 10.0, (0.1, 1.5)),
        Parameter("gamma", "1", "log", 0.01, 3.0, (0.1, 1.2)),
    )


def _multi_power_place(values: Floats, columns: Columns, score: Floats) -> Floats:
    """B was drawn as a share of the range of scores over the whole drop, C as x C at the end."""
    out = placed(values, score, [(1, 2, columns["s1"])])
    out[:, 3] *= np.ptp(score) / max(float(np.abs(columns["drop"].sum(axis=1)).max()), 1e-300)
    out[:, 4] *= float(columns["rate"].max()) ** out[:, 6] / float(columns["s1"].max())
    return out


SCHEDULE_SURFACES: dict[str, Surface] = {
    s.name: s
    for s in (
        Surface(
            name="tissue",
            formula="L = L0 + A s1^-alpha - C s2",
            source="Tissue et al. 2024, 2408.11029, equation 1",
            identifiable="a curve whose rate falls, and s1 over a decade",
            inputs=(Input("s1", RATE), Input("s2", RATE, positive=False)),
            parameters=_tissue_parameters,
            law=_tissue,
            place=_tissue_place,
            refuse=_never_falls,
        ),
        Surface(
            name="multi_power",
            formula=(
                "L = L0 + A s1^-alpha - B sum_k drop_k (1 - (C rate_k^-gamma since_k + 1)^-beta)"
            ),
            source="Luo et al. 2025, 2503.12811, equation 1",
            identifiable="two schedules at least, with drops at different rates",
            inputs=(
                Input("s1", RATE),
                Input("drop", "learning rate", wide=True, positive=False, tracked=False),
                Input("rate", "learning rate", wide=True, tracked=False),
                Input("since", RATE, wide=True, positive=False, tracked=False),
            ),
            parameters=_multi_power_parameters,
            law=_multi_power,
            place=_multi_power_place,
            refuse=_never_drops,
        ),
    )
}
"""Laws of the learning rate by name."""
