"""The words of curation: what a source goes through, what it costs, and how to prepare.

Curation is a chain of steps, each a function from a stream of documents to a stream of documents.
A sweep file writes them as a list; each has a `kind`. What a step drops and what it costs is
metered and kept in a `CurationRecord` beside the documents: the acquisition cost of a filtered or
synthetic token is measured, not assumed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from anneal.curation.steps import Clean, Decontaminate, Deduplicate, Step, WriteExercises
from anneal.sources.layout import FillMarks, Layout, Marks
from anneal.sources.values import Evidence, Kind, Name, Reader, Source, Split, Target
from anneal.store import Store
from anneal.values import Value


class CuratedSource(Source):
    """A source and the steps its documents go through, in order."""

    steps: tuple[Step, ...] = ()
    """`deduplicate` and then `decontaminate` are added at the end where the list has none."""
    clean: bool = True
    """False adds nothing to `steps`."""

    @property
    def all_steps(self) -> tuple[Step, ...]:
        """`steps` with the ones every source gets."""
        given = {step.kind for step in self.steps}
        added = (Deduplicate(), Decontaminate()) if self.clean else ()
        return self.steps + tuple(step for step in added if step.kind not in given)


class CuratedTarget(Target):
    """A target or guard and the steps its documents go through, in order."""

    steps: tuple[Clean | WriteExercises | Deduplicate, ...] = (Deduplicate(),)


class TrainedTokenizer(Value):
    """A byte-level BPE trained on the sweep's own documents."""

    kind: Literal["bpe"] = "bpe"
    vocabulary: int = Field(4096, ge=300, le=2**20)
    """Entries: 256 bytes, end-of-text and merges."""
    sources: tuple[Name, ...] = ()
    """Sources to train on; none named means all of the sweep's, and then adding a source to the
    sweep makes another tokenizer, and so other tokens and other runs."""
    sample_bytes: int = Field(4_000_000, gt=0)
    """Bytes of text taken from each source (whole documents, in a seeded order)."""


class ExistingTokenizer(Value):
    """A Hugging Face fast tokenizer: of the base model, for one."""

    kind: Literal["huggingface"] = "huggingface"
    path: str
    """Folder with `tokenizer.json`, that file, or a hub identifier."""
    revision: str | None = None
    end_of_text: str | None = None
    """Token put after each document; None takes the tokenizer's own end-of-sequence token."""
    fim_tokens: FillMarks | None = None
    """Tokens before prefix, suffix and middle, for layouts with a `fim_rate`; None knows the names
    that published tokenizers use."""


def _tokenizer_kind(value: Any) -> str:
    """A tokenizer without a `kind` is a trained one."""
    kind = value.get("kind", "bpe") if isinstance(value, dict) else getattr(value, "kind", "bpe")
    return str(kind)


TokenizerSettings = Annotated[
    Annotated[TrainedTokenizer, Tag("bpe")] | Annotated[ExistingTokenizer, Tag("huggingface")],
    Discriminator(_tokenizer_kind),
]


class StepRecord(Value):
    """What one step did, and what it cost."""

    step: str
    """Kind of the step."""
    documents: int
    """Documents that went in."""
    kept: int
    """Documents that came out."""
    bytes: int
    """UTF-8 bytes that went in."""
    kept_bytes: int
    dropped: dict[str, int] = Field(default_factory=dict)
    """Documents, by reason."""
    seconds: float = Field(0.0, ge=0)
    """Processor seconds, growing with the documents that went in."""
    flops: float = Field(0.0, ge=0)
    seconds_fixed: float = Field(0.0, ge=0)
    """Processor seconds paid once: training an annotator."""
    flops_fixed: float = Field(0.0, ge=0)
    usd: float = Field(0.0, ge=0)
    """Money paid to others at declared rates: an interface's price per token."""
    usd_fixed: float = Field(0.0, ge=0)
    notes: dict[str, str | int | float] = Field(default_factory=dict)

    @property
    def yielded(self) -> float:
        """Bytes that came out for one that went in; above 1 where a step writes."""
        return self.kept_bytes / self.bytes if self.bytes else 0.0


class CurationRecord(Value):
    """`curation.json`: how the documents beside it came about. Written last."""

    documents: int
    """Kept."""
    bytes: int
    """UTF-8 bytes of the kept text."""
    read: int
    """Documents read, on this side of the split."""
    read_bytes: int
    left_out: dict[str, int] = Field(default_factory=dict)
    """Files and rows that the reader did not offer, by reason (on either side of a split), and
    documents that the sweep forbids."""
    dropped: dict[str, int]
    """Documents that were read and not kept, by reason."""
    evidence: Evidence = Evidence()
    """What the kept documents say of where they come from."""
    steps: tuple[StepRecord, ...]
    upstream: tuple[StepRecord, ...] = ()
    """The steps of the prepared documents that were read, when another source's were."""
    notes: dict[str, str | int | float] = Field(default_factory=dict)

    def total(
        self,
        field: Literal["seconds", "flops", "usd", "seconds_fixed", "flops_fixed", "usd_fixed"],
    ) -> float:
        """Sum of a cost over all steps, upstream ones included."""
        return float(sum(getattr(step, field) for step in (*self.upstream, *self.steps)))


class DocumentsWork(Value):
    """Read, split, curate and write the documents of one source or target."""

    kind: Literal["documents"] = "documents"
    name: Name
    read: Reader
    split: Split | None
    steps: tuple[Step, ...]
    upstream: dict[Name, str]
    """Addresses of the prepared documents that reader and steps name."""
    against: dict[Name, str]
    """Addresses of the targets' documents to decontaminate against, by name."""
    base: str
    """Folder that relative paths start from."""
    fingerprint: str
    """Of the input, as it was planned: other content is refused."""
    benchmarks: tuple[str, ...] = ()
    """Of the benchmark files of each step that names some: other content is refused as well."""
    forbidden_licences: tuple[str, ...] = ()
    """Documents under these are dropped, by the licence that they state themselves."""
    models: tuple[str, ...] = ()
    """Fingerprints of the annotators' models, one for each step that has one."""
    kin: dict[Name, tuple[Name, ...]] = {}
    """By source that annotators learn from, the targets that read files in common with it."""


class TokenizerWork(Value):
    """Train a tokenizer, or bring an existing one into the store."""

    kind: Literal["tokenizer"] = "tokenizer"
    settings: TokenizerSettings
    documents: tuple[str, ...] = ()
    """Addresses of the documents to train on."""
    path: str = ""
    """Where an existing tokenizer lies."""
    marks: tuple[str, ...] = ()
    """Further special tokens of one to train."""


class TokensWork(Value):
    """Turn prepared documents into shards of token ids."""

    kind: Literal["tokens"] = "tokens"
    name: Name
    role: Kind | Literal["target"]
    licence: str
    documents: str
    tokenizer: str
    """Step that makes the tokenizer."""
    max_tokens: int | None
    layout: Layout = Layout()
    marks: Marks = Marks()
    """Names of the tokens that the layout puts in."""


class PrepareStep(Value):
    """One piece of preparation that a worker process can do alone, given its JSON and the store."""

    id: str
    """Address of the recipe: what is done to which content. Names and paths are no part of it."""
    label: str
    """For people: what is done, to which source or target."""
    needs: tuple[str, ...] = ()
    """Steps that must be finished before."""
    work: Annotated[DocumentsWork | TokenizerWork | TokensWork, Field(discriminator="kind")]

    @property
    def action(self) -> Literal["documents", "tokenizer", "tokens"]:
        return self.work.kind

    def done(self, store: Store) -> Path:
        """The file whose existence means that this step is finished."""
        if self.work.kind == "documents":
            return store.documents(self.id) / "curation.json"
        if self.work.kind == "tokenizer":
            return store.tokenizer(self.id) / "tokenizer_info.json"
        return store.tokens(self.id) / "manifest.json"

    @model_validator(mode="after")
    def _needs_are_named(self) -> PrepareStep:
        if self.id in self.needs:
            raise ValueError("a step cannot need itself")
        return self
