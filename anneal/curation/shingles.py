"""Shingles: a text as the set of its overlapping word n-grams, each a 64-bit number.

Duplicates, contamination and quality are all judged on word n-grams, over every byte of every
source, so this must run at memory speed: everything is an array operation, no Python loop over
words. A word is a run of letters, digits, underscores and bytes above 127 (so any other script),
lower-cased where ASCII; scripts without spaces make one word of a run between punctuation.

Words hash as polynomials in their bytes modulo 2^64. With the prefix sums H of b_i B^i, the word
in [s, e) is (H_e - H_s) B^-s: B is odd, so its inverse exists. A finaliser (splitmix64, Steele et
al. 2014) then spreads the bits, and an n-gram is a polynomial in its words' hashes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

_BASE = 0x9E3779B97F4A7C15  # odd: the golden ratio in 64 bits
_INVERSE = pow(_BASE, -1, 2**64)
_WORD = np.zeros(256, dtype=bool)
_WORD[[*b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"]] = True
_WORD[128:] = True
_LOWER = np.arange(256, dtype=np.uint64)
_LOWER[65:91] += 32


def words(text: str) -> Hashes:
    """Hashes of the words of `text`, in order; shape (words,)."""
    data = np.frombuffer(text.encode(), dtype=np.uint8)
    if not data.size:
        return np.zeros(0, dtype=np.uint64)
    inside = np.concatenate(([False], _WORD[data], [False]))
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, ends = edges[::2], edges[1::2]
    terms = (_LOWER[data] + np.uint64(1)) * _powers(_BASE, data.size)
    prefix = np.concatenate((np.zeros(1, dtype=np.uint64), np.cumsum(terms, dtype=np.uint64)))
    hashes = (prefix[ends] - prefix[starts]) * _powers(_INVERSE, data.size)[starts]
    return _mix(hashes)


def ngrams(hashes: Hashes, n: int) -> Hashes:
    """Hashes of the n-grams of consecutive words, in order; a shorter text is one n-gram.

    Shape (max(1, words - n + 1),); a text without words gives the hash of nothing.
    """
    n = min(n, hashes.size)
    total = np.zeros(max(1, hashes.size - n + 1), dtype=np.uint64)
    for i in range(n):
        total = total * np.uint64(_BASE) + hashes[i : hashes.size - n + 1 + i]
    return _mix(total + np.uint64(n))


def shingles(text: str, n: int) -> Hashes:
    """The sorted set of n-gram hashes of `text`; shape (distinct n-grams,), never empty."""
    return np.unique(ngrams(words(text), n))


_cache: dict[int, Hashes] = {}


def _powers(base: int, count: int) -> Hashes:
    """base^0 ... base^(count - 1) modulo 2^64, remembered up to the longest text seen."""
    known = _cache.get(base)
    if known is None or known.size < count:
        factors = np.full(1 << (count - 1).bit_length(), base, dtype=np.uint64)
        factors[0] = 1
        known = _cache[base] = np.cumprod(factors, dtype=np.uint64)
    return known[:count]


def _mix(x: Hashes) -> Hashes:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
