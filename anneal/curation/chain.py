"""The chain of a source's steps, each metered, and what a step may use beside its stream.

A step is a function of a stream of documents. What it drops, what it costs beyond the time its
stream takes, and what a reader of the report should know, it puts into its `Tally`. Time is the
processor's, by stream: a step's seconds are those of its own stream less those of the one before,
so a step that reads ahead or writes to disk in between is charged rightly. A step whose work is
done elsewhere (a server, a GPU) sets its seconds itself.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from anneal.curation.dropped import Detail, DroppedFile
from anneal.curation.steps import Step
from anneal.curation.values import StepRecord
from anneal.sources.documents import Document
from anneal.store import Store

Report = Callable[[int, int], None]
"""Called with (done, total) in bytes of text; total is 0 while it is not known."""


@dataclass(frozen=True)
class Context:
    """What a step may use beside its stream.

    Args:
        store: for caches that outlive the step: `store.cache(name)`.
        scratch: an empty folder on the store's disk, gone when the step is done.
        base: folder that relative paths start from (of the sweep file).
        upstream: folders of prepared documents, by name of source.
        targets: folders of prepared documents of every target and guard, by name.
        kin: by source, the targets that read files in common with it.
        report: told of progress, in bytes of text.
    """

    store: Store
    scratch: Path
    base: Path
    upstream: Mapping[str, Path]
    targets: Mapping[str, Path]
    kin: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    report: Report = lambda done, total: None


@dataclass
class Tally:
    """What a step says of itself while its stream runs; complete when the stream is used up.

    Args:
        dropped: documents, by reason.
        seconds: where the meter cannot see them: processor or device seconds of the step.
        seconds_unseen: added to what the meter sees: of a device, or of an earlier process whose
            work was found in a cache; of fixed work too.
        flops, usd: of all documents that went in.
        seconds_fixed, flops_fixed, usd_fixed: paid once.
        notes: for the report.
        listed: takes the document, reason and details of everything that `drop` is told of.
    """

    dropped: Counter[str] = field(default_factory=Counter)
    seconds: float | None = None
    seconds_unseen: float = 0.0
    flops: float = 0.0
    usd: float = 0.0
    seconds_fixed: float = 0.0
    flops_fixed: float = 0.0
    usd_fixed: float = 0.0
    notes: dict[str, str | int | float] = field(default_factory=dict)
    listed: Callable[[Document, str, Mapping[str, Detail]], None] = lambda document, why, detail: (
        None
    )

    def drop(self, document: Document, reason: str, /, **detail: Detail) -> None:
        """Counts a document that does not go on, and lists it with what the step saw in it."""
        self.dropped[reason] += 1
        self.listed(document, reason, detail)


class Meter:
    """Counts what passes through a stream."""

    def __init__(self, stream: Iterable[Document], report: Report | None = None) -> None:
        self.stream = stream
        self.report = report
        self.documents = 0
        self.bytes = 0
        self.seconds = 0.0
        """Processor seconds spent inside this stream and those before it."""

    def __iter__(self) -> Iterator[Document]:
        stream = iter(self.stream)
        while True:
            started = time.process_time()
            document = next(stream, None)
            self.seconds += time.process_time() - started
            if document is None:
                return
            self.documents += 1
            self.bytes += len(document.text.encode())
            if self.report is not None and self.documents % 64 == 0:
                self.report(self.bytes, 0)
            yield document


class Chain:
    """The steps of one source in order.

    Args:
        steps: what is done.
        read: the documents that go in.
        context: given to every step.
        dropped: the list of what was dropped, where one is kept.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        read: Meter,
        context: Context,
        dropped: DroppedFile | None = None,
    ) -> None:
        self.steps = steps
        self.meters = [read]
        self.tallies = [
            Tally(listed=partial(dropped.add, step.kind)) if dropped else Tally() for step in steps
        ]
        for number, step in enumerate(steps):
            stream = _apply(step, self.meters[-1], context, self.tallies[number])
            self.meters.append(Meter(stream))

    def __iter__(self) -> Iterator[Document]:
        return iter(self.meters[-1])

    @property
    def dropped(self) -> dict[str, int]:
        """Documents by reason, over all steps."""
        return dict(sum((tally.dropped for tally in self.tallies), Counter[str]()))

    def records(self) -> tuple[StepRecord, ...]:
        """What each step did, once the stream is used up."""
        found = []
        for number, (step, tally) in enumerate(zip(self.steps, self.tallies, strict=True)):
            before, after = self.meters[number], self.meters[number + 1]
            seen = after.seconds - before.seconds + tally.seconds_unseen - tally.seconds_fixed
            found.append(
                StepRecord(
                    step=step.kind,
                    documents=before.documents,
                    kept=after.documents,
                    bytes=before.bytes,
                    kept_bytes=after.bytes,
                    dropped=dict(tally.dropped),
                    seconds=max(0.0, seen) if tally.seconds is None else tally.seconds,
                    flops=tally.flops,
                    usd=tally.usd,
                    seconds_fixed=tally.seconds_fixed,
                    flops_fixed=tally.flops_fixed,
                    usd_fixed=tally.usd_fixed,
                    notes=tally.notes,
                )
            )
        return tuple(found)


def _apply(
    step: Step, stream: Iterable[Document], context: Context, tally: Tally
) -> Iterator[Document]:
    """The step's own function, loaded when it is used: some of them load a deep-learning stack."""
    work: Any
    if step.kind == "clean":
        from anneal.curation.clean import clean as work
    elif step.kind == "annotate":
        from anneal.curation.quality import annotate as work
    elif step.kind == "exercises":
        from anneal.curation.exercises import write_exercises as work
    elif step.kind == "synthesize":
        from anneal.curation.synthesis import synthesize as work
    elif step.kind == "deduplicate":
        from anneal.curation.dedup import deduplicate as work
    else:
        from anneal.curation.decontaminate import decontaminate as work
    found: Iterator[Document] = work(stream, step, context, tally)
    return found
