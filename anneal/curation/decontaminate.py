"""Decontamination: nothing that a run is scored on may be in what it was trained on.

A held-out split keeps whole groups apart, but text travels: packages carry copies of the standard
library, READMEs quote each other. So every document of every source is compared with every target
and guard, by exact overlap of word n-grams (13 words, as GPT-3 and its successors do).

Two shares are looked at: how much of the document occurs in the targets (an excerpt or an edited
copy), and how much of any single target document occurs in it (a bundle that contains it). Near
duplicates in the sense of Jaccard similarity J have both shares above J, so they are all found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from anneal.curation.chain import Context, Tally
from anneal.curation.shingles import Hashes, shingles
from anneal.curation.steps import Decontaminate
from anneal.sources.documents import Document, read_documents


def decontaminate(
    stream: Iterable[Document], step: Decontaminate, context: Context, tally: Tally
) -> Iterator[Document]:
    """Streams the documents that do not overlap the targets; counts the others by reason."""
    dropped = tally.dropped
    folders = context.targets.values()
    index = TargetIndex((d.text for folder in folders for d in read_documents(folder)), step.ngram)
    for document in stream:
        of_document, of_target = index.overlap(document.text)
        if of_document > step.max_overlap:
            dropped["occurs in a target"] += 1
        elif of_target > step.max_overlap:
            dropped["contains a target document"] += 1
        else:
            yield document


class TargetIndex:
    """The n-grams of all target documents, and which documents each is in.

    Args:
        texts: text of every target and guard document.
        ngram: words in an n-gram.
    """

    def __init__(self, texts: Iterable[str], ngram: int) -> None:
        self.ngram = ngram
        sets = [shingles(text, ngram) for text in texts]
        sizes = [len(s) for s in sets]
        hashes = np.concatenate([np.zeros(0, dtype=np.uint64), *sets])
        order = np.argsort(hashes, kind="stable")
        self.hashes: Hashes = hashes[order]
        self.owners = np.repeat(np.arange(len(sets)), sizes)[order]
        self.sizes = np.array(sizes, dtype=np.int64)

    def overlap(self, text: str) -> tuple[float, float]:
        """(Share of the text's n-grams in targets, largest share of one target's in the text)."""
        own = shingles(text, self.ngram)
        first = np.searchsorted(self.hashes, own, side="left")
        last = np.searchsorted(self.hashes, own, side="right")
        hit = last > first
        if not hit.any():
            return 0.0, 0.0
        # an n-gram that several target documents share counts for each of them
        owners = [self.owners[a:b] for a, b in zip(first[hit], last[hit], strict=True)]
        counts = np.bincount(np.concatenate(owners), minlength=len(self.sizes))
        return float(hit.mean()), float((counts / self.sizes).max())
