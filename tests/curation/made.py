"""Documents for tests of curation."""

from __future__ import annotations

from anneal.sources.documents import Document


def wrap(texts):
    return [Document(str(i), text, "", str(i)) for i, text in enumerate(texts)]
