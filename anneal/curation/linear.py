"""Linear: logistic regression on hashed word n-grams, an annotator that costs almost nothing.

FLOPs of scoring: two (multiply, add) per feature that occurs in a text; hashing and counting are
integer work and show in the seconds only. Training: four per feature and pass over the examples
(a dot product, an update).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from anneal.curation.annotators import VERSION, Floats, Learned, Spent, halves, sigmoid
from anneal.curation.ranking import roc_auc
from anneal.curation.shingles import ngrams, words
from anneal.curation.steps import Annotate
from anneal.values import address

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

PASSES = 20
"""Passes of stochastic gradient descent over the examples."""


def learn_linear(good: list[str], other: list[str], step: Annotate) -> Learned:
    """Learns to tell `good` texts from `other` ones by their words."""
    spent = Spent()
    with spent.timing(device=False):
        from sklearn.linear_model import SGDClassifier

        labels, held = halves(good, other)
        matrix: Any = features(good + other, step)
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
        scores = model.decision_function(matrix[held])
    rest = scores[labels[held] == 0]
    return Learned(
        annotator=Linear(model.coef_[0], float(model.intercept_[0]), step),
        auc=roc_auc(scores[labels[held] == 1], rest),
        other=rest,
        flops=4.0 * PASSES * int(matrix[~held].nnz),
        spent=spent,
    )


@dataclass(frozen=True)
class Linear:
    """Log-odds from hashed n-grams.

    Args:
        weights: (features,).
        bias: of the log-odds.
        step: for the features.
    """

    weights: Floats
    bias: float
    step: Annotate
    on_device = False

    @property
    def key(self) -> str:
        head = hashlib.sha256(self.weights.tobytes()).hexdigest()
        return address(["linear", VERSION, self.step.ngrams, self.step.features, head, self.bias])

    def score(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
        matrix: Any = features(texts, self.step)
        return matrix @ self.weights + self.bias, 2.0 * np.diff(matrix.indptr)

    def probability(self, scores: Floats) -> Floats:
        return sigmoid(scores)


def features(texts: Sequence[str], step: Annotate) -> csr_matrix:
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
