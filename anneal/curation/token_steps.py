"""The last two kinds of preparation step: a tokenizer, and the tokens of each source and target.

What a layout asks of a tokenizer is settled here, before anything is done: a tokenizer trained for
the sweep gets the tokens for filling in the middle where any source asks for them, an existing one
must have them. A layout is part of a recipe only where it is not the plain one, so that tokens made
before there were layouts are still the ones meant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anneal.curation.values import (
    CuratedSource,
    CuratedTarget,
    ExistingTokenizer,
    PrepareStep,
    TokenizerWork,
    TokensWork,
    TrainedTokenizer,
)
from anneal.errors import SourceError
from anneal.sources.layout import FILL_MARKS, Layout, Marks, find_marks
from anneal.sources.tokenizer import END_OF_TEXT, tokenizer_file
from anneal.values import address

RECIPE = 1
"""Raised when the code makes other tokens of the same documents."""


def tokenizer_step(
    settings: TrainedTokenizer | ExistingTokenizer,
    documents: Sequence[str],
    layouts: Sequence[Layout],
    base: Path,
) -> tuple[PrepareStep, Marks]:
    """The step that makes the tokenizer, and the tokens it has for what layouts put in.

    Args:
        settings: one to train or one that exists.
        documents: addresses of the prepared documents to train on.
        layouts: of every source of the sweep.
        base: folder that relative paths start from.

    Raises:
        SourceError: no such tokenizer, or one without a token that a layout asks for.
    """
    fill = any(layout.fim_rate for layout in layouts)
    if isinstance(settings, TrainedTokenizer):
        recipe: list[Any] = [settings.model_dump(exclude={"sources"}), sorted(documents)]
        marks = Marks(begin=END_OF_TEXT, fill=FILL_MARKS if fill else None)
        if marks.fill:  # not hashed where there are none: such a tokenizer stays what it was
            recipe.append(marks.fill)
        work = TokenizerWork(
            settings=settings, documents=tuple(sorted(documents)), marks=marks.fill or ()
        )
        needs = tuple(dict.fromkeys(work.documents))
    else:
        path = base / Path(settings.path).expanduser()
        path = path if path.exists() else hub_tokenizer(settings)
        digest = hashlib.sha256(tokenizer_file(path).read_bytes()).hexdigest()
        begin = any(layout.boundary == "begin_end" for layout in layouts)
        marks = Marks()
        if begin or fill:
            marks = find_marks(tokenizer_file(path), settings.fim_tokens, begin=begin, fill=fill)
        recipe = [settings.end_of_text, digest]
        work = TokenizerWork(settings=settings, path=str(path))
        needs = ()
    step = PrepareStep(
        id=address(["tokenizer", RECIPE, settings.kind, recipe]),
        label="tokenizer",
        needs=needs,
        work=work,
    )
    return step, marks


def hub_tokenizer(settings: ExistingTokenizer) -> Path:
    """Folder with the files of a hub tokenizer, fetched into the machine's cache if need be.

    Raises:
        SourceError: when it is neither here nor there.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                settings.path, revision=settings.revision, allow_patterns=["*token*.json"]
            )
        )
    except Exception as error:  # its errors are httpx's, its own, OSError and ValueError
        raise SourceError(
            f"tokenizer {settings.path}: no such folder, and the hub does not answer for it:"
            f" {str(error).splitlines()[0]}",
            hint="correct tokenizer.path; relative paths start from the sweep file",
        ) from error


def tokens_step(
    item: CuratedSource | CuratedTarget,
    documents: PrepareStep,
    tokenizer: PrepareStep,
    marks: Marks,
) -> PrepareStep:
    """The step that tokenises the documents of a source or target.

    Args:
        item: the source or target; a target lies plain.
        documents, tokenizer: steps that make them.
        marks: all that the tokenizer has.
    """
    recipe: list[Any] = ["tokens", RECIPE, documents.id, tokenizer.id, item.max_tokens]
    layout = item.layout if isinstance(item, CuratedSource) else Layout()
    needed = marks.needed(layout)
    if layout != Layout():  # the plain one is not hashed: its tokens are what they always were
        recipe += [layout.model_dump(), needed.model_dump()]
    return PrepareStep(
        id=address(recipe),
        label=f"tokens of {item.name}",
        needs=(documents.id, tokenizer.id),
        work=TokensWork(
            name=item.name,
            role="target" if isinstance(item, CuratedTarget) else item.kind,
            licence="" if isinstance(item, CuratedTarget) else item.licence,
            documents=documents.id,
            tokenizer=tokenizer.id,
            max_tokens=item.max_tokens,
            layout=layout,
            marks=needed,
        ),
    )
