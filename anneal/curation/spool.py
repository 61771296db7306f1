"""A spool: documents on their way through a compressed file, in the order they came.

What must see all documents before it can let the first one go keeps them here, so that memory does
not grow with them. The file is scratch, read once by the process that wrote it: blocks of a few
hundred kilobytes, each with the small fields of its documents as JSON and their texts behind it.
Texts outside of JSON make it twice as quick as the file that prepared documents are kept in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from anneal.sources.documents import Document

_FIELDS = [field.name for field in fields(Document) if field.name != "text"]


class Spool:
    """Batches of documents are added; iterating then gives the documents.

    Args:
        path: the file; made here.
    """

    def __init__(self, path: Path) -> None:
        import zstandard

        self.path = path
        self.path.touch()
        self._compress = zstandard.ZstdCompressor(level=1).compress
        self._decompress = zstandard.ZstdDecompressor().decompress

    def add(self, batch: Sequence[Document]) -> None:
        """Appends one block."""
        texts = [document.text.encode() for document in batch]
        rows = [[getattr(document, name) for name in _FIELDS] for document in batch]
        head = json.dumps([rows, [len(text) for text in texts]]).encode()
        block = self._compress(b"".join([len(head).to_bytes(8, "little"), head, *texts]))
        with open(self.path, "ab") as file:
            file.write(len(block).to_bytes(8, "little") + block)

    def __iter__(self) -> Iterator[Document]:
        with open(self.path, "rb") as file:
            while size := file.read(8):
                block = self._decompress(file.read(int.from_bytes(size, "little")))
                at = 8 + int.from_bytes(block[:8], "little")
                rows, lengths = json.loads(block[8:at])
                for row, length in zip(rows, lengths, strict=True):
                    text = block[at : at + length].decode()
                    at += length
                    yield Document(text=text, **dict(zip(_FIELDS, row, strict=True)))
