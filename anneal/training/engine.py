"""The engine: one optimiser step on one batch, on whatever hardware there is.

`TorchEngine` keeps fp32 master weights and Adam moments. In bfloat16 the model itself is a bf16
copy: forward and backward run in bf16, gradients are summed in fp32, the masters are updated, and
the copy is made anew; so small updates are never lost to rounding, as in DeepSpeed's bf16 engine.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from anneal.errors import TrainingError
from anneal.plan.means import Means
from anneal.plan.values import Optimiser
from anneal.training import model as models
from anneal.training.loss import summed_loss, tile_loss, tiled_cross_entropy
from anneal.training.tensors import misfit, read_tensors, write_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TILE = {"cpu": 256, "cuda": 4096}
"""Tokens of a loss tile: on a CPU about what stays in its cache with 4k-8k entries (measured)."""


class Engine(ABC):
    """Weights, moments and the arithmetic on them.

    An engine may be several processes that run the same code on the same batches. What is said
    below to be collective is called by all of them, in the same order.
    """

    model: PreTrainedModel
    parameters: int
    at_once: int | None
    """Sequences that all processes together have at once; None is the whole batch."""
    device: torch.device
    leader: bool = True
    """Whether this process is the one that writes files and talks."""

    def agree(self, flag: bool) -> bool:
        """Whether any process says so; collective."""
        return flag

    def wait(self) -> None:
        """Returns when every process has come here; collective."""
        self.agree(False)

    @abstractmethod
    def step(self, rows: Any, learning_rate: float) -> tuple[Tensor, Tensor]:
        """Trains on one batch; collective.

        Args:
            rows: (batch, sequence + 1) int64 token ids: the whole batch, in every process.
            learning_rate: of this step.

        Returns:
            Mean loss (nats per token) and gradient norm before clipping, as scalars that may
            still be on the device.
        """

    @abstractmethod
    def score(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Sum of losses (nats) over labels that are not `IGNORED`: (n, sequence) each; collective,
        with the same rows in every process."""

    def rehearse(self, batch: int, sequence: int, score_sequence: int) -> None:
        """Compiles for these shapes. What it does to weights and moments ends with `load`."""
        for _ in range(2):  # the second step is the first with moments and freed gradients
            self.step(np.zeros((batch, sequence + 1), np.int64), 0.0)
        rows = torch.zeros((self.at_once or batch, score_sequence), dtype=torch.int64)
        self.score(rows, rows)

    def close(self) -> None:
        """Gives its memory back; nothing is asked of it afterwards."""
        del self.model

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """fp32 master weights by name, on the CPU; collective, empty but for the leader."""

    @abstractmethod
    def moments(self) -> dict[str, Tensor]:
        """Adam's moments (`NAME/exp_avg`, `NAME/exp_avg_sq`) and step counts (`NAME/step`) on the
        CPU; collective, empty but for the leader."""

    @abstractmethod
    def load(self, weights: dict[str, Tensor], moments: dict[str, Tensor] | None) -> None:
        """Sets weights and moments; None resets the moments. Collective; the leader's count.

        Raises:
            TrainingError: weights of another model.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes what `restore` needs into an existing folder; collective."""

    @abstractmethod
    def restore(self, folder: Path) -> None:
        """Sets weights and moments from what `save` wrote; collective.

        Raises:
            StoreError: files that are missing or damaged, or of a state that this engine cannot
                take.
        """


class TorchEngine(Engine):
    """One process, one device.

    Args:
        model: fp32 weights on the CPU; it is taken over.
        optimiser: AdamW's settings; weight decay is off on vectors (norms) and embeddings.
        precision: what forward and backward run in.
        means: device, compilation, micro-batch.
        sequence: tokens a sequence (chooses the attention).
        trainable: `all`, or `embeddings`: input and output embeddings alone learn.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        optimiser: Optimiser,
        *,
        precision: str,
        means: Means,
        sequence: int,
        trainable: str = "all",
    ) -> None:
        self.device = pick_device(means)
        self.compiled = pick_compile(means, self.device)
        self.parameters = models.parameter_count(model)
        self.optimiser = optimiser
        self.at_once = means.micro_batch
        self.tile = TILE[self.device.type]
        model.set_attn_implementation(models.attention_for(self.device, sequence))
        model.to(device=self.device)
        model.train()
        self.model = model
        self.names = [n for n, _ in model.named_parameters()]
        self.copies = [p for _, p in model.named_parameters()]
        self.mixed = precision != "float32"
        self.masters = [
            torch.nn.Parameter(p.detach().clone()) if self.mixed else p for p in self.copies
        ]
        for copy in self.copies:  # parameters alone: rotary frequencies stay exact
            copy.data = copy.data.to(getattr(torch, precision))
        embedding = models.head(model)
        inputs = model.get_input_embeddings().weight
        embeddings = [p is embedding or p is inputs for p in self.copies]
        self.learning = [trainable == "all" or of_them for of_them in embeddings]
        for copy, master, learns in zip(self.copies, self.masters, self.learning, strict=True):
            copy.requires_grad_(learns)
            master.grad = torch.zeros_like(master) if learns else None
        self.decayed = [
            m
            for m, p, no in zip(self.masters, self.copies, embeddings, strict=True)
            if p.dim() > 1 and not no and p.requires_grad
        ]
        self.adam = self._adam()
        body = models.body(model)
        self.body = torch.compile(body, dynamic=False) if self.compiled else body
        self.losses = torch.compile(tile_loss, dynamic=False) if self.compiled else tile_loss

    def _adam(self) -> torch.optim.AdamW:
        decayed = {id(p) for p in self.decayed}
        pairs = zip(self.masters, self.learning, strict=True)
        rest = [p for p, learns in pairs if learns and id(p) not in decayed]
        groups = [
            {"params": self.decayed, "weight_decay": self.optimiser.weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=1.0,
            betas=(self.optimiser.beta1, self.optimiser.beta2),
            eps=self.optimiser.epsilon,
            fused=True,
        )

    def step(self, rows: Any, learning_rate: float) -> tuple[Tensor, Tensor]:
        batch = torch.from_numpy(rows).to(self.device, non_blocking=True)
        tokens = batch.shape[0] * (batch.shape[1] - 1)
        loss = torch.zeros((), device=self.device)
        size = self.at_once or len(batch)
        for at in range(0, len(batch), size):
            part = batch[at : at + size]
            hidden = self._hidden(part[:, :-1])
            partial = tiled_cross_entropy(
                hidden, models.head(self.model), part[:, 1:].reshape(-1), tile=self.tile
            )
            (partial / tokens).backward()  # type: ignore[no-untyped-call]
            loss += partial.detach()
            self._gather(first=at == 0)
        grads = [m.grad for m in self.masters if m.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        torch.nn.utils.clip_grads_with_norm_(self.masters, self.optimiser.clip, norm)
        for group in self.adam.param_groups:
            group["lr"] = learning_rate
        self.adam.step()
        if not self.mixed:
            torch._foreach_zero_(grads)
        self._refresh()
        return loss / tokens, norm

    def _hidden(self, inputs: Tensor) -> Tensor:
        out = self.body(input_ids=inputs, use_cache=False).last_hidden_state
        hidden: Tensor = out.reshape(-1, out.shape[-1])
        return hidden

    def _gather(self, *, first: bool) -> None:
        """Adds the bf16 gradients of one micro-batch to the fp32 ones; the first replaces them."""
        if not self.mixed:
            return
        sums, parts = [], []
        for master, copy in zip(self.masters, self.copies, strict=True):
            if master.grad is None:
                continue
            if copy.grad is not None:
                sums.append(master.grad)
                parts.append(copy.grad)
            elif first:  # not used in this batch (an expert, say): nothing is left of the last one
                master.grad.zero_()
        if first:
            torch._foreach_copy_(sums, parts)
        else:
            for total, part in zip(sums, parts, strict=True):
                total.add_(part)
        for copy in self.copies:
            copy.grad = None

    def _refresh(self) -> None:
        """Makes the bf16 copy anew from the masters."""
        if self.mixed:
            with torch.no_grad():
                torch._foreach_copy_(self.copies, self.masters)

    @torch.no_grad()
    def score(self, inputs: Tensor, labels: Tensor) -> Tensor:
        hidden = self._hidden(inputs.to(self.device))
        head = models.head(self.model)
        return summed_loss(
            hidden, head, labels.to(self.device).reshape(-1), tile=self.tile, losses=self.losses
        )

    def weights(self) -> dict[str, Tensor]:
        pairs = zip(self.names, self.masters, strict=True)
        return {n: m.detach().to("cpu", copy=True) for n, m in pairs}

    def moments(self) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for name, master in zip(self.names, self.masters, strict=True):
            for key, value in self.adam.state.get(master, {}).items():
                out[f"{name}/{key}"] = value.detach().to("cpu", copy=True)
        return out

    def load(self, weights: dict[str, Tensor], moments: dict[str, Tensor] | None) -> None:
        pairs = zip(self.names, self.masters, strict=True)
        if wrong := misfit(weights, {name: master.shape for name, master in pairs}):
            raise TrainingError(wrong, hint="begin from a state of the same model")
        with torch.no_grad():
            for name, master in zip(self.names, self.masters, strict=True):
                master.copy_(weights[name])
                if master.grad is not None:
                    master.grad.zero_()
        self.adam.state.clear()
        for name, master in zip(self.names, self.masters, strict=True):
            state = dict(_states(name, moments or {}))
            if state:
                self.adam.state[master] = {
                    k: v.to(self.device, copy=True) for k, v in state.items()
                }
        self._refresh()

    def save(self, folder: Path) -> None:
        write_tensors(self.weights(), folder / "model.safetensors")
        write_tensors(self.moments(), folder / "optimiser.safetensors")

    def restore(self, folder: Path) -> None:
        self.load(
            read_tensors(folder / "model.safetensors"),
            read_tensors(folder / "optimiser.safetensors"),
        )


def _states(name: str, moments: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for key in ("step", "exp_avg", "exp_avg_sq"):
        if f"{name}/{key}" in moments:
            yield key, moments[f"{name}/{key}"]


def pick_device(means: Means) -> torch.device:
    """The device that `means` asks for; `auto` is a GPU where there is one."""
    if means.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(means.device)


def pick_compile(means: Means, device: torch.device) -> bool:
    """Whether to compile: `auto` where the compiler that is needed is found."""
    if means.compile == "auto":
        return device.type == "cuda" or shutil.which("g++") is not None
    return means.compile == "on"
