"""The words of a plan: budgets, phases, runs and results.

`RunSpec` says **what** is trained (hashed: it is the run's identity); `means.Means` says **how**
(recorded, not hashed); `Result` says what was measured, with its evidence.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from anneal.plan.means import Means
from anneal.sources.values import Name
from anneal.values import Value, address

FailureClass = Literal[
    "killed",
    "preempted",
    "node_lost",
    "network",
    "disk_full",
    "out_of_memory",
    "non_finite",
    "bad_data",
    "aborted",
    "bug",
]
"""The first five are the infrastructure's and are tried again; `out_of_memory` is, once, with half
the micro-batch (see `failures`); nothing else is. `killed`: the process died without an answer.
`preempted`: it was told to stop by someone other than the launcher. `aborted`: a gate or an abort
rule of the run's own (`Watch`) said no."""


def _absent(value: object) -> bool:
    """Left out of the text of a value, and so of its address: it came later, and says nothing."""
    return value is None


def _everything(value: object) -> bool:
    return value == "all"


class LlamaShape(Value):
    """A Llama-architecture model made from scratch (transformers `LlamaConfig`)."""

    kind: Literal["llama"] = "llama"
    hidden: int = Field(128, gt=0)
    layers: int = Field(4, gt=0)
    heads: int = Field(4, gt=0)
    kv_heads: int = Field(4, gt=0)
    feed_forward: int = Field(384, gt=0)
    max_positions: int = Field(2048, gt=0)
    rope_theta: float = Field(10_000.0, gt=0)
    tied: bool = True
    """Input and output embeddings shared."""

    @model_validator(mode="after")
    def _heads_divide(self) -> LlamaShape:
        if self.hidden % self.heads or self.heads % self.kv_heads:
            raise ValueError("heads must divide hidden, and kv_heads must divide heads")
        return self


class Checkpoint(Value):
    """A causal language model on disk or on a hub, used as a base as it is."""

    kind: Literal["checkpoint"] = "checkpoint"
    path: str
    """Local folder or hub identifier; remote code is never run."""
    revision: str | None = None
    content: str = ""
    """Address of the weights, filled in when the sweep resolves the path."""
    parameters: int = Field(0, ge=0)
    decayed: bool = False
    """Whether its learning rate had already decayed: a decayed base adapts worse
    (arXiv 2505.07796), so the report says it."""


class FromRun(Value):
    """Start from the final weights of another run of the same store."""

    kind: Literal["run"] = "run"
    run: str


Start = Annotated[LlamaShape | Checkpoint | FromRun, Field(discriminator="kind")]


class Schedule(Value):
    """Learning rate as a pure function of tokens seen in the phase.

    After a linear warm-up from `start` (a fraction of peak), `constant` stays at the peak;
    `linear` and `cosine` go to `final` (a fraction of peak) at the end; `one_minus_sqrt` is
    eta = peak (1 - sqrt(t)) (Hagele et al., arXiv 2405.18392); `wsd` stays and then decays
    linearly over the last `decay` of the phase.
    """

    kind: Literal["constant", "linear", "cosine", "one_minus_sqrt", "wsd"] = "linear"
    peak: float = Field(3e-3, gt=0)
    warmup: float = Field(0.0, ge=0, lt=1)
    """Share of the phase's tokens spent warming up."""
    start: float = Field(0.0, ge=0, le=1)
    final: float = Field(0.0, ge=0, le=1)
    decay: float = Field(0.2, gt=0, le=1)


class Portion(Value):
    """One source's part in a phase."""

    source: Name
    content: str
    """Content address of its tokens; identity is here, not in the name."""
    share: float = Field(gt=0, le=1)
    """Share of the phase's tokens."""
    pool: int | None = Field(None, gt=0)
    """Use only this many unique tokens (a seeded subset of whole samples); None is all."""
    tokens: int | None = Field(None, gt=0, exclude_if=_absent)
    """Exactly this many trained tokens, whole sequences; None follows from the share."""


class Phase(Value):
    """A stretch of training with one mixture, token count and learning-rate schedule."""

    name: str = "anneal"
    mixture: tuple[Portion, ...] = Field(min_length=1)
    tokens: int = Field(gt=0)
    """Trained tokens: a whole number of steps."""
    batch: int = Field(8, gt=0)
    """Sequences a step, over all devices."""
    sequence: int = Field(256, gt=1)
    """Tokens a sequence."""
    schedule: Schedule = Schedule()
    optimiser_state: Literal["kept", "reset"] = "kept"
    """Whether Adam's moments of the previous phase or base go on (METHODS 3.3: OLMo keeps them)."""
    trainable: Literal["all", "embeddings"] = Field("all", exclude_if=_everything)
    """embeddings: input and output embeddings alone learn, as when a vocabulary was extended
    (arXiv 2407.12869)."""

    @property
    def steps(self) -> int:
        return self.tokens // (self.batch * self.sequence)

    @model_validator(mode="after")
    def _whole(self) -> Phase:
        if self.tokens % (self.batch * self.sequence):
            raise ValueError("a phase's tokens must be a whole number of steps")
        if abs(sum(p.share for p in self.mixture) - 1.0) > 1e-9:
            raise ValueError("the shares of a phase must sum to 1")
        exact = [p.tokens for p in self.mixture if p.tokens is not None]
        if not exact:
            return self
        if len(exact) < len(self.mixture) or sum(exact) != self.tokens:
            raise ValueError("exact tokens must be given for every portion and sum to the phase's")
        if any(tokens % self.sequence for tokens in exact):
            raise ValueError("a portion's exact tokens must be whole sequences")
        return self


class Optimiser(Value):
    """AdamW with decoupled weight decay, off on norms and embeddings."""

    beta1: float = Field(0.9, gt=0, lt=1)
    beta2: float = Field(0.95, gt=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    clip: float = Field(1.0, gt=0)
    """Global gradient norm above which gradients are scaled down."""


class Scored(Value):
    """A target as a run sees it."""

    name: Name
    content: str
    guard: bool = False
    weight: float = 1.0


class RunSpec(Value):
    """What a run trains on and how it is scored: everything that moves the result, nothing else."""

    start: Start
    phases: tuple[Phase, ...] = ()
    """Empty: the base as it is, only scored."""
    seed: int = Field(0, ge=0)
    """Decides the pool, the data order and, from scratch, the weights."""
    tokenizer: str
    """Address of the tokenizer."""
    vocabulary: int = Field(gt=0)
    optimiser: Optimiser = Optimiser()
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """bfloat16: compute in bf16 over fp32 master weights and moments."""
    targets: tuple[Scored, ...] = ()
    score_sequence: int = Field(256, gt=1)
    """Tokens of context when scoring."""

    @property
    def id(self) -> str:
        """Content address: the same whatever the sweep, machine or display name."""
        return address(self)

    def boundary(self, phase: int) -> str:
        """Address of the state after phase number `phase`: whatever comes later, and however it is
        scored, leaves it as it is. Runs that begin alike share their boundaries."""
        begun = self.model_copy(update={"phases": self.phases[: phase + 1], "targets": ()})
        return address([begun.model_dump(mode="json", exclude={"score_sequence"}), "boundary"])

    @property
    def contents(self) -> tuple[str, ...]:
        """Content addresses of all tokens it reads, each once."""
        read = [portion.content for phase in self.phases for portion in phase.mixture]
        return tuple(dict.fromkeys([*read, *(target.content for target in self.targets)]))


class Score(Value):
    """One target's score."""

    loss: float
    """Nats per token."""
    bpb: float
    """Bits per byte."""
    tokens: int
    bytes: int


class PhaseEnd(Value):
    """What was measured at the end of a phase, and whether its state was read back whole."""

    phase: str
    index: int
    tokens: int
    """Trained tokens of the run so far."""
    steps: int
    """Of this phase."""
    source_tokens: dict[str, int]
    """Of this phase, as realised."""
    unique_tokens: dict[str, int]
    scores: dict[str, Score]
    """By target name."""
    start: dict[str, Score] = {}
    """At the run's start, in its first phase, where a gate asked for them."""
    loss: float
    """Mean training loss of the phase's last tenth, nats per token."""
    learning_rate: float
    """Of the last step."""
    weights: str
    """SHA-256 of the weights."""
    moments: str
    """SHA-256 of Adam's moments."""
    boundary: str = ""
    """Address of the kept state; empty where none is kept."""
    verified: bool = False
    """The kept state was read back: weights, moments, step, tokens, learning rate and data order
    are the same, and the training loss on the next batch within tolerance."""
    reused: bool = False
    """Trained by an earlier run that began alike."""
    seconds: float
    finished: str
    """UTC time, ISO 8601."""


class Result(Value):
    """What one run measured, with its evidence. Its existence on disk means the run is done."""

    run: str
    scores: dict[str, Score]
    """By target name."""
    tokens: int
    """Trained tokens."""
    steps: int
    flops: float
    """Training FLOPs, by `plan.flops`."""
    parameters: int
    source_tokens: dict[str, int]
    """Trained tokens by source, as realised."""
    unique_tokens: dict[str, int]
    """Unique tokens by source that were seen at least once."""
    asked_shares: dict[str, float]
    final_loss: float | None
    """Mean training loss (nats per token) of the last tenth of the steps (of those of the last
    phase, where there are several); None without training."""
    seconds: float
    """Training and scoring, apart from starting up."""
    train_seconds: float
    save_seconds: float = 0.0
    """Writing checkpoints, where training waited for it."""
    score_seconds: float
    startup_seconds: float
    tokens_per_second: float
    resumed: int = 0
    """Times it was resumed from a checkpoint."""
    weights: str | None = None
    """SHA-256 of the final weights."""
    device: str
    host: str
    versions: dict[str, str]
    code: str
    """Commit of anneal's code, with `+` when it had local changes; `release` outside a checkout."""
    means: Means
    phases: tuple[PhaseEnd, ...] = ()
    """Where the run has several."""
    finished: str
    """UTC time, ISO 8601."""


class RunTask(Value):
    """What a worker is handed: what to train, and how."""

    spec: RunSpec
    means: Means
    label: str
    code: str


class Failure(Value):
    """Why a run or step has no result."""

    run: str
    kind: FailureClass
    message: str
    log: str
    """Path of its log."""
    attempts: int = 1
