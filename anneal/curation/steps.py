"""Steps: the settings of everything that curation can do to a stream of documents.

Each step has a `kind`, and a module of the same purpose that carries it out (`worker.APPLY`). What
a step is told here is all that decides what it makes: the settings are hashed into the recipe, so
another value is another source, and the same value is never paid for twice.
"""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from anneal.sources.values import Name
from anneal.values import Value


class Clean(Value):
    """Repairs text, and drops what is no text worth reading: length, characters, repetition.

    Rules are those of published corpora: SlimPajama drops documents under 200 characters
    (arXiv 2309.10818), Gopher those that are mostly symbols or repeat their lines (2112.11446),
    StarCoder code with very long lines or little that is alphanumeric (2305.06161). A rule at its
    loosest value is off.
    """

    kind: Literal["clean"] = "clean"
    normalise: bool = True
    """Unicode NFC, line ends as \\n, no control characters but tab and newline."""
    min_characters: int = Field(200, ge=0)
    max_characters: int = Field(1_000_000, gt=0)
    max_line: int = Field(100_000, gt=0)
    """Characters of the longest line."""
    max_mean_line: int = Field(10_000, gt=0)
    """Characters of a line on average."""
    min_letters: float = Field(0.25, ge=0, le=1)
    """Least share of characters that are letters or digits."""
    max_repeated_lines: float = Field(0.7, ge=0, le=1)
    """Largest share of non-empty lines that stood in the document before."""


class Deduplicate(Value):
    """Drops a document that is equal or nearly equal to an earlier one.

    Near: estimated Jaccard similarity of the sets of word n-grams, by MinHash and locality-
    sensitive hashing; SlimPajama's setting is 13-grams at 0.8 (arXiv 2309.10818). Local: earlier
    in the same source. Global: or anywhere in the sources named by `after`, which take precedence.
    """

    kind: Literal["deduplicate"] = "deduplicate"
    ngram: int = Field(13, gt=0)
    jaccard: float = Field(0.8, gt=0, le=1)
    """1 leaves only the exact comparison."""
    permutations: int = Field(128, ge=16, le=1024)
    after: tuple[Name, ...] = ()
    """Sources whose prepared documents come first: what they have is dropped here."""


class Decontaminate(Value):
    """Drops a document that overlaps a target, a guard or a benchmark file.

    Overlap with one target document is the larger of two shares of word n-grams: how much of the
    document occurs in targets, and how much of any one target document occurs in it. So a long
    file that contains a whole target document is found as surely as a short excerpt of one. Where
    n-grams touch at all, the longest common run of words decides too (SmolLM2: 13-grams and a
    longest common substring of 0.6, arXiv 2502.02737).
    """

    kind: Literal["decontaminate"] = "decontaminate"
    ngram: int = Field(13, gt=0)
    max_overlap: float = Field(0.1, ge=0, lt=1)
    """Documents above this are dropped."""
    longest: float = Field(0.6, gt=0, le=1)
    """So are those whose longest common run of words with one target document is this share of
    the shorter of the two; 1 leaves only whole containment."""
    benchmarks: tuple[str, ...] = ()
    """Further files to compare with (.jsonl with a `text` field or the fields of `fields`, .txt),
    by path or glob, relative to the sweep file."""
    fields: tuple[str, ...] = ("text",)
    """Fields of the benchmark files that are compared, joined by a newline where a row has more."""


class Annotate(Value):
    """Keeps the documents that a quality annotator scores highest.

    Learn to tell `positives` from random documents of the source itself (or from `negatives`), rank
    the source, keep the top: Arctic-SnowCoder's recipe (arXiv 2409.02326). Positives are a source
    and never a target: a filter that had seen the target would measure leakage (METHODS 6.8).

    linear: logistic regression on hashed word n-grams. encoder: a linear head on the sentence
    vectors of a BERT-style encoder; a document's score is the mean over its top, middle and bottom
    sections. hf: a sequence classifier that was fine-tuned elsewhere; it needs no positives.
    """

    kind: Literal["annotate"] = "annotate"
    annotator: Literal["linear", "encoder", "hf"] = "linear"
    model: str = ""
    """Folder of the encoder or classifier, relative to the sweep file."""
    positives: Name | None = None
    """Source of the sweep whose prepared documents are what good looks like."""
    negatives: Name | None = None
    """Source of what is not good; None takes random documents of the source itself."""
    keep: float | None = Field(None, gt=0, le=1)
    """Best-scoring share of the candidate bytes that is kept."""
    threshold: float | None = None
    """Keep every document that scores at least this: a probability of being good, or the output
    of an `hf` regression."""
    within: Literal["all", "language", "group"] = "all"
    """Rank among all documents, or `keep` the same share of each language or group."""
    ngrams: int = Field(2, ge=1, le=5)
    """linear: words and n-grams of words up to this length are features."""
    features: int = Field(2**18, ge=2**8, le=2**24)
    """linear: hash buckets."""
    examples: int = Field(2000, ge=20)
    """At most this many positives, and as many negatives; a fifth is held out for the ROC-AUC."""
    section_tokens: int = Field(256, ge=16, le=8192)
    """encoder, hf: tokens of each of the three sections."""
    label: str = ""
    """hf: which class is good, by name; a classifier with one output needs none."""
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _complete(self) -> Annotate:
        if (self.keep is None) == (self.threshold is None):
            raise ValueError("annotate: give one of `keep` and `threshold`")
        if self.annotator == "hf" and (self.positives or self.negatives):
            raise ValueError("annotate: an `hf` annotator is trained already, it takes no examples")
        if self.annotator != "hf" and self.positives is None:
            raise ValueError("annotate: name the source that is good with `positives`")
        if (self.annotator == "linear") == bool(self.model):
            raise ValueError("annotate: `model` is for `encoder` and `hf`, which need one")
        if self.label and self.annotator != "hf":
            raise ValueError("annotate: `label` is for `hf`")
        if self.threshold is not None and self.within != "all":
            raise ValueError("annotate: `within` is for `keep`; a threshold is the same everywhere")
        if self.threshold is not None and self.annotator != "hf" and not 0 < self.threshold < 1:
            raise ValueError("annotate: `threshold` is a probability, between 0 and 1")
        return self


class WriteExercises(Value):
    """Rewrites the documented functions of Python documents into worked exercises."""

    kind: Literal["exercises"] = "exercises"
    min_lines: int = Field(2, gt=0)
    """Lines of code of the function, docstring apart."""
    max_lines: int = Field(80, gt=0)
    per_document: int = Field(16, gt=0)
    """At most this many exercises from one document, drawn by hash."""
    seed: int = Field(0, ge=0)


class Offline(Value):
    """A vLLM engine inside the worker's process."""

    kind: Literal["offline"] = "offline"
    model: str
    """Model folder, relative to the sweep file, or a hub identifier."""
    revision: str | None = None
    tensor_parallel: int = Field(1, gt=0)
    max_context: int | None = Field(None, gt=0)
    """Tokens of prompt and answer; None takes the model's own."""


class Server(Value):
    """An OpenAI-compatible server: `vllm serve`, or a provider's."""

    kind: Literal["server"] = "server"
    url: str
    """Address up to and including /v1."""
    model: str
    """Name under which the server knows it. Answers are kept under it, wherever it is served:
    another model must have another name."""
    key_variable: str = ""
    """Environment variable that holds the key; the key itself is never written down."""
    parallel: int = Field(16, gt=0)
    """Requests in flight."""
    timeout_seconds: float = Field(300.0, gt=0)
    usd_per_million_prompt: float = Field(0.0, ge=0)
    usd_per_million_output: float = Field(0.0, ge=0)

    @field_validator("url")
    @classmethod
    def _an_address_without_secrets(cls, url: str) -> str:
        parts = urlsplit(url)  # itself refuses some
        spaced = any(character.isspace() for character in url)
        named = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        if spaced or not named:
            raise ValueError("must be an address such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("must hold no key: name its variable in `key_variable`")
        return url


Teacher = Annotated[
    Annotated[Offline, Tag("offline")] | Annotated[Server, Tag("server")],
    Discriminator("kind"),
]


class Synthesize(Value):
    """Writes new documents from seed documents by a teacher model.

    The stream that comes in are the seeds; what goes out is what the teacher made of them and what
    stood the checks. Recipes are Jinja templates in `conf/recipe/`: OSS-Instruct (2312.02120) as
    Arctic-SnowCoder uses it, rephrasing in WRAP's four styles (2401.16380), question and answer,
    textbook.
    """

    kind: Literal["synthesize"] = "synthesize"
    recipe: str
    """Name of a template in `conf/recipe/`, or a path to one, relative to the sweep file."""
    variables: dict[str, str] = {}
    """Given to the template: `style: easy`, `language: Python`."""
    teacher: Teacher
    per_seed: int = Field(1, gt=0)
    """Documents asked for from each seed."""
    max_seeds: int | None = Field(None, gt=0)
    """Seeds taken at most, in a seeded order."""
    seed_tokens: int = Field(1024, gt=0)
    """Tokens of a seed document that the prompt shows at most: one stretch of it, drawn by hash. A
    token is taken as 4 bytes here, so that a prompt does not depend on who serves the teacher."""
    max_output: int = Field(1024, gt=0)
    """Tokens of an answer; one that reaches it (and does not repeat itself by then) is tried once
    more with twice as many, and dropped as truncated when it reaches that."""
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    parse: Literal["text", "python", "question_answer"] = "text"
    """What an answer must be to count: any text; a fenced block of Python that compiles; a
    question and an answer."""
    max_repetition: float = Field(0.3, gt=0, le=1)
    """Largest share of an answer's words in 10-grams that stood in it before."""
    parameters: float | None = Field(None, gt=0)
    """Of the teacher, for FLOPs (of a mixture of experts, the active ones); None counts an offline
    model's own, and leaves the FLOPs of a server's out."""
    seed: int = Field(0, ge=0)


Step = Annotated[
    Clean | Annotate | WriteExercises | Synthesize | Deduplicate | Decontaminate,
    Field(discriminator="kind"),
]
