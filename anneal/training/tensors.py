"""Tensors on disk: safetensors files, read and written with our errors; and their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from anneal.errors import StoreError


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes tensors by name.

    Raises:
        StoreError: when the disk refuses.
    """
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # a full disk comes as one of these
        raise StoreError(
            f"{path}: cannot be written: {error}",
            hint="free space and run again: what is finished is kept",
        ) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads tensors by name, on the CPU.

    Raises:
        StoreError: a missing or damaged file.
    """
    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise StoreError(
            f"{path}: cannot be read: {error}", hint="delete its folder and run again"
        ) from error


def misfit(weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> str:
    """What keeps weights from being a model's, in words; empty where they fit.

    Args:
        weights: by name.
        shapes: of the model's parameters, by name.
    """
    for name, shape in shapes.items():
        if name not in weights:
            return f"`{name}` is missing: these are the weights of another model"
        if weights[name].shape != shape:
            found, wanted = tuple(weights[name].shape), tuple(shape)
            return f"`{name}` is {found}, the model's is {wanted}: the weights of another model"
    return ""


def sha256(tensors: dict[str, Tensor]) -> str:
    """Hash of tensors: names in order, then bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()
