"""Learning rates as pure functions of tokens seen, so that resuming can never shift them."""

from __future__ import annotations

import math
from collections.abc import Callable

from anneal.plan.values import Schedule


def learning_rate(schedule: Schedule, seen: float, total: float) -> float:
    """Learning rate after `seen` of `total` tokens of a phase.

    A step uses the rate at its middle token, so that neither the first step of a warm-up nor the
    last of a decay is wasted at zero.

    Args:
        schedule: kind, peak and shape.
        seen: tokens of this phase trained so far, 0 <= seen <= total.
        total: tokens of this phase.
    """
    done = seen / total
    if done < schedule.warmup:
        risen = done / schedule.warmup
        return schedule.peak * (schedule.start + (1 - schedule.start) * risen)
    if schedule.kind == "wsd":
        after = max(0.0, (done - (1 - schedule.decay)) / schedule.decay)
    else:
        after = (done - schedule.warmup) / (1 - schedule.warmup)
    return schedule.peak * (schedule.final + (1 - schedule.final) * _SHAPES[schedule.kind](after))


# Fraction of the peak left (above `final`) after a fraction t of the decay.
_SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda t: 1.0,
    "linear": lambda t: 1 - t,
    "wsd": lambda t: 1 - t,
    "cosine": lambda t: 0.5 * (1 + math.cos(math.pi * t)),
    "one_minus_sqrt": lambda t: 1 - math.sqrt(t),  # arXiv 2405.18392
}
