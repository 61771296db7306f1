"""Decontamination: nothing that a run is scored on may be in what it was trained on.

A held-out split keeps whole groups apart, but text travels: packages carry copies of the standard
library, READMEs quote each other, forums quote test questions. So every document of every source is
compared with every target, guard and benchmark file, by exact overlap of word n-grams (13 words,
as GPT-3 and its successors do).

Two shares are looked at: how much of the document occurs in the targets (an excerpt or an edited
copy), and how much of any single target document occurs in it (a bundle that contains it). Near
duplicates in the sense of Jaccard similarity J have both shares above J, so they are all found.

Where neither share is large but n-grams touch, the longest common run of words decides. The run
need not be found: whether one of L words exists is whether the two texts have an L-gram in common,
and L follows from the lengths of the two. Both questions are array operations, and all but the few
documents that touch a target pass after one look into a table of bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from anneal.curation.benchmarks import benchmark_documents
from anneal.curation.chain import Context, Tally
from anneal.curation.dedup import batches
from anneal.curation.shingles import Hashes, batch_ngrams, ngrams, words
from anneal.curation.steps import Decontaminate
from anneal.sources.documents import Document, read_documents

Mask = npt.NDArray[np.bool_]


def decontaminate(
    stream: Iterable[Document], step: Decontaminate, context: Context, tally: Tally
) -> Iterator[Document]:
    """Streams the documents that do not overlap the targets; counts the others by reason."""
    names: list[tuple[str, str]] = []
    index = TargetIndex(_texts(step, context, names), step.ngram)
    tally.notes["compared_with_documents"] = len(names)
    for batch in batches(stream):
        overlaps = index.overlaps([document.text for document in batch])
        for document, overlap in zip(batch, overlaps, strict=True):
            reason, number, share = _verdict(document.text, overlap, index, step)
            if reason:
                target, name = names[number]
                tally.drop(
                    document, reason, target=target, target_document=name, share=round(share, 4)
                )
            else:
                yield document


def _texts(step: Decontaminate, context: Context, names: list[tuple[str, str]]) -> Iterator[str]:
    """Texts to compare with; (target or file, document) of each goes to `names`."""
    for target, folder in context.targets.items():
        for document in read_documents(folder):
            names.append((target, document.id))
            yield document.text
    for file, document in benchmark_documents(step, context.base):
        names.append((file, document.id))
        yield document.text


def _verdict(
    text: str, overlap: Overlap, index: TargetIndex, step: Decontaminate
) -> tuple[str, int, float]:
    """(Reason to drop, number of the target document, the share that decides); "" to keep."""
    if overlap.of_document > step.max_overlap:
        return "occurs in a target", overlap.target, overlap.of_document
    if overlap.of_target > step.max_overlap:
        return "contains a target document", overlap.target, overlap.of_target
    if overlap.target >= 0:
        number = index.with_common_run(text, step.longest)
        if number >= 0:
            return "has a long run of words in common with a target", number, step.longest
    return "", -1, 0.0


class Overlap(NamedTuple):
    """What a text has in common with all target documents."""

    of_document: float = 0.0
    """Share of the text's distinct n-grams that occur in target documents."""
    of_target: float = 0.0
    """Largest share of one target document's n-grams that occur in the text."""
    target: int = -1
    """Which: the one with the most n-grams in common where `of_document` is the larger share, the
    one of `of_target` otherwise; -1 where nothing touches."""


class TargetIndex:
    """The n-grams of all target documents, and which documents each is in.

    Args:
        texts: text of every target, guard and benchmark document.
        ngram: words in an n-gram.
    """

    def __init__(self, texts: Iterable[str], ngram: int) -> None:
        self.ngram = ngram
        self.words = [words(text) for text in texts]
        sets = [np.unique(ngrams(w, ngram)) for w in self.words]
        self.sizes = np.array([len(s) for s in sets], dtype=np.int64)
        hashes = np.concatenate([np.zeros(0, dtype=np.uint64), *sets])
        order = np.argsort(hashes, kind="stable")
        self.hashes: Hashes = hashes[order]
        self.owners = np.repeat(np.arange(len(sets)), self.sizes)[order]
        # one bit in 16 or fewer is set, so most n-grams of most texts are told apart at once
        bits = min(27, max(16, (16 * hashes.size).bit_length()))
        self.mask = np.uint64(2**bits - 1)
        self.table = np.zeros(2**bits, dtype=bool)
        self.table[hashes & self.mask] = True

    def overlaps(self, texts: list[str]) -> list[Overlap]:
        """What each text has in common with the target documents."""
        found = [Overlap()] * len(texts)
        if not self.hashes.size:
            return found
        hashes, offsets = batch_ngrams(texts, self.ngram)
        places = np.flatnonzero(self.table[hashes & self.mask])
        places = places[self._known(hashes[places])]
        for i in np.unique(np.searchsorted(offsets, places, side="right") - 1):
            found[i] = self._overlap(hashes[offsets[i] : offsets[i + 1]])
        return found

    def with_common_run(self, text: str, longest: float) -> int:
        """A target document with which `text` has a run of words in common that is at least
        `longest` of the shorter of the two, and of an n-gram; -1 where there is none.
        """
        own = words(text)
        hashes, times = np.unique(ngrams(own, self.ngram), return_counts=True)
        known = self._known(hashes)
        counts = self._counts(hashes[known], times[known])
        grams: dict[int, Hashes] = {}
        for number in np.flatnonzero(counts):
            other = self.words[number]
            run = max(1, math.ceil(longest * min(own.size, other.size)))
            # a run of L words is L - n + 1 n-grams one after another
            if counts[number] < run - self.ngram + 1:
                continue
            if run <= self.ngram:  # they touch
                return int(number)
            if run not in grams:
                grams[run] = np.unique(ngrams(own, run))
            if np.isin(ngrams(other, run), grams[run]).any():
                return int(number)
        return -1

    def _known(self, hashes: Hashes) -> Mask:
        at = np.minimum(np.searchsorted(self.hashes, hashes), self.hashes.size - 1)
        return np.asarray(self.hashes[at] == hashes)

    def _counts(self, hashes: Hashes, times: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """For each target document: how often its n-grams occur among `hashes`, each `times`."""
        first = np.searchsorted(self.hashes, hashes, side="left")
        last = np.searchsorted(self.hashes, hashes, side="right")
        # an n-gram that several target documents share counts for each of them
        owners = [self.owners[a:b] for a, b in zip(first, last, strict=True)]
        found = np.concatenate([np.zeros(0, dtype=np.int64), *owners])
        weights = np.repeat(times, last - first).astype(np.float64)
        return np.asarray(np.bincount(found, weights, len(self.sizes)), dtype=np.float64)

    def _overlap(self, hashes: Hashes) -> Overlap:
        distinct = np.unique(hashes)
        hits = distinct[self._known(distinct)]
        counts = self._counts(hits, np.ones(hits.size, dtype=np.int64))
        shares = counts / self.sizes
        of_document, of_target = hits.size / distinct.size, float(shares.max())
        target = counts.argmax() if of_document >= of_target else shares.argmax()
        return Overlap(of_document, of_target, int(target))
