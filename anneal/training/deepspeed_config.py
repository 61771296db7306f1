"""What DeepSpeed is told: its configuration, made from `Means` and the optimiser.

A batch is cut three ways: batch = micro-batch x accumulation x data-parallel processes. A sequence
may itself be shared by several processes (Ulysses), which then count as one data-parallel place.
What decides a run's result (batch, precision, clipping, stage, optimiser) is ours to say; anything
else of DeepSpeed's configuration may be given in `means.deepspeed.config`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from anneal.errors import TrainingError
from anneal.plan.means import Means
from anneal.plan.values import Optimiser

OWNED = frozenset(
    {"train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"}
    | {"managed_gradient_accumulation", "gradient_clipping", "optimizer", "scheduler"}
    | {"fp16", "bf16", "amp", "torch_autocast", "data_types", "checkpoint"}
    | {"zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer"}
    | {"sequence_parallel_size", "data_efficiency", "curriculum_learning"}
)
"""Keys of DeepSpeed's configuration that follow from the run and its means."""
OWNED_ZERO = frozenset(
    {"stage", "cpu_offload", "cpu_offload_params", "cpu_offload_use_pin_memory"}
    | {"elastic_checkpoint", "load_from_fp32_weights", "stage3_gather_16bit_weights_on_model_save"}
)
"""As `OWNED`, below `zero_optimization`."""


@dataclass(frozen=True)
class Division:
    """How a batch is cut over processes.

    Args:
        places: data-parallel places.
        place: the one of this process.
        micro: rows of one micro-batch.
        accumulation: micro-batches of a step, in each place.
    """

    places: int
    place: int
    micro: int
    accumulation: int

    @property
    def rows(self) -> int:
        """Rows of a step in each place."""
        return self.micro * self.accumulation


def divide(means: Means, *, batch: int, count: int, rank: int) -> Division:
    """Cuts a batch of rows over `count` processes.

    Raises:
        TrainingError: when it does not divide.
    """
    shared = means.long.sequence_parallel
    places = count // shared
    if batch % places:
        among = f" ({count} processes, {shared} a sequence)" if shared > 1 else ""
        raise TrainingError(
            f"batch {batch}: {places} data-parallel processes{among} do not divide it",
            hint=f"choose a batch that is a multiple of {places}, or other engine.processes",
        )
    rows = batch // places
    micro = means.micro_batch or rows
    if rows % micro:
        raise TrainingError(
            f"micro_batch {micro}: does not divide the {rows} rows that each of {places} "
            f"data-parallel processes has of a batch of {batch}",
            hint=f"choose engine.micro_batch among the divisors of {rows}",
        )
    return Division(places=places, place=rank // shared, micro=micro, accumulation=rows // micro)


def configuration(
    means: Means, optimiser: Optimiser, *, precision: str, division: Division, count: int
) -> dict[str, Any]:
    """DeepSpeed's configuration.

    At stage 0 precision and clipping are not DeepSpeed's: see `deepspeed_engine`.

    Raises:
        TrainingError: options that contradict each other, or a key that is not the user's.
    """
    ds = means.deepspeed
    _check(means)
    config: dict[str, Any] = {
        # DeepSpeed checks the product over all processes, those that share a sequence included
        "train_batch_size": division.rows * count,
        "train_micro_batch_size_per_gpu": division.micro,
        "gradient_accumulation_steps": division.accumulation,
        "gradient_clipping": optimiser.clip if ds.stage else 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 62,
        "communication_data_type": "fp32",
        "zero_optimization": {"stage": ds.stage},
    }
    if precision == "bfloat16" and ds.stage:
        config["bf16"] = {"enabled": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    for key, device in (
        ("offload_optimizer", ds.offload_optimizer),
        ("offload_param", ds.offload_param),
    ):
        if device != "none":
            config["zero_optimization"][key] = {"device": device}
    return _merge(config, ds.config)


def _check(means: Means) -> None:
    ds = means.deepspeed
    zero = ds.config.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise TrainingError(
            f"deepspeed.config.zero_optimization: a mapping is wanted, got {zero!r}",
            hint="give its keys, as in DeepSpeed's own configuration",
        )
    owned = sorted(OWNED & set(ds.config))
    owned += [f"zero_optimization.{k}" for k in sorted(OWNED_ZERO & set(zero))]
    for key in ("offload_optimizer", "offload_param"):
        if isinstance(zero.get(key), dict) and {"device", "nvme_path"} & set(zero[key]):
            owned.append(f"zero_optimization.{key}.device")
    if owned:
        raise TrainingError(
            f"deepspeed.config: {', '.join(owned)} cannot be set there",
            hint="they follow from the phase, the optimiser and the engine's own options "
            "(stage, micro_batch, offload_optimizer, offload_param)",
        )
    if ds.offload_optimizer != "none" and ds.stage == 0:
        raise TrainingError(
            f"deepspeed.offload_optimizer={ds.offload_optimizer}: stage 0 has nothing to offload",
            hint="choose engine.deepspeed.stage 1, 2 or 3",
        )
    if ds.offload_param != "none" and ds.stage != 3:
        raise TrainingError(
            f"deepspeed.offload_param={ds.offload_param}: only stage 3 can, not {ds.stage}",
            hint="choose engine.deepspeed.stage=3",
        )


def _merge(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """`ours` with the user's further keys, level by level."""
    merged = dict(ours)
    for key, value in theirs.items():
        inner = merged.get(key)
        both = isinstance(inner, dict) and isinstance(value, dict)
        merged[key] = _merge(inner, value) if both and isinstance(inner, dict) else value
    return merged
