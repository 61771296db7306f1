"""Annotators: what scores a text, what learning it did cost, and what one must be able to do.

An annotator either learns from examples (`linear`, and the `encoder` of `neural`) or was trained
elsewhere (`hf`). Of the examples a fifth is held out by a hash of the text, so that copies of one
text are never on both sides, and gives the ROC-AUC.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from anneal.curation.ranking import Auc

Floats = npt.NDArray[np.float64]

VERSION = 1
"""Raised when the same model and settings give other scores: known ones are then forgotten."""


class Annotator(Protocol):
    """Something that scores texts."""

    @property
    def key(self) -> str:
        """Address of everything that decides a score."""

    @property
    def on_device(self) -> bool:
        """Whether the work is a GPU's, whose seconds the processor's clock does not see."""

    def score(self, texts: Sequence[str]) -> tuple[Floats, Floats]:
        """(Scores, FLOPs spent on each), both (texts,)."""

    def probability(self, scores: Floats) -> Floats:
        """Scores as `Annotate.threshold` has them."""


@dataclass
class Spent:
    """Seconds of some work: as they are charged, and the part the processor's clock missed."""

    seconds: float = 0.0
    unseen: float = 0.0

    @contextmanager
    def timing(self, *, device: bool) -> Iterator[None]:
        """Adds what the body takes: processor seconds, or on a device those on the wall."""
        wall, processor = time.perf_counter(), time.process_time()
        yield
        seen = time.process_time() - processor
        taken = time.perf_counter() - wall if device else seen
        self.seconds += taken
        self.unseen += taken - seen

    def add_known(self, seconds: Floats) -> None:
        """Adds what rows that are known already did cost when they were made."""
        self.seconds += float(seconds.sum())
        self.unseen += float(seconds.sum())


@dataclass(frozen=True)
class Learned:
    """An annotator with what learning it did cost and how well it tells held-out examples apart.

    Args:
        annotator: ready to score.
        auc: on the fifth of the examples that was held out.
        other: scores of those of them that are not good.
        flops: of learning.
        spent: seconds of learning; those of rows that were known count as unseen.
    """

    annotator: Annotator
    auc: Auc
    other: Floats
    flops: float
    spent: Spent


def text_key(salt: str, text: str) -> int:
    """A number that is random in effect and the same for the same text everywhere."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=salt.encode()[:16]).digest()
    return int.from_bytes(digest, "big")


def halves(
    good: list[str], other: list[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """(1 for good and 0 for other, whether an example is held out), both (examples,)."""
    labels = np.array([1] * len(good) + [0] * len(other))
    # by content, not by position: copies of a document must not be on both sides
    held = np.array([text_key("held", text) % 5 == 0 for text in good + other])
    if len(set(labels[held])) < 2:
        held = np.arange(len(labels)) % 5 == 0
    return labels, held


def sigmoid(values: Floats) -> Floats:
    """Log-odds as probabilities."""
    from scipy.special import expit

    found: Floats = expit(values)
    return found
