"""Whole numbers that add up: tokens to phases, sequences to sources.

All arithmetic is in integers and fractions, so that what a decision bought and what the phases
train on can be compared to the token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Place:
    """A phase that gets a part of what was bought.

    Args:
        part: its part, relative to the other phases'.
        first: sources that come here before any other phase gets some of them.
        sequence: tokens a sequence.
    """

    part: Fraction
    first: frozenset[str]
    sequence: int


def split(total: int, weights: Sequence[int | Fraction]) -> list[int]:
    """Whole parts of `total` nearest to the weights' shares (Hamilton's largest remainder).

    A part is never above its weight where the weights are whole and `total` is at most their sum.
    Ties go to the earlier.
    """
    everything = sum(weights, Fraction(0))
    exact = [total * Fraction(weight) / everything for weight in weights]
    parts = [int(part) for part in exact]
    behind = sorted(range(len(parts)), key=lambda i: (parts[i] - exact[i], i))
    for index in behind[: total - sum(parts)]:
        parts[index] += 1
    return parts


def place(bought: Mapping[str, int], phases: Sequence[Place]) -> list[dict[str, int]]:
    """Tokens of each source in each phase; over the phases they sum to what was bought.

    A phase takes what comes first in it, as far as its part goes; all that is left is spread over
    what is left of the phases, each source in proportion.
    """
    left = dict(bought)
    room = split(sum(left.values()), [phase.part for phase in phases])
    placed: list[dict[str, int]] = [{} for _ in phases]

    def take(index: int, names: Sequence[str], tokens: int) -> None:
        for name, part in zip(names, split(tokens, [left[n] for n in names]), strict=True):
            placed[index][name] = placed[index].get(name, 0) + part
            left[name] -= part
            room[index] -= part

    for index, phase in enumerate(phases):
        names = [name for name in left if name in phase.first and left[name]]
        if names and room[index]:
            take(index, names, min(room[index], sum(left[name] for name in names)))
    for index in range(len(phases)):
        names = [name for name in left if left[name]]
        if names and room[index]:
            take(index, names, room[index])
    return placed


def sequences(placed: Sequence[Mapping[str, int]], phases: Sequence[Place]) -> list[dict[str, int]]:
    """Whole sequences of what `place` gave: over the phases never more tokens than were bought,
    and less by under one sequence.

    What a phase cannot make a sequence of goes on to the next that has the source, phases with
    long sequences first.
    """
    counts: list[dict[str, int]] = [{} for _ in phases]
    names = dict.fromkeys(name for row in placed for name in row)
    order = sorted(range(len(phases)), key=lambda index: (-phases[index].sequence, index))
    for name in names:
        carried = 0
        for index in order:
            if not (tokens := placed[index].get(name, 0)):
                continue
            counts[index][name], carried = divmod(tokens + carried, phases[index].sequence)
    return counts
