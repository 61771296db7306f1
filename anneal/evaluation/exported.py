"""The model under evaluation: a complete folder on this disk, told by its content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from anneal.errors import SettingsError
from anneal.values import address

IDENTITY = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def model_address(folder: Path) -> str:
    """Address of a model's weights, configuration and tokenizer, by content.

    Raises:
        SettingsError: it is not a model folder that can be evaluated.
    """
    if not folder.is_dir():
        raise SettingsError(
            f"model {folder}: no such folder", hint="python -m anneal export RUN FOLDER makes one"
        )
    for name, found in (
        ("config.json", (folder / "config.json").is_file()),
        ("safetensors weights", any(folder.glob("*.safetensors"))),
        ("tokenizer.json", (folder / "tokenizer.json").is_file()),
    ):
        if not found:
            raise SettingsError(
                f"model {folder}: no {name} there",
                hint="give a folder that `python -m anneal export RUN FOLDER` made",
            )
    files = [*(folder / name for name in IDENTITY), *sorted(folder.glob("*.safetensors"))]
    digests = []
    for path in files:
        if path.is_file():
            with open(path, "rb") as file:
                digests.append([path.name, hashlib.file_digest(file, "sha256").hexdigest()])
    return address(digests)
