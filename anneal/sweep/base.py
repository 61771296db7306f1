"""The base: a model made here by the same loop, or a checkpoint that is taken as it is."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from anneal.errors import PlanError, SettingsError
from anneal.plan.flops import llama_parameters
from anneal.plan.values import (
    Checkpoint,
    FromRun,
    LlamaShape,
    Phase,
    Portion,
    RunSpec,
    Scored,
)
from anneal.sources.files import fingerprint
from anneal.sources.values import Manifest, TreeReader
from anneal.store import Store
from anneal.sweep.values import Sweep
from anneal.values import address


@dataclass(frozen=True)
class Base:
    """What micro-anneals start from.

    Args:
        start: reference to the weights.
        parameters: how many.
    """

    start: FromRun | Checkpoint
    parameters: int


def scored(ask: Sweep, manifests: Mapping[str, Manifest]) -> tuple[Scored, ...]:
    """The sweep's targets as runs see them."""
    return tuple(
        Scored(name=t.name, content=manifests[t.name].content, guard=t.guard, weight=t.weight)
        for t in ask.target
    )


def base_spec(ask: Sweep, manifests: Mapping[str, Manifest]) -> RunSpec | None:
    """The run that trains the base on replay; None where the base is a checkpoint."""
    if not isinstance(ask.model, LlamaShape):
        return None
    plan, replay = ask.base, manifests[ask.replay[0].name]
    step = plan.batch * plan.sequence
    phase = Phase(
        name="base",
        mixture=(Portion(source=replay.name, content=replay.content, share=1.0),),
        tokens=max(1, round(plan.tokens / step)) * step,
        batch=plan.batch,
        sequence=plan.sequence,
        schedule=plan.schedule,
    )
    epochs = phase.tokens / replay.tokens
    if epochs > ask.replay[0].max_epochs:
        raise PlanError(
            f"source `{replay.name}`: {phase.tokens:,} tokens asked for the base, "
            f"{replay.tokens:,} exist (limit {ask.replay[0].max_epochs:g} epochs)",
            hint="lower base.tokens or give replay more text",
        )
    return RunSpec(
        start=ask.model,
        phases=(phase,),
        seed=ask.seed,
        tokenizer=replay.tokenizer,
        vocabulary=replay.vocabulary,
        optimiser=ask.optimiser,
        precision=ask.precision,
        targets=scored(ask, manifests),
        score_sequence=ask.score_sequence,
    )


def start_from(
    ask: Sweep, base: RunSpec | None, manifests: Mapping[str, Manifest], store: Store
) -> Base:
    """What the micro-anneals start from.

    Raises:
        SettingsError: a checkpoint that cannot be found.
        PlanError: a tokenizer that does not match it.
    """
    vocabulary = manifests[ask.replay[0].name].vocabulary
    if base is not None:
        assert isinstance(ask.model, LlamaShape)
        return Base(FromRun(run=base.id), llama_parameters(ask.model, vocabulary))
    assert isinstance(ask.model, Checkpoint)
    folder = checkpoint_folder(ask.model, Path(ask.folder))
    config = json.loads((folder / "config.json").read_text())
    if vocabulary > config.get("vocab_size", 0):
        raise PlanError(
            f"base {ask.model.path}: {config.get('vocab_size')} vocabulary entries, the sweep's "
            f"tokenizer has {vocabulary}",
            hint="set tokenizer={kind: huggingface, path: the base's own folder}",
        )
    _same_tokenizer(ask.model, folder, store.tokenizer(manifests[ask.replay[0].name].tokenizer))
    found = ask.model.model_copy(
        update={
            "path": str(folder),
            "content": _weights_address(folder, store),
            "parameters": count_parameters(folder),
        }
    )
    return Base(found, found.parameters)


def checkpoint_folder(model: Checkpoint, base: Path) -> Path:
    """Folder of a checkpoint given by path (absolute or beside the sweep) or hub identifier."""
    for folder in (Path(model.path), base / model.path):
        if (folder / "config.json").is_file():
            return folder.resolve()
    if Path(model.path).is_absolute() or model.path.startswith("."):
        raise SettingsError(
            f"base {model.path}: no config.json there", hint="give a Hugging Face model folder"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = ["*.json", "*.safetensors", "*.model"]
        return Path(snapshot_download(model.path, revision=model.revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise SettingsError(
            f"base {model.path}: neither a folder nor to be had from the hub: "
            f"{str(error).splitlines()[0]}",
            hint="give the path of a Hugging Face model folder",
        ) from None


def count_parameters(folder: Path) -> int:
    """Parameters in a folder's safetensors files, from their headers alone."""
    total = 0
    for path in _weight_files(folder):
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                size = 1
                for extent in tensor["shape"]:
                    size *= extent
                total += size
    return total


def _weight_files(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.glob("*.safetensors") if p.name != "optimiser.safetensors")
    if not files:
        raise SettingsError(
            f"base {folder}: no *.safetensors weights", hint="convert it to safetensors"
        )
    return files


def _weights_address(folder: Path, store: Store) -> str:
    weights = TreeReader(path=str(folder), glob="*.safetensors", max_bytes=2**60)
    content = fingerprint(weights, base=folder, store=store)
    return address([content, json.loads((folder / "config.json").read_text())])


def _same_tokenizer(model: Checkpoint, folder: Path, used: Path) -> None:
    """Refuses tokens made by another tokenizer than the base's own, where it carries one."""
    own = folder / "tokenizer.json"
    if not own.is_file():
        return
    mine, theirs = (
        json.loads(p.read_text())["model"]["vocab"] for p in (used / "tokenizer.json", own)
    )
    if mine != theirs:
        raise PlanError(
            f"base {model.path}: its tokenizer differs from the sweep's ({len(theirs)} and "
            f"{len(mine)} entries)",
            hint="set tokenizer={kind: huggingface, path: the base's own folder}",
        )
