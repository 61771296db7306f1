"""A DeepSpeed checkpoint on disk: verified before it is opened, opened without running code.

DeepSpeed's files are pickles, and it opens them with an unpickler that runs whatever they say. Two
doors keep that shut. `seal` writes the size and SHA-256 of every file into `deepspeed.json`, last,
and `verify` compares them before anything is loaded: a checkpoint that is half-written or was
altered is refused. And all loading happens under `restricted`: torch's own switch makes every
`torch.load` refuse anything but tensors, plain values and the few classes that `allowed` names.

    checkpoint/
      deepspeed/state/      what DeepSpeed wrote, each process its part
      frozen.safetensors    weights and moments of parameters that do not train, where there are any
      deepspeed.json        stage, processes, precision, and every file's size and hash
"""

from __future__ import annotations

import hashlib
import os
import pickle  # for the name of its error
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from anneal.errors import StoreError
from anneal.store import disk_errors, read_value, write_value
from anneal.values import Value

TAG = "state"
"""Folder, below `deepspeed`, of what DeepSpeed writes."""
SEAL = "deepspeed.json"
SWITCH = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""torch's environment variable: no `torch.load` of this process may run code, whatever its caller
asks for (torch/serialization.py)."""


class FileSeal(Value):
    """What a file must be."""

    bytes: int
    sha256: str


class Seal(Value):
    """What a checkpoint is, and what its files must be."""

    stage: int
    processes: int
    precision: str
    trainable: str
    deepspeed: str
    """Version that wrote it."""
    files: dict[str, FileSeal]
    """By path below the checkpoint."""


def seal(folder: Path, about: Seal) -> None:
    """Hashes every file of a checkpoint, flushes it to disk and writes the seal."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SEAL):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = path.stat().st_size
        files[str(path.relative_to(folder))] = FileSeal(bytes=size, sha256=digest)
    write_value(folder / SEAL, about.model_copy(update={"files": files}))


def verify(folder: Path) -> Seal:
    """Compares every file of a checkpoint with its seal.

    Raises:
        StoreError: a file is missing, has another size or other bytes.
    """
    about = read_seal(folder)
    for name, wanted in about.files.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != wanted.bytes:
            found = "missing" if size is None else f"{size} bytes"
            raise _damaged(path, f"{found}, should have {wanted.bytes} bytes")
    for name, wanted in about.files.items():
        with open(folder / name, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != wanted.sha256:
            raise _damaged(folder / name, "its bytes are not those that were written")
    return about


def read_seal(folder: Path) -> Seal:
    """The seal, unverified."""
    return read_value(folder / SEAL, Seal)


def unsealed(folder: Path) -> StoreError:
    """What to say of a folder that has no seal."""
    return StoreError(
        f"{folder}: has no {SEAL}: half-written, or saved by another engine",
        hint="resume with the engine that saved it, or use the checkpoint before it",
    )


def check_kind(folder: Path, about: Seal, stage: int, precision: str, trainable: str) -> None:
    """Whether an engine of this kind can take a checkpoint.

    Raises:
        StoreError: what was saved, what is asked, and what to do.
    """
    for word, saved, asked in (
        ("deepspeed.stage", about.stage, stage),
        ("precision", about.precision, precision),
        ("trainable", about.trainable, trainable),
    ):
        if saved != asked:
            raise StoreError(
                f"{folder}: saved with {word}={saved}, asked for {word}={asked}",
                hint=f"resume with {word}={saved}; or begin the phase anew from the boundary "
                "before it, whose weights and moments any engine reads",
            )


@contextmanager
def restricted(what: Path | None = None) -> Iterator[None]:
    """Within it, `torch.load` builds tensors, plain values and `allowed` classes alone.

    Args:
        what: is being loaded, for the message.

    Raises:
        StoreError: something else was asked for.
    """
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "1"
    try:
        with torch.serialization.safe_globals(allowed()):
            yield
    except pickle.UnpicklingError as error:
        raise _damaged(what or Path(), "holds more than tensors and plain values") from error
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before


def allowed() -> list[Any]:
    """The classes of DeepSpeed's that its checkpoints hold: records of numbers, all of them."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [fragment_address, LossScaler, ZeroStageEnum]


def checkpoint_engine() -> Any:
    """What DeepSpeed writes and reads its files with: ours, so that it runs no code from them.

    Loads only within `restricted`, which says what may be in them.
    """
    from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine

    class Restricted(CheckpointEngine):  # type: ignore[misc]
        """One file a call; no code is run."""

        def create(self, info: Any) -> None:
            pass

        def save(self, state_dict: Any, path: str) -> None:
            with disk_errors(Path(path)), open(path, "wb") as file:
                torch.save(state_dict, file)

        def load(self, path: str, map_location: Any = None) -> Any:
            return torch.load(path, map_location=map_location, weights_only=True)

        def commit(self, info: Any) -> bool:
            return True

    return Restricted()


def to_universal(source: Path, target: Path, *, stage: int, log: Path) -> None:
    """Converts a verified checkpoint into DeepSpeed's universal form, in a process of its own.

    Args:
        source: the folder that holds `TAG`.
        target: an existing folder; gets `TAG` too.
        stage: ZeRO stage.
        log: what the converter says.

    Raises:
        StoreError: it failed; its last words.
    """
    words = [sys.executable, "-m", "anneal.training.universal"]
    words += [str(source / TAG), str(target / TAG), str(stage)]
    with open(log, "wb") as said:
        code = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False
        ).returncode
    if code:
        lines = log.read_text("utf-8", "replace").splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "no word")
        raise StoreError(
            f"{source}: cannot be converted for another number of processes: {last}",
            hint=f"see {log}; or resume with as many processes as saved it",
        )


def _damaged(path: Path, how: str) -> StoreError:
    return StoreError(f"{path}: {how}", hint="use the checkpoint before it, and delete this one")
