"""The real training worker on a device that holds `CROWDED` sequences at once, and no more.

Started in place of `python -m anneal` (`python -m tests.training.crowded run --serve`).
"""

from __future__ import annotations

import os
import sys

import torch

from anneal.plan.protocol import serve
from anneal.training.engine import TorchEngine
from anneal.training.worker import Worker

MOST = int(os.environ.get("CROWDED", "1"))
hidden = TorchEngine._hidden


def crowded(engine: TorchEngine, inputs):
    if len(inputs) > MOST:
        raise torch.OutOfMemoryError(f"CUDA out of memory: {len(inputs)} sequences")
    return hidden(engine, inputs)


if __name__ == "__main__":
    TorchEngine._hidden = crowded
    worker = Worker()
    sys.exit(serve(worker, warm=lambda: worker.warm(None)))
