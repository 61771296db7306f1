"""Fill-in-the-middle: a document cut in three and rearranged so that its middle comes last.

A model trained left to right on rearranged documents learns to write what is missing between a
prefix and a suffix, at no cost in left-to-right ability (Bavarian et al., arXiv 2207.14255). The
cuts fall between characters, uniformly: a model is asked to fill in at places that are no token
boundary. Two orders are in use:

    PSM  <prefix> prefix <suffix> suffix <middle> middle
    SPM  <prefix> <suffix> suffix <middle> prefix middle

Which documents, where and in which order follows from the seed and the document's identity alone,
so it is the same however the documents are ordered, batched or resumed. Pieces are encoded one by
one; a tokenizer that puts a space before every text puts one before each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from anneal.sources.files import seeded_order
from anneal.sources.layout import Layout


class Pieces(NamedTuple):
    """A document to be rearranged; prefix + middle + suffix is its text."""

    prefix: str
    middle: str
    suffix: str
    suffix_first: bool
    """SPM; else PSM."""


def cut(text: str, identity: str, layout: Layout) -> Pieces | None:
    """Cuts a document in three, or leaves it as it is (None).

    Args:
        text: of the document.
        identity: of the document: decides, with the layout's seed.
        layout: rate, share of SPM, seed.
    """
    if not layout.fim_rate:
        return None
    drawn = seeded_order(identity, f"fill {layout.seed}")
    taken, order, *places = (int.from_bytes(drawn[i : i + 8], "big") for i in range(0, 32, 8))
    if taken >= layout.fim_rate * 2**64:
        return None
    first, last = sorted(place * (len(text) + 1) >> 64 for place in places)
    return Pieces(text[:first], text[first:last], text[last:], order < layout.spm_share * 2**64)


def arranged(
    prefix: Sequence[int],
    middle: Sequence[int],
    suffix: Sequence[int],
    *,
    marks: tuple[int, int, int],
    suffix_first: bool,
) -> list[int]:
    """Token ids in their new order.

    Args:
        prefix, middle, suffix: ids of each piece.
        marks: ids of the prefix, suffix and middle tokens.
        suffix_first: SPM; else PSM.
    """
    before, after, between = marks
    if suffix_first:
        return [before, after, *suffix, between, *prefix, *middle]
    return [before, *prefix, after, *suffix, between, *middle]
