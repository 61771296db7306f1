"""The words of curation: the steps a source goes through, what they cost, and how to prepare.

Curation is a chain of steps, each a function from a stream of documents to a stream of documents.
A sweep file writes them as a list; each has a `kind`. What a step drops and what it costs is
metered and kept in a `CurationRecord` beside the documents: the acquisition cost of a filtered or
synthetic token is measured, not assumed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from anneal.sources.values import Kind, Name, Reader, Source, Split, Target
from anneal.store import Store
from anneal.values import Value


class Annotate(Value):
    """Keeps the documents that a quality annotator scores highest.

    The annotator is a linear classifier on hashed word n-grams: `positives` against random
    documents of the source itself (Arctic-SnowCoder's recipe, arXiv 2409.02326, with a bag of
    n-grams in place of its encoder). Positives are a source and never a target: a filter that had
    seen the target would measure leakage (METHODS 6.8).
    """

    kind: Literal["annotate"] = "annotate"
    annotator: Literal["linear"] = "linear"
    positives: Name
    """Source of the sweep whose prepared documents are what good looks like."""
    keep: float = Field(gt=0, le=1)
    """Best-scoring share of the candidate bytes that is kept."""
    ngrams: int = Field(2, ge=1, le=5)
    """Words and n-grams of words up to this length are features."""
    features: int = Field(2**18, ge=2**8, le=2**24)
    """Hash buckets."""
    examples: int = Field(2000, ge=20)
    """At most this many positives, and as many negatives; a fifth is held out for the ROC-AUC."""
    seed: int = Field(0, ge=0)


class WriteExercises(Value):
    """Rewrites the documented functions of Python documents into worked exercises."""

    kind: Literal["exercises"] = "exercises"
    min_lines: int = Field(2, gt=0)
    """Lines of code of the function, docstring apart."""
    max_lines: int = Field(80, gt=0)
    per_document: int = Field(16, gt=0)
    """At most this many exercises from one document, drawn by hash."""
    seed: int = Field(0, ge=0)


class Deduplicate(Value):
    """Drops a document that is equal or nearly equal to an earlier one of the same source.

    Near: estimated Jaccard similarity of the sets of word n-grams, by MinHash and locality-
    sensitive hashing; SlimPajama's setting is 13-grams at 0.8 (arXiv 2309.10818).
    """

    kind: Literal["deduplicate"] = "deduplicate"
    ngram: int = Field(13, gt=0)
    jaccard: float = Field(0.8, gt=0, le=1)
    """1 leaves only the exact comparison."""
    permutations: int = Field(128, ge=16, le=1024)


class Decontaminate(Value):
    """Drops a document that overlaps a target or guard.

    Overlap with one target document is the larger of two shares of word n-grams: how much of the
    document occurs in targets, and how much of any one target document occurs in it. So a long
    file that contains a whole target document is found as surely as a short excerpt of one.
    """

    kind: Literal["decontaminate"] = "decontaminate"
    ngram: int = Field(13, gt=0)
    max_overlap: float = Field(0.1, ge=0, lt=1)
    """Documents above this are dropped."""


Step = Annotated[
    Annotate | WriteExercises | Deduplicate | Decontaminate, Field(discriminator="kind")
]


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

    steps: tuple[WriteExercises | Deduplicate, ...] = (Deduplicate(),)


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
    notes: dict[str, str | int | float] = Field(default_factory=dict)


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
    """Files and records that the reader did not offer, by reason (on either side of a split)."""
    dropped: dict[str, int]
    """Documents that were read and not kept, by reason."""
    steps: tuple[StepRecord, ...]
    upstream: tuple[StepRecord, ...] = ()
    """The steps of the prepared documents that were read, when another source's were."""
    notes: dict[str, str | int | float] = Field(default_factory=dict)

    def total(self, field: Literal["seconds", "flops", "seconds_fixed", "flops_fixed"]) -> float:
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
    against: tuple[str, ...]
    """Addresses of the targets' documents to decontaminate against."""
    base: str
    """Folder that relative paths start from."""
    fingerprint: str
    """Of the input, as it was planned: other content is refused."""


class TokenizerWork(Value):
    """Train a tokenizer, or bring an existing one into the store."""

    kind: Literal["tokenizer"] = "tokenizer"
    settings: TokenizerSettings
    documents: tuple[str, ...] = ()
    """Addresses of the documents to train on."""
    path: str = ""
    """Where an existing tokenizer lies."""


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
