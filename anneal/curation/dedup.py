"""Deduplication: the first of equal or nearly equal documents stays.

Repeated text makes a source look larger than it is, and its epochs fewer than they are. Exact
copies are found by a hash of the text. Near copies are found by MinHash: a signature of p numbers
in which two documents agree on a share equal, in expectation, to the Jaccard similarity of their
sets of word n-grams (Broder 1997). Signatures are cut into b bands of r rows; documents that share
a whole band are candidates, which happens with probability 1 - (1 - J^r)^b, and only for those is
the similarity estimated from all p numbers (standard error sqrt(J (1 - J) / p), 0.035 at 0.8).

Signatures come from `rensa`; the index is a table per band. Memory grows with the documents kept
(4 p bytes and b table entries each), not with their text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt

from anneal.curation.chain import Context, Tally
from anneal.curation.shingles import Hashes, ngrams, words
from anneal.curation.steps import Deduplicate
from anneal.sources.documents import Document

RECALL = 0.99
"""Least probability that a pair right at the threshold becomes a candidate."""


def deduplicate(
    stream: Iterable[Document], step: Deduplicate, context: Context, tally: Tally
) -> Iterator[Document]:
    """Streams the documents that are no copy of an earlier one; counts the others by reason."""
    dropped = tally.dropped
    exact: set[bytes] = set()
    near = NearIndex(step.jaccard, step.permutations)
    documents = iter(stream)
    while batch := list(islice(documents, 256)):
        fresh = []
        for document in batch:
            digest = hashlib.blake2b(document.text.strip().encode(), digest_size=16).digest()
            if digest in exact:
                dropped["exact duplicate"] += 1
            else:
                exact.add(digest)
                fresh.append(document)
        if step.jaccard >= 1.0:
            yield from fresh
            continue
        signatures = minhash([ngrams(words(d.text), step.ngram) for d in fresh], step.permutations)
        for document, signature in zip(fresh, signatures, strict=True):
            if near.add(signature):
                yield document
            else:
                dropped["near duplicate"] += 1


class NearIndex:
    """Signatures seen so far, found again by locality-sensitive hashing.

    Args:
        jaccard: similarity from which two documents are near duplicates.
        permutations: numbers in a signature.
    """

    def __init__(self, jaccard: float, permutations: int) -> None:
        self.jaccard = jaccard
        self.rows = band_rows(jaccard, permutations)
        self.tables: list[dict[bytes, list[int]]] = [{} for _ in range(permutations // self.rows)]
        self.kept = np.empty((1024, permutations), dtype=np.uint32)
        self.size = 0

    def add(self, signature: npt.NDArray[np.uint32]) -> bool:
        """Adds a signature, shape (permutations,); False and not added where it has a neighbour."""
        keys = [
            signature[i * self.rows : (i + 1) * self.rows].tobytes()
            for i in range(len(self.tables))
        ]
        found = {
            n for table, key in zip(self.tables, keys, strict=True) for n in table.get(key, ())
        }
        if found:
            agreement = (self.kept[list(found)] == signature).mean(axis=1)
            if agreement.max() >= self.jaccard:
                return False
        if self.size == len(self.kept):
            self.kept = np.concatenate([self.kept, np.empty_like(self.kept)])
        self.kept[self.size] = signature
        for table, key in zip(self.tables, keys, strict=True):
            table.setdefault(key, []).append(self.size)
        self.size += 1
        return True


def band_rows(jaccard: float, permutations: int) -> int:
    """Most rows a band can have so that a pair at the threshold is found with odds `RECALL`."""
    for rows in range(permutations, 1, -1):
        if 1 - (1 - jaccard**rows) ** (permutations // rows) >= RECALL:
            return rows
    return 1


def minhash(sets: list[Hashes], permutations: int) -> npt.NDArray[np.uint32]:
    """MinHash signatures of sets of hashes; shape (sets, permutations)."""
    from rensa import RMinHash

    if not sets:
        return np.empty((0, permutations), dtype=np.uint32)
    offsets = np.cumsum([0, *map(len, sets)]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(sets), offsets, permutations, 42
    )
    return np.array(matrix.to_rows(), dtype=np.uint32)
