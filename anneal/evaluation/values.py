"""What an evaluation is told and what it finds.

Every number comes with an interval and the word for how the interval was made:

    binomial   Wilson's, where every item is right or wrong
    bootstrap  the items (documents, problems) drawn again, seeded
    stderr     lm-eval's standard error, taken as normal
    none       nothing is known of its spread
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from anneal.values import Value

LEVEL = 0.9
"""Of every interval."""

How = Literal["binomial", "bootstrap", "stderr", "none"]
Ended = Literal["passed", "failed", "timed_out", "out_of_memory", "crashed"]
"""failed: an assertion or another exception, or it left before its tests were through; crashed: a
signal ended it."""


class Measure(Value):
    """One number, with what is known of its spread."""

    value: float
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    """Ends of the interval at `LEVEL`."""
    interval: How = "none"
    n: int
    """Items it is of."""


class TaskResult(Value):
    """One metric of one lm-eval task."""

    task: str
    metric: str
    filter: str = "none"
    """lm-eval's filter of the answers that were scored."""
    higher_is_better: bool | None = None
    measure: Measure
    fewshot: int = 0


class Limits(Value):
    """Of one program in the sandbox."""

    wall_seconds: float = Field(10.0, gt=0)
    cpu_seconds: int = Field(5, gt=0)
    memory_bytes: int = Field(2**30, ge=2**26)
    """Of address space, of each process: all together may take `processes` times as much."""
    file_bytes: int = Field(16 * 2**20, gt=0)
    """Of one file."""
    disk_bytes: int = Field(64 * 2**20, gt=0)
    """Of all its files, where it has files of its own."""
    processes: int = Field(8, gt=0)
    """Processes and threads at once."""
    open_files: int = Field(256, ge=128)
    output_bytes: int = Field(16 * 2**10, ge=0)
    """Of its output that are kept."""


class Walls(Value):
    """What really kept a program apart; the limits always hold."""

    network_cut: bool
    """A network namespace of its own, with nothing in it."""
    own_processes: bool
    """A PID namespace: it sees no process but its own, and none of them outlives it."""
    own_files: bool
    """Read-only files, homes and temporary folders hidden, a small writable folder of its own."""
    other_user: bool
    """Another user than the caller, or one without privileges in a namespace."""


class Ran(Value):
    """How one program ended."""

    ended: Ended
    message: str = ""
    output: str = ""
    """The first of what it printed."""
    seconds: float
    walls: Walls


class Problem(Value):
    """One problem of a HumanEval-style file."""

    task_id: str = Field(min_length=1)
    prompt: str
    test: str
    entry_point: str = Field(min_length=1)
    canonical_solution: str | None = None


class Sampling(Value):
    """How completions are drawn."""

    samples: int = Field(1, gt=0)
    """Of each problem."""
    temperature: float = Field(0.2, ge=0)
    """0 takes the likeliest token, so that every sample is the same."""
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: int = Field(512, gt=0)
    seed: int = Field(0, ge=0)
    generator: Literal["auto", "transformers", "vllm"] = "auto"
    """auto: vLLM where it is installed and there is a GPU, transformers otherwise."""
    batch: int = Field(16, gt=0)
    """Completions at once; transformers."""

    @model_validator(mode="after")
    def _samples_differ(self) -> Sampling:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError("temperature 0 always draws the same: samples must be 1")
        return self


class ProblemResult(Value):
    """What became of one problem's completions."""

    task_id: str
    samples: int
    passed: int
    ended: dict[Ended, int]
    messages: tuple[str, ...] = ()
    """What went wrong, each once, at most five."""


class ProgramsResult(Value):
    """pass@k of one file of problems."""

    file: str
    content: str
    """SHA-256 of its text."""
    sampling: Sampling
    generator: str
    limits: Limits
    walls: Walls | None
    """The weakest that any program had; None where no program ran."""
    pass_at: dict[int, Measure]
    problems: tuple[ProblemResult, ...]
    generated: int
    """Completions made by this evaluation; the rest were found kept."""


class Evaluation(Value):
    """Everything one evaluation found."""

    model: str
    weights: str
    """Address of its weights and configuration."""
    tasks: tuple[TaskResult, ...] = ()
    programs: ProgramsResult | None = None
    level: float = LEVEL
    versions: dict[str, str] = {}
    seconds: float = 0.0
    finished: str = ""
    """UTC time, ISO 8601."""
