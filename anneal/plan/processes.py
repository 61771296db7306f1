"""What processes can share: batches, sequences, moments. Checked before any of them starts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from anneal.errors import PlanError
from anneal.plan.means import Means
from anneal.plan.values import Phase


def check_processes(engine: Means, phases: Sequence[Phase]) -> None:
    """Refuses what processes cannot share, before anything is started.

    Raises:
        PlanError: processes, micro-batch or sequence parallelism that do not divide; moments kept
            over the end of a phase of embeddings where the engine cannot keep them.
    """
    apart = engine.long.sequence_parallel
    groups = engine.processes // apart
    for phase in phases:
        where = f"phase `{phase.name}`"
        if phase.batch % groups:
            raise PlanError(
                f"{where}: a batch of {phase.batch} sequences does not divide among {groups} "
                "processes" + (f" (groups of {apart})" if apart > 1 else ""),
                hint=f"set pretrain.engine.processes or pretrain.phases.{phase.name}.batch",
            )
        own, micro = phase.batch // groups, engine.micro_batch
        if engine.engine == "deepspeed" and micro is not None and own % micro:
            raise PlanError(
                f"{where}: micro_batch={micro} does not divide the {own} sequences of a process "
                f"({phase.batch} / {groups})",
                hint="set pretrain.engine.micro_batch to a divisor",
            )
        if phase.sequence % apart:
            raise PlanError(
                f"{where}: {apart} processes cannot share a sequence of {phase.sequence} tokens",
                hint="set pretrain.engine.long.sequence_parallel to a divisor",
            )
    for phase, after in pairwise(phases):
        partly = phase.trainable == "embeddings" and after.trainable == "all"
        if partly and after.optimiser_state == "kept" and engine.engine == "deepspeed":
            raise PlanError(
                f"phase `{after.name}`: it keeps the moments of `{phase.name}`, where only "
                "embeddings learnt: DeepSpeed counts the steps of all weights as one, so those "
                "that start learning would be corrected for steps they never made",
                hint=f"set pretrain.phases.{after.name}.optimiser_state=reset, or engine torch",
            )
