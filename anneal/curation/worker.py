"""One preparation step, carried out: what a worker process does with a `PrepareStep`.

A step finds everything it needs in its own value and in the store, and leaves one folder that
appears whole. Doing it again finds the folder; being killed leaves nothing that counts.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path

from anneal.curation.benchmarks import benchmarks_address
from anneal.curation.chain import Chain, Context, Meter, Report
from anneal.curation.dropped import DROPPED_FILE, DroppedFile
from anneal.curation.leaks import NOTE
from anneal.curation.models import annotator_models
from anneal.curation.steps import Decontaminate
from anneal.curation.values import (
    CurationRecord,
    DocumentsWork,
    PrepareStep,
    StepRecord,
    TokenizerWork,
    TokensWork,
    TrainedTokenizer,
)
from anneal.errors import SourceError
from anneal.sources.documents import (
    DOCUMENTS_FILE,
    documents,
    keep_side,
    read_documents,
    write_documents,
)
from anneal.sources.evidence import Census, permitted
from anneal.sources.files import fingerprint
from anneal.sources.values import Cost, PreparedReader
from anneal.store import Store, read_value, write_value, writing


class Worker:
    """Carries out steps named by their spec files, for `plan.protocol.serve`."""

    def __call__(self, spec: str, report: Report) -> None:
        """Carries out the step in STORE/steps/ID.json."""
        path = Path(spec).absolute()
        prepare(read_value(path, PrepareStep), Store(path.parents[1]), report)


def prepare(step: PrepareStep, store: Store, report: Report, *, threads: int | None = None) -> None:
    """Carries out `step`, unless it is finished already; safe to kill at any time.

    Args:
        step: as `plan_preparation` laid it out; what it needs must be finished.
        store: where everything is.
        report: told of progress.
        threads: for tokenizers; takes effect if set before this process first uses them.

    Raises:
        SourceError: unreadable input, or nothing left of it; input that changed since planning.
        StoreError: the disk is full, or a needed step is not finished.
    """
    if step.done(store).exists():
        return
    if threads is not None:
        os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
    step.done(store).parent.parent.mkdir(parents=True, exist_ok=True)
    try:
        if isinstance(step.work, DocumentsWork):
            _documents(step, step.work, store, report)
        elif isinstance(step.work, TokenizerWork):
            _tokenizer(step, step.work, store)
        else:
            _tokens(step, step.work, store, report)
    except SourceError as error:
        raise SourceError(f"{step.label}: {error.what}", hint=error.hint) from error


def _documents(step: PrepareStep, work: DocumentsWork, store: Store, report: Report) -> None:
    base = Path(work.base)
    prepared = {name: store.documents(id) for name, id in work.upstream.items()}
    changed = work.fingerprint != "" and work.fingerprint != fingerprint(
        work.read, base=base, store=store
    )
    named = [s for s in work.steps if isinstance(s, Decontaminate) and s.benchmarks]
    compared = tuple(benchmarks_address(step, store, base) for step in named)
    if changed or compared != work.benchmarks:
        raise SourceError(
            "the input changed while the sweep was running", hint="run the sweep again"
        )
    models = annotator_models(work.steps, base=base, store=store)
    if tuple(models) != work.models:
        raise SourceError(
            "an annotator's model changed while the sweep was running", hint="run the sweep again"
        )
    left_out: Counter[str] = Counter()
    with (
        writing(store.documents(step.id)) as folder,
        tempfile.TemporaryDirectory(dir=folder) as scratch,
    ):
        offered = documents(work.read, base=base, prepared=prepared, dropped=left_out)
        allowed = permitted(keep_side(offered, work.split), work.forbidden_licences, left_out)
        read = Meter(allowed, report)
        targets = {name: store.documents(id) for name, id in work.against.items()}
        context = Context(store, Path(scratch), base, prepared, targets, work.kin, report)
        census = Census()
        with DroppedFile(folder / DROPPED_FILE) as dropped:
            chain = Chain(work.steps, read, context, dropped)
            count, size = write_documents(folder / DOCUMENTS_FILE, census.of(chain))
        if count == 0:
            reasons = chain.dropped or left_out
            raise SourceError(
                f"none of {read.documents} documents is left"
                f" ({', '.join(f'{r}: {n}' for r, n in reasons.items()) or 'split'})",
                hint="loosen its steps or its split, or give it more documents",
            )
        upstream: tuple[StepRecord, ...] = ()
        if isinstance(work.read, PreparedReader):
            path = prepared[work.read.source] / "curation.json"
            record = read_value(path, CurationRecord)
            upstream = (*record.upstream, *record.steps)
        notes: dict[str, str | int | float] = {"kept_bytes_share": round(size / read.bytes, 4)}
        if upstream and NOTE in record.notes:  # what a filter chose from is chosen too
            notes[NOTE] = record.notes[NOTE]
        for record_of_step in chain.records():
            notes |= record_of_step.notes
        write_value(
            folder / "curation.json",
            CurationRecord(
                documents=count,
                bytes=size,
                read=read.documents,
                read_bytes=read.bytes,
                left_out=dict(left_out),
                dropped=chain.dropped,
                evidence=census.evidence,
                steps=chain.records(),
                upstream=upstream,
                notes=notes,
            ),
        )


def _tokenizer(step: PrepareStep, work: TokenizerWork, store: Store) -> None:
    from anneal.sources.tokenizer import INFO_FILE, import_tokenizer, train_tokenizer

    with writing(store.tokenizer(step.id)) as scratch:
        made = scratch / "made"
        made.mkdir()
        if isinstance(work.settings, TrainedTokenizer):
            info = train_tokenizer(
                [read_documents(store.documents(id)) for id in work.documents],
                made,
                vocabulary=work.settings.vocabulary,
                sample_bytes=work.settings.sample_bytes,
                marks=work.marks,
            )
        else:
            info = import_tokenizer(Path(work.path), made, end_of_text=work.settings.end_of_text)
        with writing(store.tokenizer(info.content)) as folder:
            for path in sorted(made.iterdir()):
                os.replace(path, folder / path.name)
        made.rmdir()
        write_value(scratch / INFO_FILE, info)


def _tokens(step: PrepareStep, work: TokensWork, store: Store, report: Report) -> None:
    from anneal.sources.tokenize import Provenance, tokenize
    from anneal.sources.tokenizer import INFO_FILE, TokenizerInfo

    info = read_value(store.tokenizer(work.tokenizer) / INFO_FILE, TokenizerInfo)
    folder = store.documents(work.documents)
    record = read_value(folder / "curation.json", CurationRecord)
    tokenize(
        lambda: read_documents(folder),
        store.tokenizer(info.content),
        store,
        step.id,
        provenance=Provenance(
            name=work.name,
            kind=work.role,
            documents_address=work.documents,
            bytes=record.bytes,
            dropped=dict(Counter(record.left_out) + Counter(record.dropped)),
            licence=work.licence or "unknown",
            evidence=record.evidence,
            paid=Cost(
                seconds_fixed=record.total("seconds_fixed"),
                seconds_per_token=record.total("seconds"),
                flops_fixed=record.total("flops_fixed"),
                flops_per_token=record.total("flops"),
                usd_fixed=record.total("usd_fixed"),
                usd_per_token=record.total("usd"),
            ),
            notes=record.notes,
        ),
        max_tokens=work.max_tokens,
        layout=work.layout,
        marks=work.marks,
        report=report,
    )
