"""Scoring: loss and bits per byte of held-out text.

A target is scored whole: every token once, in windows of the run's context, the first token of all
after an end-of-text. Bits per byte divides by the bytes of the text, so that models with
different tokenizers compare: bpb = nats / (ln 2 x bytes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anneal.plan.values import Score
from anneal.training.engine import Engine
from anneal.training.loss import IGNORED


def score(
    engine: Engine,
    shards: Sequence[NDArray[np.unsignedinteger[Any]]],
    *,
    bytes_: int,
    sequence: int,
    batch: int,
    end_of_text: int,
) -> Score:
    """Scores one target.

    Args:
        engine: holds the model.
        shards: the target's tokens, in order.
        bytes_: UTF-8 bytes of its text.
        sequence: tokens of context.
        batch: windows at once.
        end_of_text: token id given before the first token.
    """
    tokens = np.concatenate([np.asarray(s, np.int64) for s in shards])
    inputs, labels = windows(tokens, sequence=sequence, batch=batch, end_of_text=end_of_text)
    nats = 0.0
    for at in range(0, len(inputs), batch):
        part = slice(at, at + batch)
        nats += float(engine.score(torch.from_numpy(inputs[part]), torch.from_numpy(labels[part])))
    return Score(
        loss=nats / len(tokens),
        bpb=nats / (math.log(2) * bytes_),
        tokens=len(tokens),
        bytes=bytes_,
    )


def windows(
    tokens: NDArray[np.int64], *, sequence: int, batch: int, end_of_text: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cuts tokens into whole batches of windows: inputs and labels, (windows, sequence) each.

    The last window is filled up with labels `IGNORED`, so that one shape serves throughout.
    """
    rows = -(-len(tokens) // sequence)
    rows = -(-rows // batch) * batch
    labels = np.full(rows * sequence, IGNORED, np.int64)
    labels[: len(tokens)] = tokens
    inputs = np.full(rows * sequence, end_of_text, np.int64)
    inputs[1 : len(tokens)] = tokens[:-1]
    return inputs.reshape(rows, sequence), labels.reshape(rows, sequence)
