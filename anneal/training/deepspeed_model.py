"""What DeepSpeed is given to train: a module from rows to their loss, and AdamW's groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from anneal.plan.means import LongSequences
from anneal.plan.values import Optimiser
from anneal.training import long_sequences
from anneal.training import model as models
from anneal.training.deepspeed_state import shape_of
from anneal.training.loss import summed_loss, tiled_cross_entropy

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Loss(nn.Module):
    """Rows to their summed loss: body, then tiles over head and labels.

    Args:
        model: whose body and head these are.
        tile: tokens of a loss tile.
        compiled: whether the body goes through torch's compiler.
        long: where it shares sequences, the loss is that of this process's slices.
        rank: this process's number.
    """

    def __init__(
        self, model: PreTrainedModel, tile: int, *, compiled: bool, long: LongSequences, rank: int
    ) -> None:
        super().__init__()
        self.model = model
        self.tile = tile
        self.long, self.rank = long, rank
        # in a list, so that its parameters are not listed twice
        self._compiled = [torch.compile(models.body(model), dynamic=False)] if compiled else []

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """(n, sequence) token ids and next tokens to a scalar, nats; with gradients where torch
        records them."""
        body = self._compiled[0] if self._compiled else models.body(self.model)
        inputs, labels, places = long_sequences.share(
            inputs, labels, self.long.sequence_parallel, self.rank
        )
        with long_sequences.offloading(self.long, inputs.device):
            out = body(input_ids=inputs, position_ids=places, use_cache=False)
        hidden = out.last_hidden_state.reshape(-1, out.last_hidden_state.shape[-1])
        head, targets = models.head(self.model), labels.reshape(-1)
        if torch.is_grad_enabled():
            loss_of = long_sequences.tiled_loss if self.long.tiled_loss else tiled_cross_entropy
            return loss_of(hidden, head, targets, tile=self.tile)
        return summed_loss(hidden, head, targets, tile=self.tile)


class Rounded(nn.Module):
    """A module with fp32 parameters, computed with copies of them in a lower precision."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.dtype = inner, dtype

    def forward(self, *inputs: Tensor) -> Tensor:
        copies = {n: p.to(self.dtype) for n, p in self.inner.named_parameters()}
        out: Tensor = torch.func.functional_call(self.inner, copies, inputs, tie_weights=True)
        return out


def embeddings(model: PreTrainedModel) -> list[Tensor]:
    """Input and output embeddings; tied ones are one tensor twice."""
    return [model.get_input_embeddings().weight, models.head(model)]


def group_of(model: PreTrainedModel, parameter: Tensor) -> int:
    """0 matrices, with weight decay; 1 embeddings and 2 vectors, without. Embeddings apart, since
    they alone may have trained in an earlier phase: a group has one step count."""
    if any(parameter is weight for weight in embeddings(model)):
        return 1
    return 0 if len(shape_of(parameter)) > 1 else 2


def make_adam(model: PreTrainedModel, optimiser: Optimiser) -> torch.optim.AdamW:
    """AdamW over what trains, in the groups of `group_of`."""
    groups: list[list[nn.Parameter]] = [[], [], []]
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[group_of(model, parameter)].append(parameter)
    decays = (optimiser.weight_decay, 0.0, 0.0)
    return torch.optim.AdamW(
        [
            {"params": group, "weight_decay": decay}
            for group, decay in zip(groups, decays, strict=True)
            if group
        ],
        lr=1.0,
        betas=(optimiser.beta1, optimiser.beta2),
        eps=optimiser.epsilon,
        fused=True,
    )
