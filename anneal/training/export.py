"""Export: weights of a run as a complete Hugging Face model folder.

A run keeps fp32 weights, a configuration and Adam's moments; its tokenizer lies elsewhere in the
store. Whoever uses the model wants one folder that `transformers` and vLLM load without knowing any
of that: weights in the type they serve in, the tokenizer beside them, and generation that knows
which token ends a text. What was written is read back before the folder appears.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from anneal.errors import StoreError, TrainingError
from anneal.plan.values import RunTask
from anneal.sources.tokenizer import COMPANIONS, TokenizerInfo, load_tokenizer
from anneal.store import Store, read_value, writing
from anneal.values import Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

Dtype = Literal["bfloat16", "float32"]
SHARD = "5GB"
"""Larger weights are split into files of this size, with an index."""
LEAST_HEAD = 32
"""Narrowest heads that vLLM has kernels for; on a CPU in steps of 16, from 64 on."""
PROBE = "def f(x):\n    return x + 1  # Größe, naïve, 漢字\n\n\tend"
"""Text that both readings of the tokenizer must encode alike."""


class Exported(Value):
    """What an export wrote."""

    folder: str
    model_type: str
    parameters: int
    """A tied embedding counted once."""
    dtype: Dtype
    bytes: int
    """Of all its files."""
    vocabulary: int
    """Rows of the embedding: the tokenizer's entries, perhaps padded."""
    context: int
    """Tokens; 0 where the configuration does not say."""
    notes: tuple[str, ...] = ()
    """What to know before using it."""


def export(
    weights_folder: Path, folder: Path, *, tokenizer: Path, dtype: Dtype = "bfloat16"
) -> Exported:
    """Makes a model folder that `transformers` and vLLM load; it appears whole or not at all.

    Args:
        weights_folder: config.json and fp32 model.safetensors, as `checkpoint.save_weights` and the
            boundaries and kept states of a run have them.
        folder: must not exist yet.
        tokenizer: a tokenizer's folder of the store.
        dtype: of the weights that are written; fp32 is rounded to the nearest.

    Raises:
        TrainingError: the folder exists, the weights do not fit their configuration, or the
            tokenizer does not fit the model.
        StoreError: a file is missing or damaged, or the disk refuses.
    """
    from safetensors import SafetensorError

    if folder.exists():
        raise TrainingError(f"export {folder}: it exists already", hint="give a new folder's name")
    info = read_value(tokenizer / "tokenizer_info.json", TokenizerInfo)
    with _quiet():
        model = _load(weights_folder, dtype)
        _fits(model, info, weights_folder)
        _settle(model, info)
        with writing(folder) as temporary:
            try:
                model.save_pretrained(temporary, max_shard_size=SHARD)
            except SafetensorError as error:  # a full disk comes as one of these
                raise StoreError(
                    f"{folder}: cannot be written: {error}", hint="free space and run again"
                ) from error
            _write_tokenizer(tokenizer, temporary, info, _context(model))
            _read_back(temporary, tokenizer, info)
            size = sum(path.stat().st_size for path in temporary.iterdir())
    return Exported(
        folder=str(folder),
        model_type=str(model.config.model_type),
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=dtype,
        bytes=size,
        vocabulary=int(model.get_input_embeddings().weight.shape[0]),
        context=_context(model),
        notes=tuple(_notes(model, info)),
    )


def find_weights(run: str, store: Store, *, phase: str | None = None) -> tuple[Path, Path | None]:
    """Where a run's weights and its tokenizer lie.

    Args:
        run: a run's id, the beginning of one that no other run shares, or the path of a folder with
            weights.
        store: where runs are looked for.
        phase: the state after the phase of that name; None is the end of the run.

    Returns:
        The folder of weights, and that of the tokenizer; None where a path does not tell which.

    Raises:
        TrainingError: no such run or phase, or its weights were not kept.
    """
    given = Path(run)
    if run and given.is_dir():
        if phase is not None:
            raise TrainingError(
                f"export {run}: a folder of weights has no phases", hint="leave --phase out"
            )
        return given, _tokenizer_of(given)
    found = [name for name in store.runs() if name.startswith(run)] if run else []
    if len(found) != 1:
        raise TrainingError(
            f"run {run}: {'several begin so: ' + ', '.join(found) if found else 'no such run'}"
            f" in {store.root}",
            hint="`python -m anneal status` lists a sweep's runs; --store names the store",
        )
    spec = read_value(store.run(found[0]) / "task.json", RunTask).spec
    folder = store.run(found[0]) / "weights"
    if phase is not None:
        names = [one.name for one in spec.phases]
        if phase not in names:
            raise TrainingError(
                f"run {found[0]}: no phase `{phase}`",
                hint=f"its phases are {', '.join(names) or 'none'}",
            )
        place = names.index(phase)
        at_boundary = store.boundary(spec.boundary(place))
        if at_boundary.is_dir() or place < len(names) - 1:
            folder = at_boundary
    if not (folder / "model.safetensors").is_file():
        raise TrainingError(
            f"run {found[0]}: its weights{f' after `{phase}`' if phase else ''} were not kept"
            f" (looked in {folder})",
            hint="run it with engine.keep_weights=true, or engine.keep.boundaries=true for phases",
        )
    return folder, store.tokenizer(spec.tokenizer)


def _tokenizer_of(folder: Path) -> Path | None:
    """The tokenizer of a run in whose folder this one lies."""
    for place in (folder.absolute(), *folder.absolute().parents):
        if place.parent.name == "runs" and (place / "task.json").is_file():
            spec = read_value(place / "task.json", RunTask).spec
            return Store(place.parent.parent).tokenizer(spec.tokenizer)
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers without its progress bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _load(folder: Path, dtype: Dtype) -> PreTrainedModel:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    hint = "export what a run left in STORE/runs/ID/weights or STORE/boundaries"
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise TrainingError(f"weights {folder}: no {name} there", hint=hint)
    try:
        model, told = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise TrainingError(
            f"weights {folder}: cannot be loaded: {str(error).splitlines()[0]}", hint=hint
        ) from error
    wrong = {kind: told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if any(wrong.values()):
        said = "; ".join(
            f"{kind.replace('_', ' ')} {sorted(map(str, names))[:3]}"
            for kind, names in wrong.items()
            if names
        )
        raise TrainingError(f"weights {folder}: not those of its config.json ({said})", hint=hint)
    plain: PreTrainedModel = model
    return plain


def _fits(model: PreTrainedModel, info: TokenizerInfo, weights: Path) -> None:
    rows = int(model.get_input_embeddings().weight.shape[0])
    if info.vocabulary > rows:
        raise TrainingError(
            f"weights {weights}: the tokenizer has ids up to {info.vocabulary - 1}, the model's "
            f"embedding has {rows} rows",
            hint="give the tokenizer that the run was trained with",
        )


def _settle(model: PreTrainedModel, info: TokenizerInfo) -> None:
    """Configuration and generation agree with the tokenizer on what ends a text."""
    from transformers import GenerationConfig

    end = info.end_of_text
    config: Any = model.config
    config.bos_token_id = config.eos_token_id = end
    model.generation_config = GenerationConfig(bos_token_id=end, eos_token_id=end, pad_token_id=end)


def _context(model: PreTrainedModel) -> int:
    return int(getattr(model.config, "max_position_embeddings", 0) or 0)


def _write_tokenizer(source: Path, folder: Path, info: TokenizerInfo, context: int) -> None:
    for name in ("tokenizer.json", *COMPANIONS):
        if (source / name).is_file():
            (folder / name).write_bytes((source / name).read_bytes())
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    if config.pop("auto_map", None) or not config.get("tokenizer_class"):
        config["tokenizer_class"] = "PreTrainedTokenizerFast"  # remote code is never run
    special = {"eos_token": info.end_of_text_token}
    for name in ("bos_token", "pad_token"):
        special[name] = _text(config.get(name)) or info.end_of_text_token
    config |= special | ({"model_max_length": context} if context else {})
    for name, values in (("tokenizer_config.json", config), ("special_tokens_map.json", special)):
        (folder / name).write_text(json.dumps(values, indent=1), encoding="utf-8")


def _text(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _read_back(folder: Path, source: Path, info: TokenizerInfo) -> None:
    """The tokenizer as transformers reads it is the one that the run was trained with."""
    from transformers import AutoTokenizer

    ours, _ = load_tokenizer(source)
    theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)

    same = theirs.encode(PROBE, add_special_tokens=False) == list(
        ours.encode(PROBE, add_special_tokens=False).ids
    )
    if theirs.eos_token_id != info.end_of_text or not same:
        raise TrainingError(
            f"tokenizer {source}: transformers reads it otherwise than it was trained with",
            hint="its tokenizer_config.json names a class that changes tokenizer.json: remove "
            "`tokenizer_class` there",
        )


def _notes(model: PreTrainedModel, info: TokenizerInfo) -> Iterator[str]:
    config: Any = model.config
    heads = getattr(config, "num_attention_heads", 0)
    width = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
    if width and width < LEAST_HEAD:
        yield f"heads are {width} wide: transformers loads it, vLLM wants {LEAST_HEAD} at least"
    rows = int(model.get_input_embeddings().weight.shape[0])
    if rows > info.vocabulary:
        yield f"{rows - info.vocabulary} rows of the embedding have no token"
    if not all(bool(p.detach().isfinite().all()) for p in model.parameters()):
        yield "some weights are not finite"
