"""How a run is carried out: engine, processes, what is watched and what is kept.

None of it is part of a run's identity: the same run under another engine, on more devices or with
other checkpoints is the same run (its losses agree within rounding). All of it is recorded.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from anneal.sources.values import Name
from anneal.values import Value


class DeepSpeed(Value):
    """What DeepSpeed does with weights, gradients and moments (arXiv 1910.02054)."""

    stage: int = Field(1, ge=0, le=3)
    """ZeRO: 1 shards the optimiser's state over the processes, 2 the gradients too, 3 the weights
    too; 0 shards nothing."""
    offload_optimizer: Literal["none", "cpu"] = "none"
    """Where masters and moments lie; stages 1 to 3. Not on NVMe: states there could not be read
    back and verified."""
    offload_param: Literal["none", "cpu"] = "none"
    """Where weights lie that are not in use; stage 3."""
    config: dict[str, Any] = {}
    """Further keys of DeepSpeed's own configuration, passed through as they are."""


class LongSequences(Value):
    """What lets a phase train on long sequences (ALST, arXiv 2506.13996); engine deepspeed."""

    sequence_parallel: int = Field(1, gt=0)
    """Processes that share one sequence (Ulysses, arXiv 2309.14509); divides the processes and the
    model's heads."""
    tiled_loss: bool = False
    """DeepSpeed's fused and tiled logits and loss, instead of our own tiles."""
    tiled_mlp: bool = False
    """Feed-forward layers in tiles over the sequence."""
    activation_checkpointing: bool = False
    """Keep only each layer's input, and compute its inside again going backward."""
    offload_activations: bool = False
    """Keep those inputs in the CPU's memory; needs `activation_checkpointing`."""

    @model_validator(mode="after")
    def _offloads_what_there_is(self) -> LongSequences:
        if self.offload_activations and not self.activation_checkpointing:
            raise ValueError("offload_activations needs activation_checkpointing")
        return self


class Gate(Value):
    """What a phase must have reached at its end, before the next one is paid for."""

    phase: str
    target: Name
    at_most: float | None = Field(None, gt=0)
    """Bits per byte."""
    better_by: float | None = None
    """Bits per byte below the score at the phase's start."""

    @model_validator(mode="after")
    def _one(self) -> Gate:
        if (self.at_most is None) == (self.better_by is None):
            raise ValueError("a gate needs exactly one of at_most and better_by")
        return self


class Watch(Value):
    """When held-out text is scored during a run, and what ends the run early."""

    evaluate_tokens: int | None = Field(None, gt=0)
    """Score all targets every so many trained tokens, besides the ends of phases."""
    spike: float | None = Field(None, gt=0)
    """End the run when the mean of the last 10 training losses is above the median of the 100
    before by this many nats per token; None never does. Non-finite losses always end it."""
    guard_limits: dict[Name, float] = {}
    """End the run when a target's score (bits per byte) is above its limit."""
    gates: tuple[Gate, ...] = ()


class Keep(Value):
    """Which states of a run stay on disk."""

    newest: int = Field(2, gt=0)
    """Checkpoints to resume from, while it runs."""
    boundaries: bool = False
    """The state after every phase, with moments: any phase can begin from it."""
    every: int | None = Field(None, gt=0)
    """Besides, the weights every so many trained tokens (Crystal kept 136)."""
    best: bool = False
    """Besides, the weights with the best target score so far, at evaluations."""


class Means(Value):
    """How runs are carried out: recorded in the result, never part of a run's identity."""

    engine: Literal["torch", "deepspeed"] = "torch"
    processes: int = Field(1, gt=0)
    """Processes, each with a device of its own, that share one run; engine deepspeed."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile: auto uses it where a C++ compiler is found."""
    threads: int = Field(1, gt=0)
    """CPU threads of one slot."""
    micro_batch: int | None = Field(None, gt=0)
    """Sequences at once on a device; None is the whole batch, or a process's part of it."""
    checkpoint_seconds: float = Field(60.0, ge=0)
    """Time between checkpoints; 0 is every step."""
    keep_weights: bool = False
    """Keep the final weights and moments, so that other runs can start from them."""
    deepspeed: DeepSpeed = DeepSpeed()
    long: LongSequences = LongSequences()
    watch: Watch = Watch()
    keep: Keep = Keep()

    @model_validator(mode="after")
    def _engine_can(self) -> Means:
        if self.engine == "torch" and self.processes > 1:
            raise ValueError("engine torch is one process: set engine.engine=deepspeed")
        if self.engine == "torch" and self.long != LongSequences():
            raise ValueError("long sequences are an option of engine deepspeed")
        if self.processes % self.long.sequence_parallel:
            raise ValueError(
                f"long.sequence_parallel={self.long.sequence_parallel} does not divide the "
                f"{self.processes} processes"
            )
        return self
