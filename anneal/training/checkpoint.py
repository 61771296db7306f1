"""Checkpoints: folders that appear whole, without pickles.

A checkpoint holds fp32 weights, Adam's moments and where the run stood; the data order and the
learning rate need nothing stored, they follow from the step. A folder is written under a
temporary name and renamed, so a kill during a save leaves the checkpoint before it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from anneal.store import read_value, write_value, writing
from anneal.training.tensors import read_tensors, write_tensors
from anneal.values import Value

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEPT = 2
"""Checkpoints of a run that are kept while it runs: the newest, and one before it."""


class Progress(Value):
    """Where a run stood."""

    phase: int
    """Index of the phase."""
    step: int
    """Steps of this phase done."""
    tail_loss: float = 0.0
    """Sum of the training losses of the run's last tenth so far."""
    tail_steps: int = 0
    train_seconds: float = 0.0
    resumed: int = 0


def save(
    run: Path, progress: Progress, weights: dict[str, Tensor], moments: dict[str, Tensor]
) -> None:
    """Writes a checkpoint below the run's folder and deletes all but the newest `KEPT`."""
    name = f"checkpoint-{progress.phase:02d}-{progress.step:09d}"
    folder = run / name
    if folder.exists():
        return
    with writing(folder) as temporary:
        write_tensors(weights, temporary / "model.safetensors")
        write_tensors(moments, temporary / "optimiser.safetensors")
        write_value(temporary / "progress.json", progress)
    for old in checkpoints(run)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def checkpoints(run: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    return sorted(run.glob("checkpoint-*"))


def load(folder: Path) -> tuple[Progress, dict[str, Tensor], dict[str, Tensor]]:
    """Reads a checkpoint.

    Raises:
        StoreError: when one of its files is missing or damaged.
    """
    progress = read_value(folder / "progress.json", Progress)
    return (
        progress,
        read_tensors(folder / "model.safetensors"),
        read_tensors(folder / "optimiser.safetensors"),
    )


def discard(run: Path) -> None:
    """Deletes a finished run's checkpoints."""
    for folder in checkpoints(run):
        shutil.rmtree(folder, ignore_errors=True)


def save_weights(
    folder: Path, model: PreTrainedModel, weights: dict[str, Tensor], moments: dict[str, Tensor]
) -> None:
    """Writes final weights (fp32) as a Hugging Face model folder, with Adam's moments beside."""
    if folder.exists():
        return
    with writing(folder) as temporary:
        config = model.config.to_dict() | {"dtype": "float32"}
        type(model.config).from_dict(config).save_pretrained(temporary)
        write_tensors(weights, temporary / "model.safetensors")
        write_tensors(moments, temporary / "optimiser.safetensors")


def load_weights(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and moments as `save_weights` left them."""
    return read_tensors(folder / "model.safetensors"), read_tensors(
        folder / "optimiser.safetensors"
    )
