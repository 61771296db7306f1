"""Tokens: documents become memory-mapped shards of ids, and a manifest that says what is there.

A shard is nothing but ids, little-endian uint16 or uint32, documents one after another, each with
its end-of-text. `documents.npy` holds where documents start, over all shards. So a reader maps the
files and slices: no parsing, no copy, page cache shared by all workers of a machine.

Shards lie in `tokens/<content>/`, under the hash of what they hold: the same tokens have the same
name whatever recipe they came from, and that name is what a run is identified by. The recipe's own
folder, known before anything is made, holds a copy of the manifest: that a recipe is done, and what
came out, is read there.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from anneal.errors import SourceError
from anneal.sources.documents import Document
from anneal.sources.files import seeded_order
from anneal.sources.tokenizer import load_tokenizer
from anneal.sources.values import Cost, Evidence, Kind, Manifest, Name, Shard
from anneal.store import Store, write_value, writing
from anneal.values import Value, address

Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]

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
        report: called with (bytes of text encoded, bytes in all).
        shard_tokens: most tokens in one file.

    Raises:
        SourceError: no document.
        StoreError: the disk is full or refuses.
    """
    encoder, info = load_tokenizer(tokenizer)
    wide = info.vocabulary > 2**16
    with writing(store.tokens(recipe)) as scratch:

        def encoded(chosen: npt.NDArray[np.bool_] | None, writer: _Writer) -> None:
            for texts in _batches(open_documents(), chosen):
                encodings = encoder.encode_batch_fast(texts, add_special_tokens=False)
                for text, encoding in zip(texts, encodings, strict=True):
                    writer.add(np.array([*encoding.ids, info.end_of_text]), len(text.encode()))
                report(min(sum(writer.sizes), provenance.bytes), provenance.bytes)

        if max_tokens is None:
            writer = _Writer(scratch, wide, shard_tokens)
            encoded(None, writer)
        else:
            (scratch / "candidates").mkdir()
            candidates = _Writer(scratch / "candidates", wide, shard_tokens)
            order, chosen = _seeded_candidates(open_documents(), max_tokens)
            encoded(chosen, candidates)
            writer = _Writer(scratch, wide, shard_tokens)
            for ids, size in candidates.pick(order, chosen, max_tokens):
                writer.add(ids, size)
            candidates.remove()
        if not writer.sizes:
            raise SourceError(f"`{provenance.name}`: no document to tokenise")
        manifest = writer.finish(provenance, info.content, info.vocabulary)
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


class _Writer:
    """Appends documents to shards of at most `shard_tokens`, hashing as it writes."""

    def __init__(self, folder: Path, wide: bool, shard_tokens: int) -> None:
        self.folder = folder
        self.kind = np.dtype("<u4" if wide else "<u2")
        self.shard_tokens = shard_tokens
        self.shards: list[Shard] = []
        self.starts = array("q", [0])
        self.sizes = array("q")
        self.file: IO[bytes] | None = None
        self.written = 0
        self.digest = hashlib.sha256()

    def add(self, ids: npt.NDArray[np.integer], size: int) -> None:
        """One document: its ids, shape (tokens,), and the bytes of its text."""
        data = ids.astype(self.kind)
        self.starts.append(self.starts[-1] + len(data))
        self.sizes.append(size)
        while len(data):
            if self.file is None:
                path = self.folder / f"{len(self.shards):05d}.bin"
                self.file = open(path, "wb")  # noqa: SIM115  closed by close()
            part, data = np.split(data, [self.shard_tokens - self.written])
            raw = part.tobytes()
            self.file.write(raw)
            self.digest.update(raw)
            self.written += len(part)
            if self.written == self.shard_tokens:
                self.close()

    def close(self) -> None:
        """Ends the current shard."""
        if self.file is not None:
            name = Path(self.file.name).name
            self.file.close()
            shard = Shard(file=name, tokens=self.written, sha256=self.digest.hexdigest())
            self.shards.append(shard)
            self.file, self.written, self.digest = None, 0, hashlib.sha256()

    def pick(
        self, order: npt.NDArray[np.int64], chosen: npt.NDArray[np.bool_], max_tokens: int
    ) -> Iterator[tuple[Tokens, int]]:
        """The documents, in stream order, that come first in `order` and fit; at least one."""
        self.close()
        position = np.cumsum(chosen) - 1  # of a chosen document among those written
        ranked = position[[i for i in order if chosen[i]]]
        lengths = np.diff(np.array(self.starts))
        fitting = int(np.searchsorted(np.cumsum(lengths[ranked]), max_tokens, side="right"))
        maps = [np.memmap(self.folder / s.file, dtype=self.kind, mode="r") for s in self.shards]
        for i in sorted(ranked[: max(1, fitting)]):
            start, stop = self.starts[i], self.starts[i + 1]
            spans = range(start // self.shard_tokens, (stop - 1) // self.shard_tokens + 1)
            parts = [
                maps[s][max(0, start - s * self.shard_tokens) : stop - s * self.shard_tokens]
                for s in spans
            ]
            yield np.concatenate(parts), self.sizes[i]

    def remove(self) -> None:
        """Deletes what was written."""
        for shard in self.shards:
            (self.folder / shard.file).unlink()
        self.folder.rmdir()

    def finish(self, provenance: Provenance, tokenizer: str, vocabulary: int) -> Manifest:
        """Writes the index and returns the manifest."""
        self.close()
        starts = np.array(self.starts, dtype=np.int64)
        np.save(self.folder / OFFSETS_FILE, starts)
        tokens, size = int(starts[-1]), sum(self.sizes)
        dtype: Literal["uint16", "uint32"] = "uint32" if self.kind.itemsize == 4 else "uint16"
        index = hashlib.sha256(starts.tobytes()).hexdigest()
        content = address([tokenizer, dtype, [s.sha256 for s in self.shards], index, size])
        # what was paid for all curated bytes, per byte, times the bytes in a token
        share = size / provenance.bytes / tokens
        paid = provenance.paid
        cost = Cost(
            seconds_fixed=paid.seconds_fixed,
            seconds_per_token=paid.seconds_per_token * share,
            flops_fixed=paid.flops_fixed,
            flops_per_token=paid.flops_per_token * share,
            usd_fixed=paid.usd_fixed,
            usd_per_token=paid.usd_per_token * share,
        )
        return Manifest(
            name=provenance.name,
            kind=provenance.kind,
            documents_address=provenance.documents_address,
            tokenizer=tokenizer,
            vocabulary=vocabulary,
            dtype=dtype,
            tokens=tokens,
            bytes=size,
            documents=len(self.sizes),
            dropped=provenance.dropped,
            shards=tuple(self.shards),
            content=content,
            licence=provenance.licence,
            evidence=provenance.evidence,
            cost=cost,
            notes=provenance.notes,
        )


def _batches(
    documents: Iterable[Document], chosen: npt.NDArray[np.bool_] | None
) -> Iterator[list[str]]:
    """Texts of the chosen documents in batches of about `BATCH_BYTES`."""
    batch: list[str] = []
    size = 0
    for index, document in enumerate(documents):
        if chosen is not None and not chosen[index]:
            continue
        batch.append(document.text)
        size += len(document.text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _seeded_candidates(
    documents: Iterable[Document], max_tokens: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
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
