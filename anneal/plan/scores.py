"""The one number a run is judged by: its targets' scores, weighted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from anneal.plan.values import Scored


def aim(scores: Mapping[str, float], targets: Sequence[Scored]) -> float | None:
    """Weighted mean of the targets that are no guards, bits per byte.

    Args:
        scores: bits per byte by target.
        targets: of the run.

    Returns:
        None where one of them was not measured, or there is none.
    """
    aims = [target for target in targets if not target.guard]
    if not aims or any(target.name not in scores for target in aims):
        return None
    total = sum(target.weight for target in aims)
    return sum(scores[target.name] * target.weight for target in aims) / total
