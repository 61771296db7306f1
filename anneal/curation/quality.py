"""Quality: a linear annotator scores every candidate, and the best are kept.

The recipe is Arctic-SnowCoder's (arXiv 2409.02326, section 2.2): learn to tell documents known to
be good from random documents of the candidate pool, rank the pool, keep the top. The classifier is
logistic regression on hashed word n-grams, so that scoring costs almost nothing; whether it costs
*nothing that matters* is what the meter is for.

What is metered. Scoring touches every candidate, kept or not, so its seconds and FLOPs are charged
to the tokens that are kept. FLOPs of scoring: two (multiply, add) per feature that occurs in a
document; hashing and counting are integer work and show in the seconds only. Training the annotator
is the fixed cost: per pass over the examples, four FLOPs per feature (a dot product, an update).
A fifth of the examples is held out of training and gives the ROC-AUC that the report shows.
"""

from __future__ import annotations

import hashlib
import heapq
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from anneal.curation.chain import Context, Tally
from anneal.curation.shingles import ngrams, words
from anneal.curation.steps import Annotate
from anneal.errors import SourceError
from anneal.sources.documents import (
    DOCUMENTS_FILE,
    Document,
    read_documents,
    write_documents,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

PASSES = 20
"""Passes of stochastic gradient descent over the examples."""


def annotate(
    stream: Iterable[Document], step: Annotate, context: Context, tally: Tally
) -> Iterator[Document]:
    """Trains the annotator, scores all of `stream` and gives back the best of it, in order.

    Candidates are spooled to disk in between, so memory holds a sample and one score a document.

    Raises:
        SourceError: when there are too few documents to learn from.
    """
    assert step.positives is not None and step.keep is not None
    negatives = _Sample(step.examples, f"negative/{step.seed}")
    sizes: list[int] = []

    def watched() -> Iterator[Document]:
        for document in stream:
            negatives.see(document)
            sizes.append(len(document.text.encode()))
            yield document

    write_documents(context.scratch / DOCUMENTS_FILE, watched())
    good = _Sample(step.examples, f"positive/{step.seed}")
    for document in read_documents(context.upstream[step.positives]):
        good.see(document)
    if min(len(good.texts), len(negatives.texts)) < 20:
        raise SourceError(
            f"annotator: {len(good.texts)} positives and {len(negatives.texts)} candidates,"
            " at least 20 of each are needed",
            hint=f"give `{step.positives}` and the annotated source more documents",
        )
    started = time.process_time()
    weights, bias, auc, trained = _train(good.texts, negatives.texts, step)
    tally.seconds_fixed = time.process_time() - started
    tally.flops_fixed = 4.0 * PASSES * trained

    scores = np.empty(len(sizes))
    candidates = read_documents(context.scratch)
    for start in range(0, len(sizes), 256):
        batch = features([d.text for d in islice(candidates, 256)], step)
        scores[start : start + batch.shape[0]] = batch @ weights + bias
        tally.flops += 2.0 * batch.nnz
    kept = best(scores, np.array(sizes), step.keep)
    tally.dropped["low quality score"] += int((~kept).sum())
    tally.notes |= {
        "annotator": "logistic regression on hashed word n-grams",
        "positives": step.positives,
        "annotator_roc_auc": round(auc, 4),
        "annotator_examples": len(good.texts) + len(negatives.texts),
        "keep_asked": step.keep,
        "keep_bytes": round(float(np.array(sizes)[kept].sum() / sum(sizes)), 4),
    }
    for document, keep in zip(read_documents(context.scratch), kept, strict=True):
        if keep:
            yield document


def features(texts: list[str], step: Annotate) -> csr_matrix:
    """Hashed n-gram features, shape (texts, step.features): log counts, rows of length 1."""
    from scipy.sparse import csr_matrix

    columns, values, offsets = [], [], [0]
    for text in texts:
        hashes = words(text)
        grams = np.concatenate([ngrams(hashes, n) for n in range(1, step.ngrams + 1)])
        buckets, counts = np.unique(grams % np.uint64(step.features), return_counts=True)
        row = np.log1p(counts)
        columns.append(buckets.astype(np.int32))
        values.append(row / np.sqrt(row @ row))
        offsets.append(offsets[-1] + len(buckets))
    return csr_matrix(
        (np.concatenate(values), np.concatenate(columns), np.array(offsets)),
        shape=(len(texts), step.features),
    )


def best(
    scores: npt.NDArray[np.float64], sizes: npt.NDArray[np.int64], share: float
) -> npt.NDArray[np.bool_]:
    """Which documents to keep: highest scores first, until `share` of the bytes is reached."""
    order = np.argsort(-scores, kind="stable")
    before = np.cumsum(sizes[order]) - sizes[order]
    kept = np.zeros(len(scores), dtype=bool)
    kept[order[before < share * sizes.sum()]] = True
    return kept


def _train(
    good: list[str], other: list[str], step: Annotate
) -> tuple[npt.NDArray[np.float64], float, float, int]:
    """(weights, bias, held-out ROC-AUC, features seen in one pass)."""
    from sklearn.linear_model import SGDClassifier
    from sklearn.metrics import roc_auc_score

    texts = good + other
    labels = np.array([1] * len(good) + [0] * len(other))
    matrix: Any = features(texts, step)
    # by content, not by position: copies of a document must not be on both sides
    held = np.array([_key("held", text) % 5 == 0 for text in texts])
    if len(set(labels[held])) < 2:
        held = np.arange(len(texts)) % 5 == 0
    model = SGDClassifier(
        loss="log_loss",
        alpha=1e-5,
        max_iter=PASSES,
        tol=None,
        class_weight="balanced",
        random_state=step.seed,
        average=True,
    )
    model.fit(matrix[~held], labels[~held])
    auc = float(roc_auc_score(labels[held], model.decision_function(matrix[held])))
    return model.coef_[0], float(model.intercept_[0]), auc, int(matrix[~held].nnz)


class _Sample:
    """A uniform sample of a stream's distinct texts: those with the smallest hashes."""

    def __init__(self, size: int, salt: str) -> None:
        self.size = size
        self.salt = salt
        self.heap: list[tuple[int, str]] = []

    def see(self, document: Document) -> None:
        item = (-_key(self.salt, document.text), document.text)
        if len(self.heap) < self.size:
            heapq.heappush(self.heap, item)
        elif item > self.heap[0]:
            heapq.heapreplace(self.heap, item)

    @property
    def texts(self) -> list[str]:
        return [text for _, text in sorted(self.heap, reverse=True)]


def _key(salt: str, text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=salt.encode()[:16]).digest()
    return int.from_bytes(digest, "big")
