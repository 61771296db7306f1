"""The words of supply: sources, targets, what they cost, and what tokenising them produced."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from anneal.sources.layout import Layout
from anneal.sources.tiers import Tiers, add_tiers, tiers_usd
from anneal.values import Value

Kind = Literal["general", "filtered", "synthetic", "high_quality"]
Name = Annotated[str, Field(min_length=1, max_length=80)]
"""Names are for people: any printable text, never parsed, never a path."""


Unfit = Literal["stop", "skip"]
"""What a reader does with a document it cannot take: stop with an error that names the place, or
leave it out and count it. A damaged file always stops: nobody can count what it lost."""


class TreeReader(Value):
    """A folder of text files, one document each; the group is the first folder below `path`.

    Files with a NUL byte are binary: left out and counted.
    """

    kind: Literal["tree"] = "tree"
    path: str
    """Folder, absolute or relative to the sweep file, or a URL that fsspec knows."""
    glob: str = "**/*"
    """Which files below it, sorted by path."""
    exclude: tuple[str, ...] = ()
    """Globs of files left out."""
    max_bytes: int = Field(1_000_000, gt=0)
    """Larger files are left out and counted."""
    errors: Unfit = "stop"
    """Of a file that is not UTF-8."""


class RepositoriesReader(Value):
    """Code, one document a file; files of one repository stand together and are one group.

    A folder with a `.git` is a repository; elsewhere the first `depth` folders name it. The
    language goes by file extension, the licence by the file's own SPDX tag, and the identifier is
    the file's SWHID. Left out and counted: hidden and vendored files, unknown extensions, files
    that are binary or not UTF-8.
    """

    kind: Literal["repositories"] = "repositories"
    path: str
    """Folder, absolute or relative to the sweep file, or a URL that fsspec knows."""
    depth: int = Field(1, gt=0)
    """Folders that name a repository where there is no `.git`: 2 for owner/name."""
    languages: tuple[str, ...] = ()
    """Only files in these, as `sources.repositories` names them; none given takes every one."""
    exclude: tuple[str, ...] = ()
    """Globs of files left out."""
    max_bytes: int = Field(1_000_000, gt=0)
    """Larger files are left out and counted."""


class RecordReader(Value):
    """What readers of rows with fields have in common.

    A field inside another is named with a dot: `metadata.license`. A row without a named field is
    unfit; in `licence`, `language`, `identifier` and `origin`, null says that it is not known.
    """

    path: str
    """A file or a glob, absolute or relative to the sweep file, or a URL that fsspec knows."""
    text: str = "text"
    """Field of the text."""
    id: str | None = None
    """Field of the identifier within the source; numbers of file and row where none."""
    group: str | None = None
    """Field that keeps related documents together when splitting."""
    licence: str | None = None
    """Field of the document's own licence: a name, an SPDX expression, or a list, all of which
    apply."""
    language: str | None = None
    identifier: str | None = None
    """Field of an identifier that holds everywhere: a SWHID, a DOI, a URL."""
    origin: str | None = None
    """Field that says where the text comes from; file and row where none."""
    max_bytes: int = Field(50_000_000, gt=0)
    """Longer texts, and longer lines of a file, are left out and counted; such a line is passed
    over without being held in memory."""
    errors: Unfit = "stop"
    """Of a row that is not UTF-8 or not JSON, or lacks a field."""


class JsonlReader(RecordReader):
    """JSON lines, plain or compressed (.gz, .zst), one document a line."""

    kind: Literal["jsonl"] = "jsonl"


class ParquetReader(RecordReader):
    """Parquet files, one document a row."""

    kind: Literal["parquet"] = "parquet"


class HuggingFaceReader(RecordReader):
    """A Hugging Face dataset; no remote code is ever run."""

    kind: Literal["huggingface"] = "huggingface"
    path: str
    """Local folder or hub identifier."""
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    """Commit to pin; recorded as resolved."""


class InstalledReader(Value):
    """Text that every machine with this project installed has: the interpreter and its packages."""

    kind: Literal["installed"] = "installed"
    what: Literal["stdlib", "packages", "prose"]
    """Standard-library modules; the code of `packages`; or English prose: the language
    reference, package metadata and READMEs, and the docstrings of `packages`."""
    packages: tuple[str, ...] = ()
    """Import names of installed packages to read; one that is not installed is an error."""
    max_bytes: int = Field(120_000, gt=0)
    """Larger files are left out and counted."""
    max_total_bytes: int | None = Field(None, gt=0)
    """Stop after about this many bytes: a seeded subset of the files, not the first ones."""


class PreparedReader(Value):
    """The prepared documents of another source of the same sweep."""

    kind: Literal["prepared"] = "prepared"
    source: Name


Reader = Annotated[
    TreeReader
    | RepositoriesReader
    | JsonlReader
    | ParquetReader
    | HuggingFaceReader
    | InstalledReader
    | PreparedReader,
    Field(discriminator="kind"),
]


class Split(Value):
    """Which side of the held-out split a source or target takes, decided by hash of the group.

    A document is held out when the hash of (salt, group) falls in the first `fraction`; a
    document without a group is its own group. Source and target with equal `salt` and `fraction`
    therefore never share a group.
    """

    part: Literal["train", "heldout"]
    fraction: float = Field(0.15, gt=0, lt=1)
    salt: str = "anneal"


class Cost(Value):
    """What tokens of a source cost to get, apart from training on them.

    Declared (licences, interfaces) in a source; measured plus declared in a manifest. Per-token
    prices are charged on **unique** tokens: repeating a token is free to acquire.
    """

    usd_fixed: float = Field(0.0, ge=0)
    usd_per_token: float = Field(0.0, ge=0)
    usd_tiers: Tiers = ()
    """A rising price, besides `usd_per_token`: (tokens, usd per token) of each tier. The cheap
    tokens are bought first; the last tier's price holds for all beyond it."""
    flops_fixed: float = Field(0.0, ge=0)
    flops_per_token: float = Field(0.0, ge=0)
    seconds_fixed: float = Field(0.0, ge=0)
    seconds_per_token: float = Field(0.0, ge=0)

    def usd(self, unique_tokens: float, *, bought: bool = True) -> float:
        """Money for `unique_tokens`, in USD; nothing at all when not bought."""
        if not bought:
            return 0.0
        each = self.usd_per_token * unique_tokens
        return self.usd_fixed + each + tiers_usd(self.usd_tiers, unique_tokens)

    def flops(self, unique_tokens: float, *, bought: bool = True) -> float:
        """FLOPs for `unique_tokens`."""
        return self.flops_fixed + self.flops_per_token * unique_tokens if bought else 0.0

    def per_token(self, share: float) -> Cost:
        """Fixed parts as they are, per-token parts times `share`."""
        each = {k: getattr(self, k) * share for k in Cost.model_fields if k.endswith("_per_token")}
        return self.model_copy(update=each)

    def plus(self, other: Cost, ratio: float = 1.0) -> Cost:
        """Both together, where a token of this source takes `ratio` tokens of the other's."""
        summed = {
            name: getattr(self, name)
            + getattr(other, name) * (ratio if name.endswith("_per_token") else 1.0)
            for name in Cost.model_fields
            if name != "usd_tiers"
        }
        theirs = tuple((tokens / ratio, each * ratio) for tokens, each in other.usd_tiers)
        return Cost(**summed, usd_tiers=add_tiers(self.usd_tiers, theirs))


class Source(Value):
    """A named supply of documents."""

    name: Name
    kind: Kind
    read: Reader
    split: Split | None = None
    """Which side of a held-out split; None takes every document."""
    licence: str = "unknown"
    """Of the documents that state none themselves."""
    cost: Cost = Cost()
    """Declared prices, added to what preparing the source is measured to cost."""
    max_epochs: float = Field(16.0, gt=0)
    """Repetition cap: a run or an allocation that asks for more is refused."""
    max_tokens: int | None = Field(None, gt=0)
    """Keep at most about this many unique tokens (whole documents, in a seeded order)."""
    layout: Layout = Layout()
    """Order of documents, their boundaries, fill-in-the-middle, packing."""


class Target(Value):
    """A named held-out document set on which runs are scored."""

    name: Name
    read: Reader
    split: Split | None = None
    guard: bool = False
    """A guard is no aim: it must not get worse than the base by more than `tolerance`."""
    tolerance: float = Field(0.05, ge=0)
    """Bits per byte a guard may get worse (CMR's epsilon, arXiv 2407.17467)."""
    weight: float = Field(1.0, gt=0)
    """Weight in the aggregate score of the targets that are not guards."""
    max_tokens: int = Field(100_000, gt=0)
    """Score at most about this many tokens (whole documents, in a seeded order)."""


class Counted(Value):
    """How much of something there is."""

    documents: int = Field(ge=0)
    bytes: int = Field(ge=0)
    """UTF-8 bytes of text."""


class Evidence(Value):
    """What documents say of where they come from, counted."""

    licences: dict[str, Counted] = Field(default_factory=dict)
    """By the document's own licence; `not stated` where it has none and the source's holds."""
    languages: dict[str, Counted] = Field(default_factory=dict)
    origins: dict[str, Counted] = Field(default_factory=dict)
    """By what the origins begin with: cut short until there are few."""
    identified: int = Field(0, ge=0)
    """Documents that carry an identifier."""


class Shard(Value):
    """One memory-mapped file of token ids."""

    file: str
    """Name inside the manifest's folder."""
    tokens: int = Field(gt=0)
    sha256: str


class Manifest(Value):
    """What tokenising a source or target produced; written last, so its existence means done."""

    name: Name
    kind: Kind | Literal["target"]
    documents_address: str
    """Address of the curated documents."""
    tokenizer: str
    """Address of the tokenizer."""
    vocabulary: int = Field(gt=0)
    dtype: Literal["uint16", "uint32"]
    tokens: int = Field(gt=0)
    """Unique tokens, one end-of-text per document included, padding not."""
    padding: int = Field(0, ge=0)
    """Further tokens that fill up windows."""
    bytes: int = Field(gt=0)
    """UTF-8 bytes of the text: the denominator of bits per byte."""
    documents: int = Field(gt=0)
    dropped: dict[str, int] = Field(default_factory=dict)
    """Files and rows that were left out unread, and documents not kept, by reason."""
    shards: tuple[Shard, ...]
    content: str
    """Content address of the tokens: what runs are identified by."""
    layout: Layout = Layout()
    licence: str = "unknown"
    """As the source declares it."""
    evidence: Evidence = Evidence()
    """Of all curated documents, also where `max_tokens` keeps only some."""
    cost: Cost = Cost()
    """Measured plus declared, per unique token kept."""
    notes: dict[str, str | int | float] = Field(default_factory=dict)
    """Evidence of curation for the report: annotator, ROC-AUC, keep rate, contamination."""

    @model_validator(mode="after")
    def _shards_sum(self) -> Manifest:
        if sum(s.tokens for s in self.shards) != self.tokens + self.padding:
            raise ValueError("tokens of the shards do not sum to the manifest's tokens")
        return self
