"""The preparation plan: every step from text to tokens, known before any of it is done.

A step's identity is its recipe: what is done, to input of which content, with what other steps
produced. Nothing needs to have run to compute it, so the whole plan is laid out at once, steps
that other sweeps already finished are simply found finished, and a changed file, setting or
upstream source changes exactly the steps behind it.

    targets' documents -> sources' documents -> tokenizer -> tokens of each
                     (against the targets; some from other sources)

Mistakes that would waste hours are refused here: names that nothing has, sources that wait for each
other, input that is missing or empty, a target that is also trained on, a licence that the sweep
forbids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from anneal.curation.benchmarks import benchmarks_address
from anneal.curation.leaks import kin
from anneal.curation.licences import refuse_forbidden
from anneal.curation.models import annotator_models
from anneal.curation.steps import Annotate, Decontaminate, Deduplicate, Step, Synthesize
from anneal.curation.synthesis import planned
from anneal.curation.token_steps import tokenizer_step, tokens_step
from anneal.curation.values import (
    CuratedSource,
    CuratedTarget,
    CurationRecord,
    DocumentsWork,
    PrepareStep,
    TokenizerSettings,
    TrainedTokenizer,
)
from anneal.errors import SourceError
from anneal.sources.files import fingerprint
from anneal.sources.tokenizer import TokenizerInfo
from anneal.sources.values import (
    Manifest,
    PreparedReader,
    Split,
)
from anneal.store import Store, read_value
from anneal.values import address

T = TypeVar("T")

RECIPE = 2
"""Raised when the code of a step changes what documents it makes of the same input."""


def plan_preparation(
    sources: Sequence[CuratedSource],
    targets: Sequence[CuratedTarget],
    tokenizer: TokenizerSettings,
    store: Store,
    *,
    base: Path,
    others: Sequence[CuratedSource] = (),
    forbidden_licences: Sequence[str] = (),
) -> tuple[PrepareStep, ...]:
    """Every step that prepares `sources` and `targets`, each after what it needs.

    Args:
        sources: all sources of the sweep, the replay source among them.
        targets: targets and guards.
        tokenizer: one to train or one that exists.
        store: remembers fingerprints, and is where existing tokenizers from a hub are kept.
        base: folder that relative paths start from (of the sweep file).
        others: sources that may be named by the ones above without being part of the sweep; only
            those that are named are prepared, and none is tokenised.
        forbidden_licences: what may not be trained on: a source under one of these is refused, and
            documents that state one are dropped from every source.

    Raises:
        SourceError: one of the mistakes above, named.
    """
    names = (isinstance(tokenizer, TrainedTokenizer) and tokenizer.sources) or tuple(
        source.name for source in sources
    )
    trained_on = {*names, *(source.name for source in sources)}
    licences = tuple(sorted(set(forbidden_licences)))
    planner = _Planner(sources, targets, others, store, base, dict.fromkeys(trained_on, licences))
    refuse_forbidden(planner.known, trained_on, licences)
    for target in targets:
        planner.target(target)
    for source in sources:
        planner.source(source.name, ())
    planner.refuse_targets_as_sources()
    learn_from = [planner.source(name, ("tokenizer",)).id for name in names]
    layouts = [source.layout for source in sources]
    maker, marks = tokenizer_step(tokenizer, learn_from, layouts, base)
    items: list[CuratedSource | CuratedTarget] = [*targets, *sources]
    tokens = [tokens_step(item, planner.steps[_key(item)], maker, marks) for item in items]
    _refuse_twins(tokens)
    # documents that two sources share are prepared once
    made = {step.id: step for step in planner.steps.values()}
    return (*made.values(), maker, *tokens)


def manifests(
    sources: Sequence[CuratedSource],
    targets: Sequence[CuratedTarget],
    steps: Sequence[PrepareStep],
    store: Store,
    *,
    others: Sequence[CuratedSource] = (),
) -> dict[str, Manifest]:
    """Manifest of each source and target by name, once all of `steps` are finished.

    Names, licences and declared prices are today's: they are no part of what was tokenised. To the
    measured cost comes what the source declares and, where it is made from another source's
    documents, what that one declares for all the tokens that had to be read for one that was kept.

    Args:
        others: as in `plan_preparation`: their declared prices count too.

    Raises:
        StoreError: when a step is not finished.
    """
    documents = {s.id: s.work for s in steps if isinstance(s.work, DocumentsWork)}
    found: dict[str, Manifest] = {}
    by_name = {source.name: source for source in (*others, *sources)}
    for step in steps:
        work = step.work
        if work.kind != "tokens":
            continue
        manifest = read_value(step.done(store), Manifest)
        update: dict[str, Any] = {
            "name": work.name,
            "kind": work.role,
            "licence": work.licence or "unknown",
        }
        if work.role != "target":
            cost = manifest.cost.plus(by_name[work.name].cost)
            made, ratio = work.documents, 1.0
            # by address: sources that differ in layout alone share their documents
            while isinstance(read := documents[made].read, PreparedReader):
                record = read_value(store.documents(made) / "curation.json", CurationRecord)
                ratio *= record.read_bytes / record.bytes
                cost = cost.plus(by_name[read.source].cost, ratio)
                made = documents[made].upstream[read.source]
            update["cost"] = cost
        found[work.name] = manifest.model_copy(update=update)
    return found


def tokenizer_info(steps: Sequence[PrepareStep], store: Store) -> TokenizerInfo:
    """The tokenizer that `steps` made; it lies in `store.tokenizer(info.content)`."""
    step = next(step for step in steps if step.action == "tokenizer")
    return read_value(step.done(store), TokenizerInfo)


class _Planner:
    """Lays out the document steps; asking for one lays out what it needs first."""

    def __init__(
        self,
        sources: Sequence[CuratedSource],
        targets: Sequence[CuratedTarget],
        others: Sequence[CuratedSource],
        store: Store,
        base: Path,
        forbidden: Mapping[str, tuple[str, ...]],
    ) -> None:
        for items in (sources, targets):
            names = Counter(item.name for item in items)
            if double := [name for name, count in names.items() if count > 1]:
                raise SourceError(f"`{double[0]}`: named twice", hint="names must differ")
        self.known = {source.name: source for source in (*others, *sources)}
        self.store = store
        self.base = base
        self.forbidden = forbidden
        self.readers = tuple(targets)
        self.steps: dict[tuple[str, str], PrepareStep] = {}
        self.targets: dict[str, str] = {}
        self.fingerprints: dict[str, str] = {}
        self.read: dict[tuple[str, str], tuple[str, Split | None]] = {}

    def target(self, target: CuratedTarget) -> None:
        """Lays out the documents step of a target."""
        if isinstance(target.read, PreparedReader):
            raise SourceError(
                f"target `{target.name}`: it reads the prepared documents of source"
                f" `{target.read.source}`",
                hint="a target reads its own documents: repeat the source's reader, with a split",
            )
        step = self._documents(target, target.steps, {}, {})
        self.targets[target.name] = step.id

    def source(self, name: str, waiting: tuple[str, ...]) -> PrepareStep:
        """The documents step of a source; `waiting` are those that asked for it."""
        if name in waiting:
            raise SourceError(
                f"source `{name}`: it needs itself ({' -> '.join([*waiting, name])})",
                hint="let one of them read something else",
            )
        source = self.known.get(name)
        if source is None:
            raise SourceError(
                f"source `{name}`: unknown" + (f", named by `{waiting[-1]}`" if waiting else ""),
                hint=f"the sweep has: {', '.join(sorted(self.known))}",
            )
        if _key(source) not in self.steps:
            needed = [source.read.source] if isinstance(source.read, PreparedReader) else []
            needed += [other for step in source.all_steps for other in named_sources(step)]
            upstream = {n: self.source(n, (*waiting, name)).id for n in needed}
            # an annotator's positives are compared too: likeness to a target is no quality
            compared = any(
                isinstance(step, Decontaminate) or (isinstance(step, Annotate) and step.positives)
                for step in source.all_steps
            )
            against = self.targets if compared else {}
            self._documents(source, source.all_steps, upstream, against)
        return self.steps[_key(source)]

    def refuse_targets_as_sources(self) -> None:
        """No target may read the documents that a source reads, on the same side of a split."""
        for (role, target), (content, side) in self.read.items():
            for (other_role, source), (other, its_side) in self.read.items():
                same = content == other and not _apart(side, its_side)
                if role == "target" and other_role == "source" and same:
                    raise SourceError(
                        f"target `{target}`: it is also source `{source}`"
                        " (the same documents, on the same side of the split)",
                        hint="give them opposite parts of one split: part: train for the source,"
                        " part: heldout for the target, equal fraction and salt",
                    )

    def _documents(
        self,
        item: CuratedSource | CuratedTarget,
        steps: tuple[Step, ...],
        upstream: dict[str, str],
        against: dict[str, str],
    ) -> PrepareStep:
        read, base = item.read, str(self.base)
        try:
            steps, written = planned(steps, self.base, self.store)
        except SourceError as error:
            raise SourceError(
                f"{_key(item)[0]} `{item.name}`: {error.what}", hint=error.hint
            ) from error
        if isinstance(read, PreparedReader):
            printed, content = "", address(["prepared", upstream[read.source]])
            texts = content
        else:
            printed = self._fingerprint(item)
            # where a corpus lies is no part of what it is
            fields = read.model_dump(exclude={"path", "glob", "exclude", "revision"})
            content = address([fields, printed])
            # nor are ids and licences any part of which texts are read
            texts = address([read.kind, getattr(read, "text", ""), printed])
        self.read[_key(item)] = (texts, item.split)
        benchmarks = self._benchmarks(item.name, steps)
        models = self._named(
            item, lambda: annotator_models(steps, base=self.base, store=self.store)
        )
        recipe = _recipe(steps, upstream, models)
        split = item.split.model_dump() if item.split else None
        # nothing is trained on targets, nor on sources that others are only compared with
        licences = self.forbidden.get(item.name, ()) if isinstance(item, CuratedSource) else ()
        step = PrepareStep(
            id=address(
                [
                    *("documents", RECIPE, content, split, recipe),
                    *(sorted(against.values()), benchmarks, licences, *written),
                ]
            ),
            label=f"documents of {item.name}",
            needs=tuple(dict.fromkeys([*upstream.values(), *against.values()])),
            work=DocumentsWork(
                name=item.name,
                read=read,
                split=item.split,
                steps=steps,
                upstream=upstream,
                against=against,
                base=base,
                fingerprint=printed,
                benchmarks=benchmarks,
                forbidden_licences=licences,
                models=tuple(models),
                kin=kin(steps, self.known, self.readers, base=self.base),
            ),
        )
        self.steps[_key(item)] = step
        return step

    def _benchmarks(self, name: str, steps: tuple[Step, ...]) -> tuple[str, ...]:
        """Content of the benchmark files of each step that compares with some."""
        try:
            return tuple(
                benchmarks_address(step, self.store, self.base)
                for step in steps
                if isinstance(step, Decontaminate) and step.benchmarks
            )
        except SourceError as error:
            raise SourceError(f"source `{name}`: {error.what}", hint=error.hint) from error

    def _fingerprint(self, item: CuratedSource | CuratedTarget) -> str:
        key = address(item.read)
        if key not in self.fingerprints:
            self.fingerprints[key] = self._named(
                item, lambda: fingerprint(item.read, base=self.base, store=self.store)
            )
        return self.fingerprints[key]

    def _named(self, item: CuratedSource | CuratedTarget, work: Callable[[], T]) -> T:
        """What `work` gives; its error says whose it is."""
        try:
            return work()
        except SourceError as error:
            raise SourceError(
                f"{_key(item)[0]} `{item.name}`: {error.what}", hint=error.hint
            ) from error


def named_sources(step: Step) -> tuple[str, ...]:
    """Sources whose prepared documents a step reads beside its stream."""
    if isinstance(step, Annotate):
        return tuple(name for name in (step.positives, step.negatives) if name is not None)
    return step.after if isinstance(step, Deduplicate) else ()


def _recipe(
    steps: Sequence[Step], upstream: dict[str, str], models: Sequence[str]
) -> list[dict[str, Any]]:
    """Steps as they are hashed: the content of what they name stands for the names."""
    recipe, of_models = [], iter(models)
    for step in steps:
        fields = step.model_dump()
        if isinstance(step, Annotate):
            for key in ("positives", "negatives"):
                fields[key] = fields[key] and upstream[fields[key]]
            fields["model"] = step.model and next(of_models)
        if isinstance(step, Decontaminate):
            del fields["benchmarks"]  # paths: what the files hold is hashed beside the steps
        if isinstance(step, Deduplicate):
            fields["after"] = [upstream[name] for name in step.after]
        if isinstance(step, Synthesize):
            fields = {"kind": step.kind}  # template and teacher are hashed beside, by content
        recipe.append(fields)
    return recipe


def _refuse_twins(tokens: Sequence[PrepareStep]) -> None:
    """Two names for the same tokens would be compared with each other and both be paid for."""
    labels: dict[str, str] = {}
    for step in tokens:
        if step.id in labels:
            raise SourceError(
                f"{step.label}: the same as {labels[step.id]} (reader, split, steps, max_tokens)",
                hint="take one of them out of the sweep",
            )
        labels[step.id] = step.label


def _key(item: CuratedSource | CuratedTarget) -> tuple[str, str]:
    return ("target" if isinstance(item, CuratedTarget) else "source", item.name)


def _apart(one: Split | None, other: Split | None) -> bool:
    """Whether two splits are the opposite sides of one."""
    return (
        one is not None
        and other is not None
        and (one.fraction, one.salt) == (other.fraction, other.salt)
        and one.part != other.part
    )
