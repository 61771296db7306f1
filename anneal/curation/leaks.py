"""Leaks: when an annotator's idea of quality is likeness to what runs are scored on.

A filter's ROC-AUC says how well it tells its positives from the pool, and filters with a higher one
made better models on benchmarks that looked like the positives (Arctic-SnowCoder, arXiv 2409.02326,
section 4.3). So "quality" is alignment with what is measured, and where positives and target are
of one origin, neither the ROC-AUC nor the gain says anything about other targets. No document of
the target need be in the source for that, so decontamination does not see it. Three signs are
looked for: positives that come from the same files as a target, 13-grams that they share, and an
annotator that tells the target's documents from the pool as well as it does its own positives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from anneal.curation.ranking import Auc
from anneal.curation.shingles import shingles
from anneal.curation.steps import Annotate, Step
from anneal.sources.documents import read_documents
from anneal.sources.files import input_files
from anneal.sources.values import HuggingFaceReader, PreparedReader, Reader, Source, Target

NOTE = "annotator_warning"
"""Note of a manifest that says so."""

NGRAM = 13
"""Words, as decontamination has it by default."""

SMALL = 0.01
"""Share of the positives' n-grams in a target that is worth a warning; unrelated text has none,
and licence headers alone stay below."""


LIKE = 0.9
"""Least ROC-AUC of a target's documents that is worth a warning."""


def kin(
    steps: Sequence[Step],
    sources: Mapping[str, Source],
    targets: Iterable[Target],
    *,
    base: Path,
) -> dict[str, tuple[str, ...]]:
    """By source that annotators in `steps` learn from, the targets with a file in common with it.

    Args:
        steps: of one source.
        sources: by name; a prepared source counts as what it is made from.
        targets: targets and guards.
        base: folder that relative paths start from.
    """
    found = {}
    for step in steps:
        if isinstance(step, Annotate) and step.positives:
            read = sources[step.positives].read
            while isinstance(read, PreparedReader):
                read = sources[read.source].read
            same = (t.name for t in targets if same_input(read, t.read, base=base))
            found[step.positives] = tuple(sorted(same))
    return found


def same_input(one: Reader, other: Reader, *, base: Path) -> bool:
    """Whether two readers read a file in common, or parts of one dataset.

    Args:
        one, other: readers of their own input, none of them `prepared`.
        base: folder that relative paths start from.
    """
    if isinstance(one, HuggingFaceReader) and isinstance(other, HuggingFaceReader):
        return one.path == other.path  # `split` is the part that is taken of it
    if isinstance(one, HuggingFaceReader | PreparedReader) or isinstance(
        other, HuggingFaceReader | PreparedReader
    ):
        return False
    ours, theirs = (
        {Path(file.path).resolve() for file in input_files(reader, base=base)}
        for reader in (one, other)
    )
    return not ours.isdisjoint(theirs)


def shared_ngrams(texts: Iterable[str], targets: Mapping[str, Path]) -> dict[str, float]:
    """By target, the share of the distinct 13-grams of `texts` that occur in it.

    Args:
        texts: the positive examples.
        targets: folders of prepared documents, by name.
    """
    own = np.unique(np.concatenate([shingles(text, NGRAM) for text in texts]))
    found = {}
    for name, folder in targets.items():
        theirs = [shingles(document.text, NGRAM) for document in read_documents(folder)]
        found[name] = float(np.isin(own, np.concatenate(theirs)).mean())
    return found


def signs(kin: Sequence[str], shared: Mapping[str, float]) -> list[str]:
    """What speaks for a leak in the positives themselves.

    Args:
        kin: targets that read the same files.
        shared: of `shared_ngrams`.
    """
    return [f"come from the same files as target `{name}`" for name in kin] + [
        f"share {part:.1%} of their {NGRAM}-grams with target `{name}`"
        for name, part in shared.items()
        if part > SMALL
    ]


def as_high(positives: Auc, targets: Mapping[str, Auc]) -> list[str]:
    """Signs that a target is told from the same other documents as well as the positives are:
    its ROC-AUC is within or above their interval.

    Args:
        positives: of the positives that were held out.
        targets: of documents of each target.
    """
    return [
        f"are told from other documents hardly better than target `{name}` is"
        f" (ROC-AUC {positives.value:.3f} and {auc.value:.3f})"
        for name, auc in targets.items()
        if auc.value >= max(LIKE, positives.low)
    ]


def warning(positives: str, found: Sequence[str]) -> str:
    """What a reader of the ROC-AUC must know, given some signs."""
    return (
        f"positives `{positives}` {' and '.join(found)}: its ROC-AUC and what it keeps measure"
        " likeness to the target, not quality in general"
    )
