"""Forbidden licences at planning: what a sweep may not be trained on is refused before any work.

A source declares a licence for all its documents, and a document can state its own. The first kind
is refused here, by name; the second is dropped document by document when the source is read
(`sources.evidence.permitted`). What is made from a source is as bound as the source itself. A
source that others are only compared with (`positives`, `negatives`, `after`) is not trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from anneal.curation.values import CuratedSource
from anneal.errors import SourceError
from anneal.sources.evidence import forbidden
from anneal.sources.values import PreparedReader


def refuse_forbidden(
    known: Mapping[str, CuratedSource], trained_on: Iterable[str], licences: Sequence[str]
) -> None:
    """Checks the declared licence of every source that is trained on, and of what it is made of.

    Raises:
        SourceError: one of them is forbidden.
    """
    for start in sorted(trained_on):
        line: list[str] = []
        name = start
        while name in known and name not in line:
            source = known[name]
            line.append(name)
            if forbidden(source.licence, licences):
                through = f", which `{start}` is made of" if name != start else ""
                raise SourceError(
                    f"source `{name}`{through}: its licence {source.licence} is forbidden"
                    f" (forbidden_licences: {', '.join(licences)})",
                    hint="take it out of the sweep, or the licence out of forbidden_licences",
                )
            name = source.read.source if isinstance(source.read, PreparedReader) else ""
