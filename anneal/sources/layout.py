"""How documents become one stream of tokens: order, boundaries, fill-in-the-middle, packing.

What a window of training sees side by side is decided here, and it matters: a code model whose
windows hold files of one language, and of one repository after another, scored higher than one
whose languages were mixed (Arctic-SnowCoder, arXiv 2409.02326, table 3). Every option is part of
what the tokens are, so it is hashed into their recipe and written into their manifest; at its
default a layout leaves recipe and tokens as they are without one.

**Scores do not move with any of this.** Bits per byte are counted on targets, and a target has no
layout: its documents lie plain, in order, each with its end-of-text, and the bytes divided by are
those of its text. What changes is what a source's tokens teach:

- order, packing: the same tokens beside others. Padding is trained on like any end-of-text, and is
  counted apart: it is no unique token of the source and nothing is paid for it.
- fill-in-the-middle: three marks a rearranged document, and pieces encoded one by one; so a source
  has a few more tokens for the same bytes.
- boundaries: a token more, or fewer, for each document.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from anneal.errors import SourceError
from anneal.values import Value

FillMarks = tuple[str, str, str]
"""Tokens that stand before the prefix, before the suffix and before the middle."""

FILL_FAMILIES: tuple[FillMarks, ...] = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # CodeGemma, Qwen2.5-Coder, OLMo
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
    ("[PREFIX]", "[SUFFIX]", "[MIDDLE]"),  # Codestral
)
"""Names that published tokenizers give these tokens; the first family that is whole is taken."""
FILL_MARKS = FILL_FAMILIES[1]
"""Of a tokenizer that is trained here."""


class Layout(Value):
    """Options of tokenising a source; each default is the plain way."""

    order: Literal["as_read", "language_repository"] = "as_read"
    """language_repository: one language after another, in it one repository (the group) after
    another in a seeded order, in it the files in a seeded order."""
    boundary: Literal["end", "begin_end", "repository"] = "end"
    """end: end-of-text after each document. begin_end: the tokenizer's begin-of-text before it
    too. repository: end-of-text only where neighbouring documents are not of one repository."""
    fim_rate: float = Field(0.0, ge=0, le=1)
    """Share of documents rearranged for filling in the middle: StarCoder2 0.5, Crystal 0.9."""
    spm_share: float = Field(0.5, ge=0, le=1)
    """Of these, the share written suffix, prefix, middle; the others prefix, suffix, middle."""
    packing: Literal["concatenate", "best_fit"] = "concatenate"
    """best_fit: no document is cut that fits a window."""
    sequence: int | None = Field(None, gt=1)
    """best_fit: tokens of a window; the phase's own sequence."""
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _agrees(self) -> Layout:
        if (self.packing == "best_fit") != (self.sequence is not None):
            raise ValueError("packing best_fit needs the phase's `sequence`, nothing else does")
        if self.fim_rate and self.boundary == "repository":
            raise ValueError(
                "fim_rate needs an end-of-text after each document (it says that a middle is "
                "complete), boundary repository leaves it out"
            )
        return self


class Marks(Value):
    """Names of the tokens that a layout puts in, where it does."""

    begin: str = ""
    fill: FillMarks | None = None

    def needed(self, layout: Layout) -> Marks:
        """Those that a layout uses."""
        return Marks(
            begin=self.begin if layout.boundary == "begin_end" else "",
            fill=self.fill if layout.fim_rate else None,
        )


def find_marks(file: Path, names: FillMarks | None, *, begin: bool, fill: bool) -> Marks:
    """The marks that an existing tokenizer has.

    Args:
        file: its `tokenizer.json`.
        names: of the fill-in-the-middle tokens; None looks for a known family.
        begin, fill: which are needed.

    Raises:
        SourceError: one that is needed is not in it.
    """
    known = _tokens(file)
    found, families = None, FILL_FAMILIES if names is None else (names,)
    if fill:
        found = next((family for family in families if known.issuperset(family)), None)
        if found is None:
            asked = "known names of them" if names is None else " ".join(names)
            raise SourceError(
                f"tokenizer {file}: fim_rate asks for fill-in-the-middle tokens, no {asked}",
                hint="name its prefix, suffix and middle tokens with tokenizer.fim_tokens, or set "
                "fim_rate to 0",
            )
    first = _declared_begin(file.parent) if begin else ""
    if begin and first not in known:
        raise SourceError(
            f"tokenizer {file}: boundary begin_end asks for a begin-of-text token, its "
            "configuration names none",
            hint="set boundary: end",
        )
    return Marks(begin=first, fill=found)


def _tokens(file: Path) -> set[str]:
    """Every token of a `tokenizer.json`, read without the library: planning stays light."""
    try:
        content: Any = json.loads(file.read_bytes())
        vocabulary = content["model"].get("vocab", {})
        added = {token["content"] for token in content.get("added_tokens", ())}
        pieces = vocabulary if isinstance(vocabulary, dict) else [piece[0] for piece in vocabulary]
        return {*pieces, *added}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise SourceError(
            f"tokenizer {file}: no vocabulary in it ({error})",
            hint="it must be a Hugging Face tokenizer.json",
        ) from error


def _declared_begin(folder: Path) -> str:
    try:
        token = json.loads((folder / "tokenizer_config.json").read_bytes()).get("bos_token")
    except (OSError, ValueError, AttributeError):
        return ""
    return str((token.get("content") if isinstance(token, dict) else token) or "")
