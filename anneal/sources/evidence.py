"""Evidence: what documents say of where they come from, counted, and what may not be used.

A licence that a sweep forbids must not slip in with one document out of a million, so each is asked
for its own. The counts then travel with the tokens to the manifest: by licence, by language, by
origin. They stay small whatever the corpus: origins are cut short until there are few of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import islice

from anneal.sources.documents import Document
from anneal.sources.values import Counted, Evidence

NOT_STATED = "not stated"
OTHERS = "others"
MOST = 50
"""Names counted by themselves; beyond, origins are cut shorter and the rest are `OTHERS`."""

_ALTERNATIVES = re.compile(r"\s+OR\s+", re.IGNORECASE)
_PARTS = re.compile(r"\s+(?:AND|OR|WITH)\s+|[,;()]", re.IGNORECASE)
_SEPARATORS = re.compile(r"[/:#]")
_PLACE = re.compile(r":\d+\Z")
"""A line or row within a file: no part of where it comes from."""
_DEEPEST = 8
"""Parts of an origin that are kept at first."""


def forbidden(licence: str, names: Sequence[str]) -> bool:
    """Whether `names` forbid a licence; they may hold `*`, and case does not matter.

    In an SPDX expression every part of an AND must be allowed, and one side of an OR. With brackets
    every part must be: an error on the safe side. A licence that is not stated is not forbidden.
    """
    if not licence or not names:
        return False
    patterns = [name.casefold() for name in names]

    def refused(name: str) -> bool:
        return any(fnmatchcase(name.strip().casefold(), pattern) for pattern in patterns)

    if refused(licence):
        return True
    either = [licence] if "(" in licence else _ALTERNATIVES.split(licence)
    return all(any(map(refused, _PARTS.split(one))) for one in either)


def permitted(
    stream: Iterable[Document], names: Sequence[str], dropped: Counter[str]
) -> Iterator[Document]:
    """The documents whose own licence `names` do not forbid; the others are counted."""
    known: dict[str, bool] = {}
    for document in stream:
        licence = document.licence
        if licence not in known:
            known[licence] = forbidden(licence, names)
        if known[licence]:
            dropped["forbidden licence"] += 1
        else:
            yield document


class Census:
    """Counts what the documents of a stream say of themselves, as they pass."""

    def __init__(self) -> None:
        self.licences: dict[str, list[int]] = {}
        self.languages: dict[str, list[int]] = {}
        self.origins: dict[str, list[int]] = {}
        self.identified = 0
        self.depth = _DEEPEST

    def of(self, stream: Iterable[Document]) -> Iterator[Document]:
        """The stream as it is; the counts are complete when it is used up."""
        for document in stream:
            size = len(document.text.encode())
            _add(self.licences, document.licence or NOT_STATED, 1, size)
            _add(self.languages, document.language or NOT_STATED, 1, size)
            self.identified += bool(document.identifier)
            origin = _beginning(_PLACE.sub("", document.origin), self.depth)
            self._origin(origin or NOT_STATED, size)
            yield document

    @property
    def evidence(self) -> Evidence:
        """The counts so far, by name."""
        return Evidence(
            licences=_counted(self.licences),
            languages=_counted(self.languages),
            origins=_counted(self.origins),
            identified=self.identified,
        )

    def _origin(self, origin: str, size: int) -> None:
        while origin not in self.origins and len(self.origins) >= MOST and self.depth > 1:
            self.depth -= 1
            longer, self.origins = self.origins, {}
            for name, (documents, size_of_it) in longer.items():
                _add(self.origins, _beginning(name, self.depth), documents, size_of_it)
            origin = _beginning(origin, self.depth)
        _add(self.origins, origin, 1, size)


def _add(counts: dict[str, list[int]], name: str, documents: int, size: int) -> None:
    known = counts.get(name)
    if known is None:
        known = counts.setdefault(name if len(counts) < MOST else OTHERS, [0, 0])
    known[0] += documents
    known[1] += size


def _beginning(origin: str, parts: int) -> str:
    """The first parts of an origin, as `/`, `:` and `#` part it."""
    for separator in islice(_SEPARATORS.finditer(origin), parts - 1, parts):
        return origin[: separator.start()]
    return origin


def _counted(counts: dict[str, list[int]]) -> dict[str, Counted]:
    return {name: Counted(documents=n, bytes=size) for name, (n, size) in sorted(counts.items())}
