"""Weights and moments of a DeepSpeed engine, parameter by parameter, wherever their parts lie.

ZeRO keeps the fp32 masters and Adam's moments of a parameter group as one flat tensor and gives
each process a part of it (arXiv 1910.02054). So what a process holds of a parameter is a
**fragment**: a stretch of one of its flat tensors that is a stretch of the (flattened) parameter.
Gathering adds the fragments of all processes up in a tensor of zeros, which is exact; setting
copies from the whole tensor into the own fragment. At stage 0 the fragment is the parameter.

Tensors go one at a time, so a process needs room for the largest parameter, not for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from anneal.training.processes import Processes

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Fragment:
    """What a process holds of a parameter.

    Args:
        flat: the tensor that the optimiser knows, fp32, one dimension (at stage 0 any).
        start: where in `flat`.
        offset: where in the flattened parameter.
        count: elements; 0 where this process holds nothing of the parameter.
    """

    flat: Tensor
    start: int
    offset: int
    count: int

    def of(self, tensor: Tensor) -> Tensor:
        """Its part of a tensor shaped as `flat`."""
        return tensor.detach().view(-1).narrow(0, self.start, self.count)


class State:
    """Reads and sets an engine's masters and moments.

    Args:
        engine: DeepSpeed's engine.
        adam: the `torch.optim.AdamW` that it was given.
        processes: who holds the fragments.
        stage: ZeRO stage.
    """

    def __init__(
        self, engine: Any, adam: torch.optim.Optimizer, processes: Processes, stage: int
    ) -> None:
        self._engine, self._adam = engine, adam
        self._processes, self._stage = processes, stage
        self._settings = [
            {key: value for key, value in group.items() if key != "params"}
            for group in adam.param_groups
        ]

    def fragment(self, parameter: Tensor) -> Fragment | None:
        """None where this process holds nothing of the parameter."""
        if self._stage == 0:
            return Fragment(parameter, 0, 0, parameter.numel())
        zero: Any = self._engine.optimizer
        lent: Any = parameter  # attributes that DeepSpeed hangs on a parameter
        if self._stage == 3:
            group, start, count = zero.grad_position[zero.get_param_id(lent)]
            offset = count * dist.get_rank(lent.ds_process_group)
            rest = max(0, lent.ds_numel - offset)  # the last part may be padded
            flat = zero.fp32_partitioned_groups_flat[group]
            return Fragment(flat, start, min(offset, lent.ds_numel), min(count, rest))
        link = lent._hp_mapping
        if link is None:
            return None
        bf16 = hasattr(zero, "fp32_groups_flat_partition")
        flats = zero.fp32_groups_flat_partition if bf16 else zero.single_partition_of_fp32_groups
        mine, whole = link.hp_fragment_address, link.lp_fragment_address
        return Fragment(flats[link.param_group_index], mine.start, whole.start, mine.numel)

    def gather(self, parameter: Tensor, key: str | None = None) -> Tensor | None:
        """The whole master, or moment `key`, on the CPU of the leader; None elsewhere, and for
        moments that no process has yet. Collective."""
        fragment = self.fragment(parameter)
        source = None
        if fragment is not None:
            source = fragment.flat if key is None else self._moments(fragment).get(key)
        if key is not None and not self._processes.agree(source is not None):
            return None
        shape = shape_of(parameter)
        if self._stage == 0:
            return _cpu(source.detach()) if self._processes.leader and source is not None else None
        whole = torch.zeros(shape.numel(), dtype=torch.float32, device=self._processes.device)
        if fragment is not None and source is not None:
            whole.narrow(0, fragment.offset, fragment.count).copy_(fragment.of(source))
        dist.reduce(whole, 0)
        return _cpu(whole).view(shape) if self._processes.leader else None

    def steps(self, parameter: Tensor) -> int:
        """Adam's step count of a parameter; collective."""
        fragment = self.fragment(parameter)
        step = 0 if fragment is None else int(self._moments(fragment).get("step", torch.zeros(())))
        return self._processes.greatest(step)

    def set_master(self, parameter: Tensor, whole: Tensor, *, cast: bool) -> None:
        """Sets the master, and the weight that is computed with, from the whole fp32 tensor.

        Collective; every process gives the same tensor.

        Args:
            cast: whether the parameter has a master at all (frozen ones have none).
        """
        fragment = self.fragment(parameter) if cast else None
        if fragment is not None:
            fragment.of(fragment.flat).copy_(
                whole.view(-1).narrow(0, fragment.offset, fragment.count)
            )
        if self._stage == 3:
            import deepspeed

            with (
                deepspeed.zero.GatheredParameters([parameter], modifier_rank=0),
                torch.no_grad(),
            ):
                if self._processes.leader:
                    parameter.copy_(whole)
        else:
            parameter.detach().copy_(whole)

    def reset_moments(self) -> None:
        """As in a new engine: no moments, no gradients."""
        self._adam.state.clear()
        if self._stage in (1, 2):
            # links from parameters to moments are made again at the next step
            self._engine.optimizer._hp_optimizer_states_linked = False
        self._engine.optimizer.zero_grad()

    def set_moments(self, parameter: Tensor, step: int, wholes: dict[str, Tensor]) -> None:
        """Sets a parameter's moments from whole fp32 tensors, after `reset_moments`."""
        fragment = self.fragment(parameter)
        if fragment is None:
            return
        state = self._adam.state[fragment.flat]
        if not state:
            state["step"] = torch.tensor(
                float(step), dtype=torch.float32, device=fragment.flat.device
            )
            for key in MOMENTS:
                state[key] = torch.zeros_like(fragment.flat, requires_grad=False)
        for key, whole in wholes.items():
            fragment.of(state[key]).copy_(whole.view(-1).narrow(0, fragment.offset, fragment.count))

    def mend(self) -> None:
        """Puts right what DeepSpeed's stage 3 gets wrong in loading a universal checkpoint.

        It gives all groups one and the same tensor as step count, so that every group's step adds
        to it, and the weight decay of one group to the others (found by comparing losses).
        """
        for state in self._adam.state.values():
            if "step" in state:
                state["step"] = torch.as_tensor(state["step"], dtype=torch.float32).clone()
        for group, settings in zip(self._adam.param_groups, self._settings, strict=True):
            group.update(settings)

    def _moments(self, fragment: Fragment) -> dict[str, Tensor]:
        # `get`, since a defaultdict would make an entry
        found: dict[str, Tensor] = self._adam.state.get(fragment.flat, {})
        return found


def shape_of(parameter: Tensor) -> torch.Size:
    """A parameter's whole shape, also while only a part of it is here."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def _cpu(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", copy=True)
