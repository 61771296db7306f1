"""What ends a run early: a spike of the loss, a guard that got worse, a gate that was not passed.

All rules are functions of numbers that every process has alike, so a run of several processes ends
in all of them, and a resumed run ends where the undisturbed one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean, median

from anneal.plan.means import Watch
from anneal.plan.values import Score

BEFORE, NOW = 100, 10
"""Training losses that a spike is measured against, and those that make it one."""


class NonFinite(Exception):
    """Loss, gradient or score is NaN or infinite: the run fails, and is never retried."""


class Interrupted(Exception):
    """Asked to stop: a checkpoint was saved, the run goes on later."""


class Aborted(Exception):
    """A rule of the run's own ended it: it has no result, and is not tried again."""


def spiked(recent: tuple[float, ...], limit: float | None) -> str:
    """What the spike rule says of the last losses: nothing, or why the run ends.

    Args:
        recent: training losses, nats per token, newest last; at most `BEFORE` + `NOW` count.
        limit: nats above the median of those before.
    """
    if limit is None or len(recent) < BEFORE + NOW:
        return ""
    now, before = fmean(recent[-NOW:]), median(recent[-BEFORE - NOW : -NOW])
    if now - before <= limit:
        return ""
    return (
        f"spike: the last {NOW} losses average {now:.4f}, the median of the {BEFORE} before is "
        f"{before:.4f}; limit {limit:g} above it"
    )


def remember(recent: tuple[float, ...], loss: float) -> tuple[float, ...]:
    """The losses that the spike rule needs, with one more."""
    return (*recent, loss)[-BEFORE - NOW :]


def must_keep_guards(scores: Mapping[str, Score], watch: Watch, where: str) -> None:
    """Ends the run when a target is above its limit.

    Raises:
        Aborted: naming target, score and limit.
    """
    for name, limit in watch.guard_limits.items():
        if name in scores and scores[name].bpb > limit:
            raise Aborted(
                f"guard `{name}` is {scores[name].bpb:.4f} bits per byte {where}, limit {limit:.4f}"
            )


def must_pass_gates(
    phase: str, scores: Mapping[str, Score], before: Mapping[str, Score], watch: Watch
) -> None:
    """Ends the run when a phase did not reach what the next one asks for.

    Args:
        phase: the phase that ended.
        scores: at its end.
        before: at its start.
        watch: the gates.

    Raises:
        Aborted: naming gate, score and what was asked.
    """
    for gate in watch.gates:
        if gate.phase != phase or gate.target not in scores:
            continue
        found = scores[gate.target].bpb
        if gate.at_most is not None:
            limit, asked = gate.at_most, f"at most {gate.at_most:.4f}"
        else:
            assert gate.better_by is not None
            if gate.target not in before:
                continue
            start = before[gate.target].bpb
            limit = start - gate.better_by
            asked = f"{gate.better_by:g} better than {start:.4f} at its start"
        if found > limit:
            raise Aborted(
                f"gate of phase `{phase}`: `{gate.target}` is {found:.4f} bits per byte, asked was "
                f"{asked}"
            )
