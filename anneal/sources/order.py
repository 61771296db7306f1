"""The order of a source's documents, and where one repository ends and the next begins.

Only keys are held in memory, 28 bytes a document; the documents themselves wait on disk. A key is a
hash under the seed, so the order is random in effect and the same on every machine, however the
documents were read.
"""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

from anneal.sources.documents import Document
from anneal.sources.files import seeded_order
from anneal.sources.layout import Layout

Ints = npt.NDArray[np.int64]


class Keys:
    """What the order of documents follows from; added in the order they are read."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.languages: dict[str, int] = {}
        self.language = array("i")
        self.repository = array("Q")
        self.file = array("Q")
        self.alone = array("B")

    def add(self, document: Document) -> None:
        """One more document. One without a group is a repository of its own."""
        language = str(getattr(document, "language", ""))
        salt = f"order {self.layout.seed}"
        self.language.append(self.languages.setdefault(language, len(self.languages)))
        file = int.from_bytes(seeded_order(document.id, f"{salt} file")[:8], "big")
        group = f"\0{document.id}" if not document.group else document.group
        self.repository.append(int.from_bytes(seeded_order(group, salt)[:8], "big"))
        self.file.append(file)
        self.alone.append(not document.group)

    def order(self, chosen: Ints) -> Ints:
        """Document numbers in the layout's order.

        Args:
            chosen: (n,) numbers of the documents that are kept, ascending.
        """
        if self.layout.order == "as_read":
            return chosen
        rank = np.argsort(np.argsort(np.array(list(self.languages))))
        language = rank[np.array(self.language)[chosen]]
        repository, file = np.array(self.repository)[chosen], np.array(self.file)[chosen]
        return np.asarray(chosen[np.lexsort((chosen, file, repository, language))])

    def runs(self, ordered: Ints) -> Ints:
        """Where runs of documents begin that share an end-of-text, and the end; (runs + 1,).

        A run is one document, or with boundary `repository` neighbours of one repository.

        Args:
            ordered: (n,) document numbers in their order.
        """
        begins = np.ones(len(ordered) + 1, dtype=bool)
        if self.layout.boundary == "repository":
            same = np.array(self.alone)[ordered[1:]] == 0
            for keys in (self.repository, self.language):
                values = np.array(keys)[ordered]
                same &= values[1:] == values[:-1]
            begins[1:-1] = ~same
        return np.flatnonzero(begins)
