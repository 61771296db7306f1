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

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

_BASE = 0x9E3779B97F4A7C15  # odd: the golden ratio in 64 bits
_INVERSE = pow(_BASE, -1, 2**64)
_LETTERS = bytes(
    byte if byte > 127 or chr(byte).isalnum() or byte == ord("_") else 0
    for byte in bytes(range(256)).lower()
)
"""What each byte counts as: lower case, and 0 where it is in no word."""
_BLOCK = 2**16
"""Bytes hashed at once."""


def words(text: str) -> Hashes:
    """Hashes of the words of `text`, in order; shape (words,)."""
    return _words(text.encode())[0]


def ngrams(hashes: Hashes, n: int) -> Hashes:
    """Hashes of the n-grams of consecutive words, in order; a shorter text is one n-gram.

    Shape (max(1, words - n + 1),); a text without words gives the hash of nothing. The time does
    not depend on n.
    """
    n = min(n, hashes.size)
    if not n:
        return _mix(np.zeros(1, dtype=np.uint64))
    # sum of h_(i+k) B^(n-1-k) over k < n, as a difference of prefix sums of h_j B^-j
    prefix = np.zeros(hashes.size + 1, dtype=np.uint64)
    np.cumsum(hashes * _powers(_INVERSE, hashes.size), out=prefix[1:])
    total = (prefix[n:] - prefix[:-n]) * _powers(_BASE, hashes.size)[n - 1 :]
    return _mix(total + np.uint64(n))


def batch_ngrams(texts: Sequence[str], n: int) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """`ngrams(words(text), n)` of every text, one after another, and where each begins.

    One pass over all of the texts: short documents cost little more than their bytes.

    Returns:
        Hashes, shape (n-grams,), and offsets, shape (texts + 1,): text i has [offsets[i],
        offsets[i + 1]).
    """
    encoded = [text.encode() for text in texts]
    # a newline is in no word, so words of neighbours stay apart
    hashes, places = _words(b"\n".join(encoded))
    lengths = np.array([len(data) + 1 for data in encoded], dtype=np.int64)
    begins = np.concatenate(([0], np.searchsorted(places, np.cumsum(lengths))))
    sizes = np.diff(begins)
    counts = np.maximum(1, sizes - n + 1)
    offsets = np.concatenate(([0], np.cumsum(counts)))
    found = np.empty(offsets[-1], dtype=np.uint64)
    long = sizes >= n
    if long.any():
        rolling = ngrams(hashes, n)
        # of the rolling n-grams, those that begin and end in one text
        turns = np.zeros(rolling.size + 1, dtype=np.int8)
        turns[begins[:-1][long]] += 1
        turns[(begins[:-1] + counts)[long]] -= 1
        inside = np.cumsum(turns[:-1], dtype=np.int8).astype(bool)
        found[np.repeat(long, counts)] = rolling[inside]
    for i in np.flatnonzero(~long):
        found[offsets[i]] = ngrams(hashes[begins[i] : begins[i + 1]], n)[0]
    return found, offsets


def shingles(text: str, n: int) -> Hashes:
    """The sorted set of n-gram hashes of `text`; shape (distinct n-grams,), never empty."""
    return np.unique(ngrams(words(text), n))


def _words(data: bytes) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Hashes of the words in `data` and the bytes at which they begin, block by block.

    A block ends behind a byte that is in no word; what is made of it stays in the cache.
    """
    hashes, places = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.int64)]
    data = data.translate(_LETTERS)
    begin = 0
    while begin < len(data):
        end = data.find(0, begin + _BLOCK) + 1 or len(data)
        block = np.frombuffer(data, dtype=np.uint8, count=end - begin, offset=begin)
        inside = np.zeros(block.size + 2, dtype=bool)
        np.not_equal(block, 0, out=inside[1:-1])
        edges = np.flatnonzero(inside[1:] != inside[:-1])
        starts, ends = edges[::2], edges[1::2]
        prefix = np.zeros(block.size + 1, dtype=np.uint64)
        np.cumsum(block * _powers(_BASE, block.size), out=prefix[1:])
        hashes.append(_mix((prefix[ends] - prefix[starts]) * _powers(_INVERSE, block.size)[starts]))
        places.append(starts + begin)
        begin = end
    return np.concatenate(hashes), np.concatenate(places)


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
