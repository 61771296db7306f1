"""Tokens: documents become memory-mapped shards of ids, and a manifest that says what is there.

Documents lie one after another, each with its end-of-text, or as the source's `Layout` says. What
only streams is encoded and written at once; where order, packing or `max_tokens` must know every
document first, encoded documents wait on disk and only keys and lengths are held in memory.

Shards lie in `tokens/<content>/`, under the hash of what they hold: the same tokens have the same
name whatever recipe they came from, and that name is what a run is identified by. The recipe's own
folder, known before anything is made, holds a copy of the manifest: that a recipe is done, and what
came out, is read there.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from anneal.errors import SourceError
from anneal.sources.documents import Document
from anneal.sources.files import seeded_order
from anneal.sources.fill import Pieces, arranged, cut
from anneal.sources.layout import Layout, Marks
from anneal.sources.order import Ints, Keys
from anneal.sources.packing import BATCH, best_fit
from anneal.sources.shards import Reader, Shards, Tokens
from anneal.sources.tokenizer import load_tokenizer
from anneal.sources.values import Cost, Evidence, Kind, Manifest, Name
from anneal.store import Store, write_value, writing
from anneal.values import Value, address

Mask = npt.NDArray[np.bool_]
PLAIN, NO_MARKS = Layout(), Marks()

MANIFEST_FILE = "manifest.json"
OFFSETS_FILE = "documents.npy"
SHARD_TOKENS = 2**26
BATCH_BYTES = 2**20
"""Text encoded at once: enough for every thread, little in memory."""
MOST_BYTES_PER_TOKEN = 8
"""No tokenizer does better on real text; bounds what is encoded when only some tokens are kept."""


class Provenance(Value):
    """What a manifest says beyond its tokens: where they come from and what they cost to get."""

    name: Name
    kind: Kind | Literal["target"]
    documents_address: str
    bytes: int
    """UTF-8 bytes of all curated documents: what the costs below were paid for."""
    dropped: dict[str, int] = Field(default_factory=dict)
    licence: str = "unknown"
    evidence: Evidence = Evidence()
    paid: Cost = Cost()
    """Fixed parts as they are; per-token parts hold the **totals** for all the bytes above."""
    notes: dict[str, str | int | float] = Field(default_factory=dict)


def tokenize(
    open_documents: Callable[[], Iterable[Document]],
    tokenizer: Path,
    store: Store,
    recipe: str,
    *,
    provenance: Provenance,
    max_tokens: int | None = None,
    layout: Layout = PLAIN,
    marks: Marks = NO_MARKS,
    report: Callable[[int, int], None] = lambda done, total: None,
    shard_tokens: int = SHARD_TOKENS,
) -> Manifest:
    """Encodes documents into shards below the store; its manifest appears last.

    Threads: as many as `RAYON_NUM_THREADS` allows when the process first encodes.

    Args:
        open_documents: opens the stream; it is read once, twice with `max_tokens`.
        tokenizer: folder of a finished tokenizer.
        store: where the shards go: `store.tokens(manifest.content)`.
        recipe: address under which `store.tokens` keeps the copy of the manifest.
        provenance: what to write into the manifest beside the tokens.
        max_tokens: keep whole documents in a seeded order until the next would exceed this.
        layout: order, boundaries, fill-in-the-middle and packing.
        marks: names of the tokens that the layout puts in.
        report: called with (bytes of text encoded, bytes in all).
        shard_tokens: most tokens in one file.

    Raises:
        SourceError: no document; a mark that the tokenizer does not have.
        StoreError: the disk is full or refuses.
    """
    encoder = _Encoder(tokenizer, layout, marks, report, provenance.bytes)
    wide = encoder.info.vocabulary > 2**16
    if layout.sequence:  # windows must not cross from one file into the next
        shard_tokens = max(1, shard_tokens // layout.sequence) * layout.sequence
    with writing(store.tokens(recipe)) as scratch:
        shards = Shards(scratch, wide=wide, shard_tokens=shard_tokens)
        plain = (layout.order, layout.packing) == ("as_read", "concatenate")
        if plain and layout.boundary != "repository" and max_tokens is None:
            for body in encoder.bodies(open_documents(), None):
                shards.add(encoder.whole([body]))
            documents, size = len(encoder.sizes), sum(encoder.sizes)
        else:
            (scratch / "candidates").mkdir()
            waiting = Shards(scratch / "candidates", wide=wide, shard_tokens=SHARD_TOKENS)
            documents, size = _laid_out(open_documents, encoder, waiting, shards, max_tokens)
            waiting.remove()
        if not documents:
            raise SourceError(f"`{provenance.name}`: no document to tokenise")
        manifest = _finished(shards, provenance, encoder, documents=documents, size=size)
        with writing(store.tokens(manifest.content)) as folder:
            for name in [*(shard.file for shard in manifest.shards), OFFSETS_FILE]:
                os.replace(scratch / name, folder / name)
            write_value(folder / MANIFEST_FILE, manifest)
        write_value(scratch / MANIFEST_FILE, manifest)
    return manifest


def open_tokens(folder: Path, manifest: Manifest, *, verify: bool = False) -> list[Tokens]:
    """Maps the shards of `folder` read-only, in order; nothing is read yet.

    Args:
        folder: `store.tokens` of the content or of a recipe: shards are beside either, in the
            folder of the content.
        manifest: what should be there.
        verify: also hash every shard, which reads all of it.

    Raises:
        SourceError: a shard that is missing, cut short or (verified) altered.
    """
    folder = folder.parent / manifest.content
    kind = np.dtype(manifest.dtype).newbyteorder("<")
    opened: list[Tokens] = []
    for shard in manifest.shards:
        path = folder / shard.file
        hint = f"delete {folder} and run again: it is made afresh"
        size = path.stat().st_size if path.exists() else 0
        if size != shard.tokens * kind.itemsize:
            raise SourceError(
                f"shard {path}: {size:,} bytes, {shard.tokens * kind.itemsize:,} expected",
                hint=hint,
            )
        if verify and _sha256(path) != shard.sha256:
            raise SourceError(f"shard {path}: its content is not what was written", hint=hint)
        opened.append(np.memmap(path, dtype=kind, mode="r"))
    return opened


def document_starts(folder: Path) -> npt.NDArray[np.int64]:
    """Token offsets of the documents over all shards, and the total; shape (documents + 1,)."""
    starts: npt.NDArray[np.int64] = np.load(folder / OFFSETS_FILE, mmap_mode="r")
    return starts


class _Encoder:
    """Documents to token ids, with what the layout puts between and into them."""

    def __init__(
        self,
        tokenizer: Path,
        layout: Layout,
        marks: Marks,
        report: Callable[[int, int], None],
        total: int,
    ) -> None:
        self.encoder, self.info = load_tokenizer(tokenizer)
        self.layout, self.report, self.total = layout, report, total
        self.ordered = layout.order != "as_read" or layout.boundary == "repository"
        self.keys = Keys(layout)
        """Of each document encoded, where order or boundaries ask for them."""
        self.sizes = array("q")
        """UTF-8 bytes of each document encoded."""
        begin = [self._id(marks.begin)] if layout.boundary == "begin_end" else []
        self.begin = np.array(begin, dtype=np.int64)
        self.end = np.array([self.info.end_of_text], dtype=np.int64)
        self.edges = len(begin) + 1
        fill = marks.fill or ("", "", "")
        self.fill = [self._id(name) for name in fill] if layout.fim_rate else []

    def _id(self, name: str) -> int:
        found = self.encoder.token_to_id(name)
        if found is None:
            raise SourceError(
                f"tokenizer: no token {name!r}, which the layout asks for",
                hint="set boundary: end and fim_rate: 0, or take a tokenizer that has it",
            )
        return int(found)

    def bodies(self, documents: Iterable[Document], chosen: Mask | None) -> Iterator[list[int]]:
        """Ids of each chosen document, marks for filling in included, boundaries not."""
        done = 0
        for batch, cuts, found in self._encoded(documents, chosen):
            encodings = iter(found.result())
            for document, pieces in zip(batch, cuts, strict=True):
                self.sizes.append(len(document.text.encode()))
                done += self.sizes[-1]
                if self.ordered:
                    self.keys.add(document)
                if pieces is None:
                    yield next(encodings).ids
                    continue
                before, after, between = self.fill
                yield arranged(
                    *(next(encodings).ids for _ in range(3)),
                    marks=(before, after, between),
                    suffix_first=pieces.suffix_first,
                )
            self.report(min(done, self.total), self.total)

    def _encoded(
        self, documents: Iterable[Document], chosen: Mask | None
    ) -> Iterator[tuple[list[Document], list[Pieces | None], Future[list[Any]]]]:
        """Batches, their cuts and their encodings; one is encoded while the last one is used.

        What is done with ids is one thread's work, and the encoder's threads need not wait for it.
        """
        ready = None
        with ThreadPoolExecutor(1) as pool:
            for batch in _batches(documents, chosen):
                cuts = [cut(document.text, document.id, self.layout) for document in batch]
                texts = [
                    text
                    for document, pieces in zip(batch, cuts, strict=True)
                    for text in ((document.text,) if pieces is None else pieces[:3])
                ]
                encode = self.encoder.encode_batch_fast
                following = batch, cuts, pool.submit(encode, texts, add_special_tokens=False)
                if ready is not None:
                    yield ready
                ready = following
            if ready is not None:
                yield ready

    def whole(self, bodies: Sequence[Sequence[int]] | Sequence[Tokens]) -> Ints:
        """One run of documents with its boundaries: (tokens,)."""
        parts = [np.asarray(body, dtype=np.int64) for body in bodies]
        return np.concatenate([self.begin, *parts, self.end])


def _laid_out(
    open_documents: Callable[[], Iterable[Document]],
    encoder: _Encoder,
    waiting: Shards,
    shards: Shards,
    max_tokens: int | None,
) -> tuple[int, int]:
    """Encodes into `waiting`, then writes what is kept, in order; returns (documents, bytes)."""
    order = chosen = None
    if max_tokens is not None:
        order, chosen = _seeded_candidates(open_documents(), max_tokens)
    for body in encoder.bodies(open_documents(), chosen):
        waiting.add(np.array(body, dtype=np.int64))
    kept = np.arange(len(encoder.sizes))
    with waiting.reader() as reader:
        if order is not None and chosen is not None:
            assert max_tokens is not None
            position = np.cumsum(chosen) - 1  # of a chosen document among those encoded
            ranked = position[order[chosen[order]]]
            reached = np.cumsum(reader.lengths[ranked] + encoder.edges)
            fitting = int(np.searchsorted(reached, max_tokens, side="right"))
            kept = np.sort(ranked[: max(1, fitting)])
        ordered = encoder.keys.order(kept) if encoder.ordered else kept
        begins = encoder.keys.runs(ordered) if encoder.ordered else np.arange(len(kept) + 1)
        if encoder.layout.packing == "concatenate":
            for first, last in pairwise(begins):
                shards.add(encoder.whole([reader[i] for i in ordered[first:last]]))
        else:
            _packed(ordered, begins, reader, encoder, shards)
    return len(kept), int(np.array(encoder.sizes)[kept].sum())


def _packed(ordered: Ints, begins: Ints, reader: Reader, encoder: _Encoder, shards: Shards) -> None:
    """Writes runs of documents by best fit; in the index every stretch is a document.

    Args:
        ordered: (n,) documents in their order.
        begins: (runs + 1,) where in it each run begins.
    """
    sequence, end = encoder.layout.sequence, encoder.info.end_of_text
    assert sequence is not None
    tokens = np.concatenate([[0], np.cumsum(reader.lengths[ordered])])[begins]
    for start in range(0, len(begins) - 1, BATCH):
        batch = begins[start : start + BATCH + 1]
        lengths = np.diff(tokens[start : start + BATCH + 1]) + encoder.edges
        for row in best_fit(lengths.tolist(), sequence):
            for span in row:
                run = ordered[batch[span.item] : batch[span.item + 1]]
                ids = encoder.whole([reader[i] for i in run])
                shards.add(ids[span.first : span.last])
            shards.pad(-shards.tokens % sequence, end)
    shards.pad(1, end)  # the last window's last token is followed by one too


def _finished(
    shards: Shards, provenance: Provenance, encoder: _Encoder, *, documents: int, size: int
) -> Manifest:
    """Writes the index and returns the manifest."""
    shards.close()
    starts = np.array(shards.starts, dtype=np.int64)
    np.save(shards.folder / OFFSETS_FILE, starts)
    tokens = shards.tokens - shards.padding
    dtype: Literal["uint16", "uint32"] = "uint32" if shards.kind.itemsize == 4 else "uint16"
    index = hashlib.sha256(starts.tobytes()).hexdigest()
    tokenizer = encoder.info.content
    content = address([tokenizer, dtype, [s.sha256 for s in shards.shards], index, size])
    return Manifest(
        name=provenance.name,
        kind=provenance.kind,
        documents_address=provenance.documents_address,
        tokenizer=tokenizer,
        vocabulary=encoder.info.vocabulary,
        dtype=dtype,
        tokens=tokens,
        padding=shards.padding,
        bytes=size,
        documents=documents,
        dropped=provenance.dropped,
        shards=tuple(shards.shards),
        content=content,
        layout=encoder.layout,
        licence=provenance.licence,
        evidence=provenance.evidence,
        # what was paid for all curated bytes, per byte, times the bytes in a token
        cost=provenance.paid.per_token(size / provenance.bytes / tokens),
        notes=provenance.notes,
    )


def _batches(documents: Iterable[Document], chosen: Mask | None) -> Iterator[list[Document]]:
    """The chosen documents in batches of about `BATCH_BYTES` of text."""
    batch: list[Document] = []
    size = 0
    for index, document in enumerate(documents):
        if chosen is not None and not chosen[index]:
            continue
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _seeded_candidates(documents: Iterable[Document], max_tokens: int) -> tuple[Ints, Mask]:
    """(Seeded order of the documents, which of them can be among the first `max_tokens`)."""
    keys, sizes = [], array("q")
    for document in documents:
        keys.append(seeded_order(document.id, "max_tokens"))
        sizes.append(len(document.text.encode()))
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
    before = np.cumsum(np.array(sizes)[order]) - np.array(sizes)[order]
    chosen = np.zeros(len(keys), dtype=bool)
    chosen[order[before < MOST_BYTES_PER_TOKEN * max_tokens]] = True
    return order, chosen


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
