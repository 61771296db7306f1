"""Deduplication: the first of equal or nearly equal documents stays.

Repeated text makes a source look larger than it is, and its epochs fewer than they are. Exact
copies are found by a hash of the text, as the stream passes. Near copies are found by MinHash: a
signature of p numbers in which two documents agree on a share equal, in expectation, to the Jaccard
similarity of their sets of word n-grams (Broder 1997); `signatures` says how pairs are found.
A near duplicate goes only where a document that stays is that near: copies of copies do not drag
each other along, as they do where the clusters of similar documents are what is kept one of.

Local: earlier in the source itself. Global: or anywhere in the sources of `after`, whose prepared
documents are looked at first and take precedence (both as SlimPajama-DC compares them, arXiv
2309.10818). Which a source needs is a question of the sweep: two sources that differ in `after`
alone are two candidates.

Memory: 8 to 30 bytes a document for the exact comparison. For the near one the documents pass
through a compressed file in the step's scratch folder, and there are about 50 bytes of memory and
500 of disk for each, whatever its length.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anneal.curation.chain import Context, Tally
from anneal.curation.shingles import batch_ngrams
from anneal.curation.signatures import SignatureFile, minhash
from anneal.curation.spool import Spool
from anneal.curation.steps import Deduplicate
from anneal.sources.documents import Document, read_documents

BATCH_CHARACTERS = 2**18
"""Text looked at together: enough to spread the cost of a call, little enough for the cache."""


def deduplicate(
    stream: Iterable[Document], step: Deduplicate, context: Context, tally: Tally
) -> Iterator[Document]:
    """Streams the documents that are no copy of an earlier one; counts the others by reason."""
    fresh = _exact(stream, step, context, tally)
    if step.jaccard < 1.0:
        # a folder of its own: a chain may deduplicate twice
        scratch = Path(tempfile.mkdtemp(dir=context.scratch))
        fresh = _near(fresh, step, context, tally, scratch)
    yield from fresh


def _exact(
    stream: Iterable[Document], step: Deduplicate, context: Context, tally: Tally
) -> Iterator[Document]:
    elsewhere, here = Seen(), Seen()
    for batch in batches(_before(step, context)):
        elsewhere.add(_digests(batch))
    for batch in batches(stream):
        digests = _digests(batch)
        known, new = elsewhere.has(digests), here.add(digests)
        for document, is_known, is_new in zip(batch, known, new, strict=True):
            if not is_new:
                tally.drop(document, "exact duplicate")
            elif is_known:
                tally.drop(document, "exact duplicate of an earlier source")
            else:
                yield document


def _near(
    stream: Iterable[Document],
    step: Deduplicate,
    context: Context,
    tally: Tally,
    scratch: Path,
) -> Iterator[Document]:
    """Two passes: sign everything on the way to a file, then read the file without the copies."""
    file, spool = SignatureFile(scratch, step.jaccard, step.permutations), Spool(scratch / "spool")

    def sign(documents: list[Document]) -> None:
        hashes, offsets = batch_ngrams([document.text for document in documents], step.ngram)
        file.add(minhash(hashes, offsets, step.permutations))

    for batch in batches(_before(step, context)):
        sign(batch)
        spool.add([replace(document, text="") for document in batch])
    first = file.size
    for batch in batches(stream):
        sign(batch)
        spool.add(batch)
    copy_of, similarity = file.copies(first)
    named = set(copy_of.tolist())
    names: dict[int, str] = {}
    for number, document in enumerate(spool):
        if number in named:
            names[number] = document.id
        if number < first:
            continue
        if (original := int(copy_of[number])) < 0:
            yield document
            continue
        where = "near duplicate" if original >= first else "near duplicate of an earlier source"
        near = round(float(similarity[number]), 4)
        tally.drop(document, where, copy_of=names[original], similarity=near)


def _before(step: Deduplicate, context: Context) -> Iterator[Document]:
    """The prepared documents of the sources that take precedence."""
    for name in step.after:
        yield from read_documents(context.upstream[name])


def batches(stream: Iterable[Document]) -> Iterator[list[Document]]:
    """Lists of documents of about `BATCH_CHARACTERS` together."""
    batch: list[Document] = []
    size = 0
    for document in stream:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _digests(batch: list[Document]) -> npt.NDArray[np.uint64]:
    """64-bit hashes of the texts, white space around them apart; shape (documents,).

    Among 10^8 documents the odds that any two differ and share one are 3 in 10,000.
    """
    data = b"".join(
        hashlib.blake2b(document.text.strip().encode(), digest_size=8).digest()
        for document in batch
    )
    return np.frombuffer(data, dtype="<u8")


class Seen:
    """A set of 64-bit numbers: a sorted array, and a small set of those that came since."""

    def __init__(self) -> None:
        self.sorted = np.zeros(0, dtype=np.uint64)
        self.recent: set[int] = set()

    def has(self, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which of `numbers` were added before; shape of `numbers`."""
        found = np.zeros(numbers.size, dtype=bool)
        if self.sorted.size:
            at = np.minimum(np.searchsorted(self.sorted, numbers), self.sorted.size - 1)
            found = self.sorted[at] == numbers
        if self.recent:
            found |= np.array([number in self.recent for number in numbers.tolist()])
        return found

    def add(self, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Adds them; True where one was not there and does not stand earlier in `numbers`."""
        new = ~self.has(numbers)
        for i in np.flatnonzero(new):
            number = int(numbers[i])
            new[i] = number not in self.recent
            self.recent.add(number)
        if len(self.recent) > max(2**16, self.sorted.size // 8):
            recent = np.fromiter(self.recent, dtype=np.uint64, count=len(self.recent))
            self.sorted = np.sort(np.concatenate((self.sorted, recent)))
            self.recent = set()
        return new
