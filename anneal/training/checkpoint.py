"""Checkpoints: folders that appear whole.

A checkpoint holds what the engine needs to go on (weights, Adam's moments) and where the run stood;
the data order and the learning rate need nothing stored, they follow from the step. A folder is
written under a temporary name and renamed, so a kill during a save leaves the checkpoint before it.

A state that was read back is believed only when it scores as it did when it was written: `check`
is the loss on a fixed batch, and a restored run that says something else stops there instead of
training on from a state that is not its own.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anneal.errors import StoreError
from anneal.plan.means import Keep
from anneal.plan.values import Score
from anneal.store import read_value, write_value, writing
from anneal.training.tensors import read_tensors, write_tensors
from anneal.values import Value

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from anneal.training.engine import Engine

STATE_BYTES = 14
"""Of a parameter in a checkpoint: fp32 weight and moments, and a bf16 copy that DeepSpeed keeps."""
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}
"""Nats by which a restored state may score otherwise: another number of processes, or another
engine, sums in another order. A state that is not the run's own is off by far more."""


class Progress(Value):
    """Where a run stood."""

    phase: int
    """Index of the phase."""
    step: int
    """Steps of this phase done."""
    tokens: int = 0
    """Trained tokens of the run."""
    learning_rate: float = 0.0
    """Of the last step."""
    tail_loss: float = 0.0
    """Sum of the training losses of the run's last tenth so far."""
    tail_steps: int = 0
    phase_loss: float = 0.0
    """The same of the phase's last tenth."""
    phase_steps: int = 0
    phase_seconds: float = 0.0
    """Of training, in this phase."""
    start: dict[str, Score] = {}
    """Scores at the start of the phase, where a gate asks for them."""
    recent: tuple[float, ...] = ()
    """The last training losses, for the spike rule."""
    best: float | None = None
    """Best score of the aims at an evaluation so far, bits per byte."""
    check: float | None = None
    """Loss of the state on a fixed batch, nats per token."""
    train_seconds: float = 0.0
    save_seconds: float = 0.0
    resumed: int = 0


def save(run: Path, progress: Progress, engine: Engine, *, keep: int) -> None:
    """Writes a checkpoint below the run's folder and deletes all but the newest; collective.

    Args:
        run: the run's folder.
        progress: where it stands.
        engine: whose state is written.
        keep: checkpoints that stay.
    """
    folder = run / f"checkpoint-{progress.phase:02d}-{progress.step:09d}"
    temporary = run / f".{folder.name}.writing"
    if engine.leader:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    engine.wait()
    engine.save(temporary)
    engine.wait()
    if engine.leader:
        write_value(temporary / "progress.json", progress)
        for path in temporary.rglob("*"):
            if path.is_file():
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(temporary, folder)
        for old in checkpoints(run)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    engine.wait()


def checkpoints(run: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    return sorted(run.glob("checkpoint-*"))


def restore(folder: Path, engine: Engine) -> Progress:
    """Puts a checkpoint's state into the engine; collective.

    Raises:
        StoreError: when one of its files is missing or damaged.
    """
    progress = read_value(folder / "progress.json", Progress)
    engine.restore(folder)
    return progress.model_copy(update={"resumed": progress.resumed + 1})


def discard(run: Path) -> None:
    """Deletes a finished run's checkpoints, half-written ones too."""
    for folder in [*checkpoints(run), *run.glob(".checkpoint-*")]:
        shutil.rmtree(folder, ignore_errors=True)


def check(engine: Engine, rows: NDArray[np.int64], sequence: int) -> float:
    """Mean loss of the engine's state on a batch, nats per token; collective.

    Args:
        engine: whose state is asked.
        rows: (batch, any) token ids, the same in every process.
        sequence: tokens of context: that of scoring, so that nothing is compiled anew.
    """
    cut = np.resize(rows, (len(rows), sequence + 1))
    inputs = torch.from_numpy(np.ascontiguousarray(cut[:, :-1]))
    labels = torch.from_numpy(np.ascontiguousarray(cut[:, 1:]))
    return float(engine.score(inputs, labels)) / labels.numel()


def must_agree(where: Path, found: float, recorded: float, precision: str) -> None:
    """Refuses a state that scores otherwise than when it was written.

    Raises:
        StoreError: naming both losses.
    """
    limit = TOLERANCE[precision]
    if not abs(found - recorded) <= limit:
        raise StoreError(
            f"{where}: read back, its loss on a fixed batch is {found:.6g}; {recorded:.6g} was "
            f"recorded (tolerance {limit:g})",
            hint="delete this folder and run again: it goes on from the state before",
        )


def must_fit(folder: Path, parameters: int, keep: Keep, *, phases: int, tokens: int) -> None:
    """Makes sure that there is space for what a run will keep, before it trains.

    Args:
        folder: the run's.
        parameters: of the model.
        keep: what stays on disk.
        phases: of the run.
        tokens: of the run.

    Raises:
        StoreError: too little space, with what is needed.
    """
    states = keep.newest + 1 + (phases if keep.boundaries else 0) + 1
    weights = (tokens // keep.every if keep.every else 0) + keep.best * 2
    needed = parameters * (STATE_BYTES * states + 4 * weights)
    place = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise StoreError(
            f"{place}: {free / 1e9:,.2f} GB free, {needed / 1e9:,.2f} GB needed: {states} states "
            f"of {STATE_BYTES} bytes and {weights} of 4 bytes a parameter ({parameters:,})",
            hint="free space, choose another store=FOLDER, or keep less (engine.keep)",
        ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as if it had been written


def save_weights(
    folder: Path, model: PreTrainedModel, weights: dict[str, Tensor], moments: dict[str, Tensor]
) -> None:
    """Writes weights (fp32) as a Hugging Face model folder, with Adam's moments beside, if any."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with writing(folder) as temporary:
        write_model(temporary, model, weights, moments)


def write_model(
    folder: Path, model: PreTrainedModel, weights: dict[str, Tensor], moments: dict[str, Tensor]
) -> None:
    """The files of `save_weights`, into an existing folder."""
    config: dict[str, Any] = model.config.to_dict() | {"dtype": "float32"}
    type(model.config).from_dict(config).save_pretrained(folder)
    write_tensors(weights, folder / "model.safetensors")
    if moments:
        write_tensors(moments, folder / "optimiser.safetensors")


def drop_others(folder: Path) -> None:
    """Deletes the kept weights that were the best before this folder's."""
    for old in folder.parent.glob("best-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)


def load_weights(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and moments as `save_weights` left them."""
    weights = read_tensors(folder / "model.safetensors")
    return weights, read_tensors(folder / "optimiser.safetensors")
