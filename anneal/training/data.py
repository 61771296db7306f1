"""Data order as a pure function of (seed, sample number).

Nothing about the order of training data is stored: which tokens sample number g holds follows from
the phase and the seed alone, whatever the number of devices, however often the run was killed.

- A source's tokens are cut into **windows** of one sequence each (plus the next token).
- Its **pool** is a seeded subset of those windows: all of them, or as many as make the run see the
  epochs that the real budget would mean.
- Each epoch goes through the pool in an order of its own.
- The sources of a mixture take turns so that the realised shares equal the asked ones, up to
  largest-remainder rounding, over the phase and as nearly as possible over any stretch of it.

Orders are permutations computed index by index with a small Feistel network and cycle walking
(Black & Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002), so a pool of a billion
windows costs no memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from anneal.errors import TrainingError
from anneal.plan.values import Phase, Portion

Ints = NDArray[np.int64]

ROUNDS = 6
"""Feistel rounds: four give a pseudo-random permutation from good round functions; ours is a plain
integer mixer, so two more."""

BLOCK = 512
"""Samples whose windows are looked up and read at once."""


class Windows:
    """A source's tokens as windows of `sequence` + 1 tokens, read from memory-mapped shards.

    Args:
        shards: token arrays, each of shape (tokens,).
        sequence: tokens a sample trains on; neighbouring windows share one token.

    Raises:
        TrainingError: when not even one window fits.
    """

    def __init__(self, shards: Sequence[NDArray[np.unsignedinteger]], sequence: int) -> None:
        self.shards = [s for s in shards if len(s) > sequence]
        counts = [(len(s) - 1) // sequence for s in self.shards]
        self.ends = np.cumsum(counts, dtype=np.int64) if counts else np.zeros(1, np.int64)
        self.sequence = sequence
        self.count = int(self.ends[-1])
        if not self.count:
            raise TrainingError(
                f"tokens: {sum(len(s) for s in shards)} tokens hold no sequence of {sequence}",
                hint="lower the phase's sequence or give the source more text",
            )

    def read(self, numbers: Ints) -> Ints:
        """Windows by number: (n,) -> (n, sequence + 1) token ids."""
        out = np.empty((len(numbers), self.sequence + 1), np.int64)
        shard_of = np.searchsorted(self.ends, numbers, side="right")
        offsets = np.arange(self.sequence + 1)
        for index in np.unique(shard_of):
            mine = shard_of == index
            first = self.ends[index - 1] if index else 0
            starts = (numbers[mine] - first) * self.sequence
            out[mine] = self.shards[index][starts[:, None] + offsets]
        return out


@dataclass(frozen=True)
class _Stream:
    """One source's part of a phase: where sample number j of this source lies."""

    windows: Windows
    pool: int
    key: int
    first_epoch: int
    begun: int
    """Samples that earlier phases took from the same pool: it goes on from there."""

    def numbers(self, ranks: Ints) -> Ints:
        """Window numbers of this source's samples `ranks`: (n,) -> (n,)."""
        epochs, positions = np.divmod(ranks + self.begun, self.pool)
        inside = permute(positions, self.pool, _key(self.key, "epoch"), epochs + self.first_epoch)
        if self.pool == self.windows.count:
            return inside
        return permute(inside, self.windows.count, _key(self.key, "pool"), np.zeros_like(epochs))


class PhaseData:
    """The batches of one phase.

    Args:
        phase: mixture, tokens, batch and sequence.
        tokens: shards by content address, as `sources` opens them.
        seed: decides pools and orders.
        before: the run's phases before this one. A source that they drew on from the same pool, in
            windows as long, goes on where they left it; otherwise its order is one of its own.

    Raises:
        TrainingError: when a source of the mixture would get no sample at all.
    """

    def __init__(
        self,
        phase: Phase,
        tokens: Mapping[str, Sequence[NDArray[np.unsignedinteger]]],
        *,
        seed: int,
        before: Sequence[Phase] = (),
    ) -> None:
        self.phase = phase
        samples = phase.tokens // phase.sequence
        self.counts = counts_of(phase)
        self.streams = []
        for portion, count in zip(phase.mixture, self.counts, strict=True):
            if not count:
                raise TrainingError(
                    f"source `{portion.source}`: share {portion.share} of {samples} samples "
                    "rounds to none",
                    hint="raise its share or the phase's tokens",
                )
            windows = Windows(tokens[portion.content], phase.sequence)
            pool = windows.count
            if portion.pool is not None:
                pool = min(pool, max(1, portion.pool // phase.sequence))
            first, begun = _begun(portion, phase.sequence, before)
            key = _key(seed, portion.content)
            self.streams.append(_Stream(windows, pool, key, first << 32, begun))
        self.source_of, self.rank_of = interleave(self.counts)
        self._block = -1
        self._rows = np.empty((0, 0), np.int64)

    @property
    def source_tokens(self) -> dict[str, int]:
        """Trained tokens by source over the whole phase."""
        counts: dict[str, int] = {}
        for portion, count in zip(self.phase.mixture, self.counts, strict=True):
            counts[portion.source] = counts.get(portion.source, 0) + count * self.phase.sequence
        return counts

    @property
    def unique_tokens(self) -> dict[str, int]:
        """Unique tokens by source that the whole phase sees."""
        seen: dict[str, int] = {}
        for portion, count, stream in zip(
            self.phase.mixture, self.counts, self.streams, strict=True
        ):
            unique = min(count, stream.pool) * self.phase.sequence
            seen[portion.source] = seen.get(portion.source, 0) + unique
        return seen

    @property
    def new_tokens(self) -> dict[str, int]:
        """Unique tokens by source that no earlier phase saw, as far as they draw on one pool."""
        seen: dict[str, int] = {}
        for portion, count, stream in zip(
            self.phase.mixture, self.counts, self.streams, strict=True
        ):
            last, first = (min(n, stream.pool) for n in (stream.begun + count, stream.begun))
            new = (last - first) * self.phase.sequence
            seen[portion.source] = seen.get(portion.source, 0) + new
        return seen

    def step(self, number: int) -> Ints:
        """The batch of a step: (batch, sequence + 1) token ids, inputs and next tokens."""
        first = number * self.phase.batch
        return np.concatenate([self._samples(g) for g in _blocks(first, first + self.phase.batch)])

    def _samples(self, span: tuple[int, int]) -> Ints:
        block, start = span[0] // BLOCK, span[0] // BLOCK * BLOCK
        if block != self._block:
            self._rows = self.read(start, min(start + BLOCK, len(self.source_of)))
            self._block = block
        return self._rows[span[0] - start : span[1] - start]

    def read(self, first: int, last: int) -> Ints:
        """Samples first..last (exclusive): (last - first, sequence + 1) token ids."""
        sources, ranks = self.source_of[first:last], self.rank_of[first:last]
        rows = np.empty((last - first, self.phase.sequence + 1), np.int64)
        for index in np.unique(sources):
            mine = sources == index
            stream = self.streams[index]
            rows[mine] = stream.windows.read(stream.numbers(ranks[mine]))
        return rows


def counts_of(phase: Phase) -> list[int]:
    """Samples of a phase by portion."""
    samples = phase.tokens // phase.sequence
    if all(p.tokens is not None for p in phase.mixture):
        return [(p.tokens or 0) // phase.sequence for p in phase.mixture]
    return largest_remainder([p.share for p in phase.mixture], samples)


def _begun(portion: Portion, sequence: int, before: Sequence[Phase]) -> tuple[int, int]:
    """The phase whose order a portion goes on with, and samples taken from it before."""
    first, taken = len(before), 0
    for number, phase in enumerate(before):
        if phase.sequence != sequence:
            continue
        for other, count in zip(phase.mixture, counts_of(phase), strict=True):
            if other.content == portion.content and other.pool == portion.pool:
                first, taken = min(first, number), taken + count
    return first, taken


def largest_remainder(shares: Sequence[float], total: int) -> list[int]:
    """Whole counts nearest to `shares` x `total` that sum to `total` (Hamilton's method)."""
    exact = np.asarray(shares, float) / sum(shares) * total
    counts = np.floor(exact).astype(int)
    # stable: ties go to the earlier source
    order = np.argsort(-(exact - counts), kind="stable")
    counts[order[: total - int(counts.sum())]] += 1
    return [int(c) for c in counts]


def interleave(counts: Sequence[int]) -> tuple[NDArray[np.int32], Ints]:
    """Spreads sources evenly: sample -> (source, number of that sample within its source).

    Sample j of a source with c samples belongs at (j + 1/2) / c of the phase; sorting those places
    gives each source its turn.

    Args:
        counts: samples by source, (sources,).

    Returns:
        Two arrays of shape (sum of counts,).
    """
    places = np.concatenate([(np.arange(c) + 0.5) / c for c in counts])
    sources = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    ranks = np.concatenate([np.arange(c, dtype=np.int64) for c in counts])
    order = np.argsort(places, kind="stable")
    return sources[order], ranks[order]


def permute(positions: Ints, size: int, key: int, tweaks: Ints) -> Ints:
    """Where a seeded permutation of range(size) sends each position.

    Args:
        positions: (n,) in range(size).
        size: length of the permutation.
        key: which permutation.
        tweaks: (n,) numbers of further independent permutations (epochs).

    Returns:
        (n,) positions; for fixed key and tweak a bijection of range(size).
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    shift = np.uint64(half)
    tweak = _mix(tweaks.astype(np.uint64) + np.uint64(key & 0xFFFFFFFFFFFFFFFF))
    current = positions.astype(np.uint64)
    todo = np.arange(len(positions))
    while len(todo):
        left, right = current[todo] >> shift, current[todo] & mask
        for number in range(ROUNDS):
            salted = right + (tweak[todo] ^ np.uint64(number * 0x9E3779B97F4A7C15 % 2**64))
            left, right = right, left ^ (_mix(salted) & mask)
        current[todo] = (left << shift) | right
        todo = todo[current[todo] >= size]  # outside the range: walk on along the cycle
    return current.astype(np.int64)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea & Flood, OOPSLA 2014): a good 64-bit mixer."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _key(*parts: int | str) -> int:
    text = "/".join(str(p) for p in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _blocks(first: int, last: int) -> list[tuple[int, int]]:
    """Cuts a range of samples where blocks end."""
    cuts = [first, *range((first // BLOCK + 1) * BLOCK, last, BLOCK), last]
    return list(pairwise(cuts))
