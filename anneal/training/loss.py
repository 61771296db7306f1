"""Cross-entropy over the vocabulary without ever holding all the logits.

The logits of a batch are the largest temporary of training a small model: 4096 tokens by 4096
entries are 64 MB in fp32, written, read and freed several times a step. Here a tile of tokens goes
through head, softmax and both gradients while it is still in cache, as fused kernels for GPUs do
(Liger, arXiv 2410.10989); the forward pass already leaves the gradients, and backward scales them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

IGNORED = -100
"""Next-token label of padding: neither scored nor trained on."""


def tiled_cross_entropy(hidden: Tensor, head: Tensor, labels: Tensor, *, tile: int) -> Tensor:
    """Sum of the next-token losses, in nats, with gradients for `hidden` and `head`.

    Args:
        hidden: (n, width) last hidden states.
        head: (vocabulary, width) output embedding.
        labels: (n,) next tokens; `IGNORED` ones count for nothing.
        tile: tokens at a time.

    Returns:
        A scalar in fp32.
    """
    loss: Tensor = _TiledCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, head, labels, tile
    )
    return loss


class _TiledCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor, tile: int) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_grad = torch.empty_like(hidden)
        head_grad = torch.zeros(head.shape, dtype=torch.float32, device=head.device)
        for at in range(0, len(hidden), tile):
            rows, targets = hidden[at : at + tile], labels[at : at + tile]
            logits = (rows @ head.t()).float()
            wanted = targets.clamp_min(0).unsqueeze(1)
            counted = (targets != IGNORED).unsqueeze(1)
            logits.sub_(logits.amax(1, keepdim=True))
            chosen = logits.gather(1, wanted)
            logits.exp_()
            sums = logits.sum(1, keepdim=True)
            total += ((sums.log() - chosen) * counted).sum()
            # d loss / d logits = softmax - onehot, nothing for ignored tokens
            logits.div_(sums).mul_(counted)
            logits.scatter_add_(1, wanted, -counted.to(logits.dtype))
            slope = logits.to(hidden.dtype)
            torch.mm(slope, head, out=hidden_grad[at : at + tile])
            head_grad += slope.t() @ rows
        ctx.save_for_backward(hidden_grad, head_grad.to(head.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, head_grad = ctx.saved_tensors
        return hidden_grad * grads[0], head_grad * grads[0], None, None


def tile_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the losses of one tile, in nats: logits (n, vocabulary), targets (n,).

    Written for the compiler, which makes one pass over the logits of it and stores none.
    """
    chosen = logits.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1).float()
    losses = torch.logsumexp(logits.float(), 1) - chosen
    return torch.where(targets != IGNORED, losses, 0.0).sum()


def summed_loss(
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    *,
    tile: int,
    losses: Callable[[Tensor, Tensor], Tensor] = tile_loss,
) -> Tensor:
    """As `tiled_cross_entropy`, for scoring: no gradients are made.

    Args:
        losses: `tile_loss`, or what a compiler made of it.
    """
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for at in range(0, len(hidden), tile):
        total += losses(hidden[at : at + tile] @ head.t(), labels[at : at + tile])
    return total
