"""Signatures on disk: which documents are nearly equal, found without all of them in memory.

A signature of p MinHash values is cut into b bands of r rows; documents that share a whole band are
a candidate pair, which happens with probability 1 - (1 - J^r)^b at Jaccard similarity J, and only
for those is the similarity estimated from all p values (standard error sqrt(J (1 - J) / p), 0.035
at 0.8). r is as large as finding pairs at the threshold allows.

A table of bands in memory would cost more than a kilobyte a document. Here bands are 64-bit numbers
in a file; one band of all documents at a time is read and sorted, equal neighbours are the pairs.
Where very many documents share a band (templates), each is compared with the first few and the last
few before it. Signatures are kept as their low 16 bits, in which two different values agree once in
65,536 times (b-bit MinHash, Li and Koenig, arXiv 0910.3349).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anneal.curation.shingles import Hashes

RECALL = 0.99
"""Least probability that a pair right at the threshold becomes a candidate."""
NEIGHBOURS = 16
"""Documents with an equal band that one is compared with: the first and the last before it."""
BLOCK_BYTES = 2**22
"""Band numbers that are written at once."""
PAIRS = 2**14
"""Pairs compared at once."""
SEED = 42

Numbers = npt.NDArray[np.int64]


def minhash(hashes: Hashes, offsets: Numbers, permutations: int) -> npt.NDArray[np.uint32]:
    """MinHash signatures of sets of hashes; shape (sets, permutations).

    Args:
        hashes: members of all sets, one set after another.
        offsets: where sets begin, and the end; shape (sets + 1,).
        permutations: values of a signature.
    """
    from rensa import RMinHash

    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        hashes, offsets.astype(np.uint64), permutations, SEED
    )
    return np.array(matrix.to_rows(), dtype=np.uint32).reshape(-1, permutations)


def band_rows(jaccard: float, permutations: int) -> int:
    """Most rows a band can have so that a pair at the threshold is found with odds `RECALL`."""
    for rows in range(permutations, 1, -1):
        if 1 - (1 - jaccard**rows) ** (permutations // rows) >= RECALL:
            return rows
    return 1


class SignatureFile:
    """Signatures of documents in the order of adding, and the pairs among them.

    Args:
        folder: where two files are kept.
        jaccard: similarity from which two documents are near duplicates.
        permutations: values of a signature.
    """

    def __init__(self, folder: Path, jaccard: float, permutations: int) -> None:
        self.jaccard = jaccard
        self.permutations = permutations
        self.rows = band_rows(jaccard, permutations)
        self.bands = permutations // self.rows
        self.signatures = folder / "signatures"
        self.keys = folder / "bands"
        self.block = max(1024, BLOCK_BYTES // (8 * self.bands))
        self.size = 0
        self._waiting: list[npt.NDArray[np.uint64]] = []
        for path in (self.signatures, self.keys):
            path.touch()

    def add(self, signatures: npt.NDArray[np.uint32]) -> None:
        """Adds signatures, shape (documents, permutations)."""
        with open(self.signatures, "ab") as file:
            file.write(signatures.astype("<u2").tobytes())
        rows = signatures[:, : self.bands * self.rows].reshape(-1, self.bands, self.rows)
        keys = np.zeros(rows.shape[:2], dtype=np.uint64)
        for i in range(self.rows):
            keys = (keys ^ (keys >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15) + rows[:, :, i]
        self._waiting.append(keys)
        self.size += len(signatures)
        self._write_keys(self.block)

    def copies(self, first: int) -> tuple[Numbers, npt.NDArray[np.float32]]:
        """For each document: the number of an earlier one that stays and is nearly equal, or -1;
        and their estimated similarity.

        Documents before `first` all stay. Of several originals it is the first.
        """
        self._write_keys(1)
        copy_of = np.full(self.size, -1, dtype=np.int64)
        similarity = np.zeros(self.size, dtype=np.float32)
        later, earlier, similar = self._similar(first)
        for j, i, s in zip(later.tolist(), earlier.tolist(), similar.tolist(), strict=True):
            if copy_of[j] < 0 and copy_of[i] < 0:
                copy_of[j], similarity[j] = i, s
        return copy_of, similarity

    def _similar(self, first: int) -> tuple[Numbers, Numbers, npt.NDArray[np.float32]]:
        """Pairs at the threshold or above, (later, earlier, similarity), in the order of later."""
        codes = np.zeros(0, dtype=np.int64)  # later * size + earlier: sorted as pairs should be
        similar = np.zeros(0, dtype=np.float32)
        with open(self.signatures, "rb") as file:
            for band in range(self.bands):
                pairs = _candidates(self._band(band), first)
                pairs = pairs[~np.isin(pairs, codes)]
                for begin in range(0, pairs.size, PAIRS):
                    part = pairs[begin : begin + PAIRS]
                    agreement = self._agreement(file.fileno(), *np.divmod(part, self.size))
                    near = agreement >= self.jaccard
                    codes = np.concatenate((codes, part[near]))
                    similar = np.concatenate((similar, agreement[near]))
        order = np.argsort(codes)
        later, earlier = np.divmod(codes[order], self.size)
        return later, earlier, similar[order]

    def _agreement(self, file: int, one: Numbers, other: Numbers) -> npt.NDArray[np.float32]:
        """Shares of equal values. Rows are read, not mapped: pages of a map would stay."""
        width = 2 * self.permutations
        numbers, places = np.unique(np.concatenate((one, other)), return_inverse=True)
        data = b"".join(os.pread(file, width, width * number) for number in numbers.tolist())
        rows = np.frombuffer(data, dtype="<u2").reshape(-1, self.permutations)
        equal = rows[places[: one.size]] == rows[places[one.size :]]
        return np.asarray(equal.mean(axis=1, dtype=np.float32))

    def _write_keys(self, least: int) -> None:
        """Appends the keys that wait in blocks, each band by band, while `least` wait."""
        if (count := sum(map(len, self._waiting))) < least:
            return
        keys = np.concatenate(self._waiting)
        whole = count if least < self.block else count - count % self.block
        with open(self.keys, "ab") as file:
            for begin in range(0, whole, self.block):
                file.write(keys[begin : min(whole, begin + self.block)].T.tobytes())
        self._waiting = [keys[whole:]]

    def _band(self, band: int) -> Hashes:
        """Keys of one band of all documents, shape (documents,)."""
        keys = np.empty(self.size, dtype=np.uint64)
        with open(self.keys, "rb") as file:
            for begin in range(0, self.size, self.block):
                count = min(self.block, self.size - begin)
                file.seek(8 * (begin * self.bands + band * count))
                keys[begin : begin + count] = np.fromfile(file, dtype=np.uint64, count=count)
        return keys


def _candidates(keys: Hashes, first: int) -> Numbers:
    """Pairs of documents with equal keys, as later * documents + earlier; later from `first`."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    equal = keys[1:] == keys[:-1]
    places = np.flatnonzero(equal) + 1
    begins = np.concatenate(([0], np.flatnonzero(~equal) + 1))
    begin = begins[np.searchsorted(begins, places, side="right") - 1]
    depth = places - begin
    found = [np.zeros(0, dtype=np.int64)]
    for k in range(NEIGHBOURS):
        for deep, earlier in (
            (depth > k, places - 1 - k),
            (depth > NEIGHBOURS + k, begin + k),
        ):
            one, other = order[earlier[deep]], order[places[deep]]
            found.append((other * keys.size + one)[other >= first])
    return np.concatenate(found)
