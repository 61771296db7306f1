"""Quality: an annotator scores every candidate, and the best are kept.

The recipe is Arctic-SnowCoder's (arXiv 2409.02326, section 2.2): learn to tell documents known to
be good from random documents of the candidate pool, rank the pool, keep the top.

What is metered. Scoring touches every candidate, kept or not, so its seconds and FLOPs are charged
to the tokens that are kept. Learning is the fixed cost. A score that was found in the cache is
charged what it did cost when it was made, and once: a source costs what its recipe costs, in
whatever order, and after however many kills, sources were prepared.
"""

from __future__ import annotations

import heapq
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anneal.curation import leaks
from anneal.curation.annotators import Annotator, Learned, Spent, text_key
from anneal.curation.chain import Context, Tally
from anneal.curation.models import model_fingerprint
from anneal.curation.ranking import Auc, Floats, Mask, best, best_within, roc_auc
from anneal.curation.scores import Rows, digests
from anneal.curation.steps import Annotate
from anneal.errors import SourceError
from anneal.sources.documents import (
    DOCUMENTS_FILE,
    Document,
    read_documents,
    write_documents,
)

LEAST = 20
"""Examples of each kind below which nothing is learnt."""

WINDOW = 256
"""Candidates that are looked up, scored and remembered together."""

OF_TARGET = 100
"""Documents of a target that are scored for the report."""

TOLD = 8
"""Languages or groups that the notes tell of: the largest."""

WORDS = {
    "linear": "logistic regression on hashed word n-grams",
    "encoder": "logistic regression on an encoder's sentence vectors",
    "hf": "sequence classifier trained elsewhere",
}


def annotate(
    stream: Iterable[Document], step: Annotate, context: Context, tally: Tally
) -> Iterator[Document]:
    """Scores all of `stream` by an annotator and gives back the best of it, in order.

    Candidates are spooled to disk in between, so memory holds a sample and one score a document.

    Raises:
        SourceError: too few documents to learn from, a model that cannot be used, a score that is
            no number, or `within` something that no document has.
    """
    pool = _Pool(_Sample(step.examples, f"negative/{step.seed}"))
    spool = Path(tempfile.mkdtemp(dir=context.scratch))  # a chain may have two annotators
    write_documents(spool / DOCUMENTS_FILE, pool.watch(stream))
    if step.within != "all" and not any(getattr(pool, step.within).names):
        raise SourceError(
            f"annotator: within {step.within}, but no document has a {step.within}",
            hint="rank `within: all`, or let the reader say what each document is",
        )
    annotator, learned, signs = _annotator(step, pool, context, tally)
    rows = Rows(context.store.cache("scores") / annotator.key, 1)
    try:
        ranked = _scores(annotator, rows, pool, spool, context, tally)
        against = ranked if learned is None else learned.other
        targets = _of_targets(annotator, rows, against, context, tally)
    finally:
        rows.close()
    scores = annotator.probability(ranked)
    sizes = np.array(pool.sizes)
    if step.keep is None:
        assert step.threshold is not None
        kept = scores >= step.threshold
    elif step.within == "all":
        kept = best(ranked, sizes, step.keep)
    else:
        kept = best_within(ranked, sizes, getattr(pool, step.within).codes, step.keep)
    tally.notes |= _selection(step, pool, scores, kept)
    if targets:
        told = [f"{name} {auc.value:.3f}" for name, auc in targets.items()]
        tally.notes["annotator_roc_auc_of_targets"] = ", ".join(told)
    if learned is not None:
        signs += leaks.as_high(learned.auc, targets)
    if signs:
        tally.notes[leaks.NOTE] = leaks.warning(str(step.positives), signs)
    for document, keep, score in zip(read_documents(spool), kept, scores, strict=True):
        if keep:
            yield document
        else:
            tally.drop(document, "low quality score", measured=round(float(score), 4))


def _annotator(
    step: Annotate, pool: _Pool, context: Context, tally: Tally
) -> tuple[Annotator, Learned | None, list[str]]:
    """The annotator that `step` describes, how it was learnt, and signs of a leak in its examples.

    Learning is told and charged in `tally`; one that was trained elsewhere has none.
    """
    model = model_fingerprint(step, base=context.base, store=context.store) if step.model else ""
    tally.notes["annotator"] = WORDS[step.annotator]
    if step.model:
        tally.notes["annotator_model"] = f"{Path(step.model).name} {model}"
    if step.annotator == "hf":
        from anneal.curation.neural import classifier

        loading = Spent()
        with loading.timing(device=False):
            found = classifier(step, base=context.base, model=model)
        tally.seconds_fixed = loading.seconds
        return found, None, []
    good, other = _examples(step, pool, context)
    learned = _learn(step, good, other, context, model)
    tally.seconds_fixed = learned.spent.seconds
    tally.seconds_unseen += learned.spent.unseen
    tally.flops_fixed = learned.flops
    assert step.positives is not None
    auc = learned.auc
    tally.notes |= {
        "positives": step.positives,
        "annotator_roc_auc": round(auc.value, 4),
        "annotator_roc_auc_interval": f"{auc.low:.4f} to {auc.high:.4f} (90%)",
        "annotator_examples": len(good) + len(other),
    }
    if step.negatives:
        tally.notes["negatives"] = step.negatives
    kin = context.kin.get(step.positives, ())
    return learned.annotator, learned, leaks.signs(kin, leaks.shared_ngrams(good, context.targets))


def _examples(step: Annotate, pool: _Pool, context: Context) -> tuple[list[str], list[str]]:
    """(Texts that are good, texts that are not)."""
    good, other = _Sample(step.examples, f"positive/{step.seed}"), pool.sample
    assert step.positives is not None
    for document in read_documents(context.upstream[step.positives]):
        good.see(document)
    if step.negatives is not None:
        other = _Sample(step.examples, f"negative/{step.seed}")
        for document in read_documents(context.upstream[step.negatives]):
            other.see(document)
    if min(len(good.heap), len(other.heap)) < LEAST:
        kind = "candidates" if step.negatives is None else "negatives"
        raise SourceError(
            f"annotator: {len(good.heap)} positives and {len(other.heap)} {kind},"
            f" at least {LEAST} of each are needed",
            hint=f"give `{step.positives}` and"
            f" {f'`{step.negatives}`' if step.negatives else 'the annotated source'}"
            " more documents",
        )
    return good.texts, other.texts


def _learn(
    step: Annotate, good: list[str], other: list[str], context: Context, model: str
) -> Learned:
    if step.annotator == "linear":
        from anneal.curation.linear import learn_linear

        return learn_linear(good, other, step)
    from anneal.curation.neural import learn_encoder

    return learn_encoder(
        good, other, step, base=context.base, model=model, cache=context.store.cache("scores")
    )


def _scores(
    annotator: Annotator, rows: Rows, pool: _Pool, spool: Path, context: Context, tally: Tally
) -> Floats:
    """Score of every candidate, (documents,), charged whether it was known or not."""
    scores, total, done = np.empty(len(pool.sizes)), sum(pool.sizes), 0
    candidates = read_documents(spool)
    for start in range(0, len(scores), WINDOW):
        window = list(islice(candidates, WINDOW))
        stop = start + len(window)
        scores[start:stop], flops, spent = _window(annotator, rows, window)
        tally.flops += flops
        tally.seconds_unseen += spent.unseen
        done += sum(pool.sizes[start:stop])
        context.report(done, total)
    return scores


def _of_targets(
    annotator: Annotator, rows: Rows, other: Floats, context: Context, tally: Tally
) -> dict[str, Auc]:
    """By target, how well its documents are told from `other` ones: how far quality is likeness.

    Evidence for the report, on a few documents: no part of what the source costs, so the seconds
    that the meter sees of it are taken back.
    """
    found = {}
    for name, folder in sorted(context.targets.items()):
        sample = _Sample(OF_TARGET, "target")
        for document in read_documents(folder):
            sample.see(document)
        some = [Document(name, text, "", f"target `{name}`") for text in sample.texts]
        scores, _, spent = _window(annotator, rows, some)
        tally.seconds_unseen += spent.unseen - spent.seconds
        found[name] = roc_auc(scores, other)
    return found


def _window(
    annotator: Annotator, rows: Rows, window: Sequence[Document]
) -> tuple[Floats, float, Spent]:
    """(Scores of some documents, FLOPs, seconds) as if none were known; those that are, are not
    scored again.

    Raises:
        SourceError: when a score is not a number.
    """
    keys = digests([document.text.encode() for document in window])
    place = rows.find(keys)
    new, old = np.flatnonzero(place < 0), np.flatnonzero(place >= 0)
    scores, spent = np.empty(len(window)), Spent()
    scores[old] = rows.known["value"][place[old], 0]
    total = float(rows.known["flops"][place[old]].sum())
    if len(new):
        with spent.timing(device=annotator.on_device):
            scores[new], flops = annotator.score([window[i].text for i in new])
        if not np.isfinite(scores[new]).all():
            first = window[int(np.flatnonzero(~np.isfinite(scores))[0])]
            raise SourceError(
                f"annotator: the score of document `{first.id}` ({first.origin}) is not a number",
                hint="its weights are damaged or overflow: save the model afresh",
            )
        rows.add(keys[new], scores[new, None], flops, spent.seconds * flops / flops.sum())
        total += float(flops.sum())
    spent.add_known(rows.known["seconds"][place[old]])
    return scores, total, spent


def _selection(
    step: Annotate,
    pool: _Pool,
    scores: Floats,
    kept: Mask,
) -> dict[str, str | int | float]:
    """What was kept, of what: byte shares, scores, and how long a document is before and after.

    Filters like long documents or short ones, and a source of other lengths is another source
    whatever its quality: the ratio of mean lengths says how far this one moved.
    """
    sizes = np.array(pool.sizes)
    asked = {"keep_asked": step.keep} if step.keep else {"threshold_asked": step.threshold}
    marks = (0.05, 0.25, 0.5, 0.75, 0.95)
    quantiles = np.quantile(scores, marks)
    notes: dict[str, str | int | float] = {k: v for k, v in asked.items() if v is not None}
    notes["keep_bytes"] = round(float(sizes[kept].sum() / sizes.sum()), 4)
    notes["score_quantiles"] = ", ".join(
        f"{mark:.0%} {value:.4g}" for mark, value in zip(marks, quantiles, strict=True)
    )
    if kept.any():
        notes["score_least_kept"] = round(float(scores[kept].min()), 6)
        notes["mean_bytes"] = round(float(sizes.mean()), 1)
        notes["mean_bytes_kept"] = round(float(sizes[kept].mean()), 1)
        notes["mean_bytes_ratio"] = round(float(sizes[kept].mean() / sizes.mean()), 4)
    for what in ("language", "group"):
        labels: _Labels = getattr(pool, what)
        if any(labels.names):
            notes[f"keep_bytes_by_{what}"] = labels.shares(sizes, kept)
    return notes


class _Labels:
    """What each document is labelled with: a number for each, and the names of the numbers."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.numbers = array("q")

    def see(self, name: str) -> None:
        self.numbers.append(self.names.setdefault(name, len(self.names)))

    @property
    def codes(self) -> npt.NDArray[np.int64]:
        return np.array(self.numbers)

    def shares(self, sizes: npt.NDArray[np.int64], kept: npt.NDArray[np.bool_]) -> str:
        """Share of the bytes kept of each label, the largest labels first."""
        count = len(self.names)
        every = np.bincount(self.codes, weights=sizes, minlength=count)
        stayed = np.bincount(self.codes, weights=sizes * kept, minlength=count)
        names = list(self.names)
        order = sorted(range(count), key=lambda i: (-every[i], names[i]))
        told = [f"{names[i] or 'none'} {stayed[i] / every[i]:.3f}" for i in order[:TOLD]]
        return ", ".join(told + ([f"and {count - TOLD} more"] if count > TOLD else []))


class _Sample:
    """A uniform sample of a stream's distinct texts: those with the smallest hashes."""

    def __init__(self, size: int, salt: str) -> None:
        self.size = size
        self.salt = salt
        self.heap: list[tuple[int, str]] = []

    def see(self, document: Document) -> None:
        item = (-text_key(self.salt, document.text), document.text)
        if len(self.heap) < self.size:
            heapq.heappush(self.heap, item)
        elif item > self.heap[0]:
            heapq.heapreplace(self.heap, item)

    @property
    def texts(self) -> list[str]:
        return [text for _, text in sorted(self.heap, reverse=True)]


@dataclass
class _Pool:
    """What is remembered of the candidates while they are spooled."""

    sample: _Sample
    sizes: array[int] = field(default_factory=lambda: array("q"))
    """UTF-8 bytes of each."""
    language: _Labels = field(default_factory=_Labels)
    group: _Labels = field(default_factory=_Labels)

    def watch(self, stream: Iterable[Document]) -> Iterator[Document]:
        for document in stream:
            self.sample.see(document)
            self.sizes.append(len(document.text.encode()))
            self.language.see(getattr(document, "language", ""))
            self.group.see(document.group)
            yield document
