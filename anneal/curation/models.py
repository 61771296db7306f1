"""Model folders: what an annotator's model must be, told without loading it.

A model is told by the content of its files, so it goes into the recipe of what it scored: other
weights make another source, the same weights in another place the same one. What can be wrong with
a folder is mostly written in its `config.json`, so it is refused while planning, hours before a
worker would load it. Weights are read from safetensors alone (a pickle can run code), and code that
comes with a model is never run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anneal.curation.steps import Annotate, Step
from anneal.errors import SourceError
from anneal.sources.files import fingerprint
from anneal.sources.values import TreeReader
from anneal.store import Store

UNREAD = ("*.md", "*.bin", "*.pt", "*.onnx", "*.h5", "*.msgpack", "*.ot")
"""Files of a model folder that are never read: other formats of its weights, and its card."""


TOKENIZERS = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model"),
    *("spiece.model", "sentencepiece.bpe.model"),
)
"""Files of which a tokenizer is made: one of them is there."""


def model_fingerprint(step: Annotate, *, base: Path, store: Store) -> str:
    """Address of the content of an annotator's model folder, once it is known to be usable.

    Raises:
        SourceError: a folder that is missing or is no model of the kind that `step` needs.
    """
    check_model(step, base=base)
    everything = TreeReader(path=step.model, exclude=UNREAD, max_bytes=2**62)
    return fingerprint(everything, base=base, store=store)


def annotator_models(steps: Sequence[Step], *, base: Path, store: Store) -> list[str]:
    """Fingerprints of the models of those of `steps` that are annotators with one.

    Raises:
        SourceError: as `model_fingerprint`.
    """
    return [
        model_fingerprint(step, base=base, store=store)
        for step in steps
        if isinstance(step, Annotate) and step.model
    ]


def check_model(step: Annotate, *, base: Path) -> Path:
    """The folder of an annotator's model.

    Raises:
        SourceError: no folder, no readable config, weights that are not safetensors, a classifier
            that is none, an unknown label, sections longer than the model reads.
    """
    folder = base / Path(step.model).expanduser()
    where = f"annotator model {step.model}"
    if not folder.is_dir():
        raise SourceError(
            f"{where}: no such folder (looked in {base})",
            hint="correct `model`; relative paths start from the sweep file",
        )
    config = _read(folder / "config.json", where)
    if not any(folder.glob("*.safetensors")):
        others = sorted(p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".h5"})
        raise SourceError(
            f"{where}: no weights in safetensors (found {', '.join(others) or 'no weights'})",
            hint="save it with save_pretrained(..., safe_serialization=True)",
        )
    if not any((folder / name).is_file() for name in TOKENIZERS):
        # transformers makes an empty one then, to which every word is unknown
        raise SourceError(
            f"{where}: no tokenizer there (none of {', '.join(TOKENIZERS)})",
            hint="save the model's tokenizer into the same folder",
        )
    limit = config.get("max_position_embeddings")
    if isinstance(limit, int) and step.section_tokens > limit:
        raise SourceError(
            f"{where}: section_tokens {step.section_tokens} asked, it reads {limit} at most",
            hint="lower `section_tokens`",
        )
    if step.annotator == "hf":
        _check_classifier(step, config, where)
    return folder


def _check_classifier(step: Annotate, config: dict[str, Any], where: str) -> None:
    made = ", ".join(config.get("architectures") or ["nothing named"])
    if "ForSequenceClassification" not in made:
        raise SourceError(
            f"{where}: it is no sequence classifier ({made})",
            hint="take `annotator: encoder`, which trains a head of its own",
        )
    labels = label_names(config)
    if step.label not in labels and (step.label or len(labels) > 1):
        raise SourceError(
            f"{where}: no label `{step.label}` (it has: {', '.join(labels)})",
            hint="name the class that is good with `label`",
        )


def label_names(config: dict[str, Any]) -> list[str]:
    """Names of a classifier's outputs in order; transformers leaves out its own default of two."""
    names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    return [str(names[key]) for key in sorted(names, key=int)]


def _read(path: Path, where: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise SourceError(
            f"{where}: no {path.name} there", hint="give a folder made by save_pretrained"
        ) from None
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{where}: {path.name} cannot be read ({error})", hint="copy the model afresh"
        ) from error
    return config if isinstance(config, dict) else {}
