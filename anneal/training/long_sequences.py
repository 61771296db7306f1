"""Long sequences: what a phase may use when its activations, not its weights, fill the memory.

Memory of a step grows with the tokens of a sequence in four places, and each has its remedy
(ALST, arXiv 2506.13996):

- the **logits**, (tokens, vocabulary): loss and gradients are made a tile at a time (`tiled_loss`);
- the **feed-forward** insides, (tokens, wide): tiles again, computed anew going backward
  (`tile_feed_forward`);
- the insides of **layers**: only each layer's input is kept, and its inside is computed anew going
  backward; the inputs themselves can lie in the CPU's memory (`offloading`);
- the **sequence** itself: processes share it (Ulysses, arXiv 2309.14509). Each holds a slice of
  the tokens; around attention, an all-to-all trades slices of tokens for slices of heads, so each
  process attends with a part of the heads over the whole sequence.

Every process of ours has the whole batch, so sharing a sequence is slicing (`share`): a process
takes its rows of the batch and its part of each row, and sums the losses there. Gradients are a
mean over all processes, so each multiplies its sum by their number and divides by the tokens of
the batch. DeepSpeed is *not* told that some of its processes share sequences (`mpu`): told so,
stages 0 to 2 leave the sequence out of the mean and stage 3 does not (0.19.8: gradients too small
by `sequence_parallel`, measured), it keeps the telling for engines made later in the process, and
numbers its files by it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from anneal.errors import TrainingError
from anneal.plan.means import LongSequences, Means
from anneal.training import model as models
from anneal.training.loss import tile_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ULYSSES = "ulysses_sdpa"
"""Name of the attention among transformers' own: it needs no mask, so none is made."""

SHARED = frozenset(
    {"llama", "mistral", "mixtral", "qwen2", "qwen3", "olmo", "olmo2", "olmo3", "smollm3"}
    | {"gpt_neox", "phi", "phi3", "starcoder2", "stablelm"}
)
"""transformers model types that take their attention from transformers' interface and hand it
position_ids, as DeepSpeed's Ulysses needs (each run on two processes)."""

FIXED_ROTATIONS = frozenset({"default", "linear", "llama3", "yarn"})
"""Rotary embeddings of a token that do not depend on how long the sequence is."""


def check(
    model: PreTrainedModel, means: Means, *, precision: str, sequences: Iterable[int]
) -> None:
    """Refuses, before anything is trained, what could not be trained rightly.

    Args:
        precision: that forward and backward run in.
        sequences: tokens of every sequence that will be trained on or scored.

    Raises:
        TrainingError: a model, a sequence or a stage that an option cannot take.
    """
    long = means.long
    anew = long.tiled_mlp or long.activation_checkpointing
    if anew and means.deepspeed.stage == 0 and precision != "float32":
        raise TrainingError(
            f"long.tiled_mlp and long.activation_checkpointing: at stage 0 in {precision} nothing "
            "can be computed anew going backward, its weights are copies that are gone by then",
            hint="set engine.deepspeed.stage=1",
        )
    if long.tiled_mlp:
        for layer in _layers(model):
            _check_feed_forward(model, layer)
    if long.sequence_parallel > 1:
        _check_heads(model, long.sequence_parallel)
        for sequence in sorted(set(sequences)):
            _check_whole(long.sequence_parallel, sequence)
            _check_window(model, long.sequence_parallel, sequence)


def _check_feed_forward(model: PreTrainedModel, layer: nn.Module) -> None:
    inner = getattr(layer, "mlp", None)
    if inner is None or hasattr(inner, "experts"):
        why = "no `mlp` that works on each token by itself"
    elif any(m.p > 0 for m in inner.modules() if isinstance(m, nn.Dropout)) or (
        getattr(inner, "residual_dropout", 0.0) > 0  # starcoder2's, without a module
    ):
        why = "dropout in their `mlp`, which would fall otherwise when computed anew"
    else:
        return
    raise TrainingError(
        f"long.tiled_mlp: layers of model type `{model.config.model_type}` have {why}",
        hint="set engine.long.tiled_mlp=false",
    )


def _check_heads(model: PreTrainedModel, parallel: int) -> None:
    config = model.config
    if config.model_type not in SHARED:
        raise TrainingError(
            f"long.sequence_parallel={parallel}: model type `{config.model_type}` cannot share "
            "its sequences",
            hint=f"set engine.long.sequence_parallel=1, or use one of {', '.join(sorted(SHARED))}",
        )
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if heads % parallel or (kv_heads % parallel and parallel % kv_heads):
        raise TrainingError(
            f"long.sequence_parallel={parallel}: the model has {heads} heads and {kv_heads} "
            "key-value heads",
            hint="use a number of processes that divides both, or that is a multiple of the "
            "key-value heads and divides the heads",
        )
    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    if kind not in FIXED_ROTATIONS:
        raise TrainingError(
            f"long.sequence_parallel={parallel}: rotary embeddings of type `{kind}` depend on the "
            "length of the sequence, which a process sees only a slice of",
            hint="set engine.long.sequence_parallel=1",
        )


def _check_whole(parallel: int, sequence: int) -> None:
    if sequence % parallel:
        raise TrainingError(
            f"long.sequence_parallel={parallel}: does not divide a sequence of {sequence} tokens",
            hint=f"use sequences (and score_sequence) of a multiple of {parallel} tokens",
        )


def _check_window(model: PreTrainedModel, parallel: int, sequence: int) -> None:
    config = model.config
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
    if window is not None and window < sequence and "sliding_attention" in kinds:
        raise TrainingError(
            f"long.sequence_parallel={parallel}: attention within a window of {window} tokens "
            f"cannot be shared, and a sequence has {sequence}",
            hint="set engine.long.sequence_parallel=1, or use shorter sequences",
        )


def prepare(model: PreTrainedModel, long: LongSequences) -> None:
    """Gives a model the options asked for, before DeepSpeed takes it; call `check` first.

    Collective when sequences are shared: the processes' groups are made.
    """
    if long.tiled_mlp:
        for layer in _layers(model):
            tile_feed_forward(layer.mlp)
    if long.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if long.sequence_parallel > 1:
        _share_attention(model, _group(long.sequence_parallel))


def _layers(model: PreTrainedModel) -> list[Any]:
    inside = models.body(model)
    return list(getattr(inside, "layers", None) or getattr(inside, "h", None) or [])


def _group(parallel: int) -> Any:
    """The processes that share a sequence with this one: neighbours in rank."""
    from deepspeed.runtime.sequence_parallel import parallel_state_sp as groups

    if groups._SEQUENCE_PARALLEL_GROUP is not None:
        if groups.get_sequence_parallel_world_size() == parallel:
            return groups.get_sequence_parallel_group()
        groups._release_sequence_parallel_groups()
    groups.initialize_sequence_parallel(parallel)
    return groups.get_sequence_parallel_group()


def _share_attention(model: PreTrainedModel, group: Any) -> None:
    """Puts DeepSpeed's all-to-alls around sdpa, under a name of their own.

    `UlyssesSPAttentionHF.register_with_transformers` would put them in place of sdpa, for every
    model of the process and one batch size; here other models keep theirs, and micro-batches and
    scoring batches may differ.
    """
    from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    config = model.config
    heads = config.num_attention_heads

    @functools.cache
    def around(batch: int) -> UlyssesSPAttentionHF:
        return UlyssesSPAttentionHF(
            attn=sdpa_attention_forward,
            batch_size=batch,
            attn_head_count=heads,
            attn_head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
            kv_head_count=getattr(config, "num_key_value_heads", None) or heads,
            num_hidden_layers=config.num_hidden_layers,
            process_group=group,
            seq_length_is_variable=True,
        )

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **rest: Any
    ) -> tuple[Tensor, None]:
        # a mask would be that of the slice; without one, sdpa is causal over what it is given
        out: tuple[Tensor, None] = around(len(query))(module, query, key, value, None, **rest)
        return out

    AttentionInterface.register(ULYSSES, attention)
    model.set_attn_implementation(ULYSSES)


def tile_feed_forward(module: nn.Module) -> None:
    """Makes a feed-forward module go through its tokens in tiles of about its own width.

    Its insides, several times as wide as its input, then exist for one tile at a time; going
    backward each tile is computed anew (DeepSpeed's `TiledMLP`).
    """
    from deepspeed.runtime.sequence_parallel.ulysses_sp import TiledMLP

    whole: Callable[[Tensor], Tensor] = module.forward
    weights = list(module.parameters())

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        tiles = math.ceil(x.shape[-2] / x.shape[-1])
        out: Tensor = TiledMLP.apply(lambda _, tile: whole(tile), self, x, tiles, weights)
        return out

    module.forward = MethodType(forward, module)


def offloading(long: LongSequences, device: torch.device) -> AbstractContextManager[Any]:
    """The context to run the model's body in: what is kept for backward goes to the CPU.

    Under activation checkpointing that is the inputs of layers and little else.
    """
    if not long.offload_activations:
        return nullcontext()
    return torch.autograd.graph.save_on_cpu(pin_memory=device.type == "cuda")


def tiled_loss(hidden: Tensor, head: Tensor, labels: Tensor, *, tile: int) -> Tensor:
    """As `loss.tiled_cross_entropy`, by DeepSpeed's `TiledFusedLogitsLoss`.

    DeepSpeed's goes backward while it goes forward, and leaves the head's gradient in the head
    itself: reduced over the processes too early, twice where embeddings are tied, and without the
    scale that backward later brings. So it works on a stand-in for the head, in fp32 so that
    tiles add up, and the stand-in's gradient is handed to the head when backward comes.
    """
    from deepspeed.runtime.sequence_parallel.ulysses_sp import TiledFusedLogitsLoss

    stand_in = head.detach().float().requires_grad_()
    stand_in.grad = torch.zeros_like(stand_in)

    def part_loss(_: None, rows: Tensor, targets: Tensor) -> Tensor:
        return tile_loss(rows @ stand_in.to(rows.dtype).t(), targets)

    total: Tensor = TiledFusedLogitsLoss.apply(
        part_loss,
        None,
        hidden.unsqueeze(0),
        labels.unsqueeze(0),
        None,
        math.ceil(len(hidden) / tile),
        [],
        "sum",
    )
    loss: Tensor = _HandOver.apply(total, head, stand_in.grad)  # type: ignore[no-untyped-call]
    return loss


class _HandOver(torch.autograd.Function):
    """Passes a loss through, and a gradient made earlier to the weight that it is of."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient.to(weight.dtype))
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return grads[0], gradient * grads[0], None


def share(
    inputs: Tensor, labels: Tensor, parallel: int, rank: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A process's slice of every sequence.

    Args:
        inputs: (n, sequence) token ids.
        labels: (n, sequence) next tokens already, so the last one of a slice needs nothing of the
            next slice.
        parallel: processes that share a sequence.
        rank: of this process, over all processes.

    Returns:
        Inputs and labels, (n, sequence / parallel), and the places of these tokens in their
        sequence, (1, sequence / parallel), which positions are told by; None is all of them.

    Raises:
        TrainingError: a sequence that does not divide.
    """
    if parallel == 1:
        return inputs, labels, None
    sequence = inputs.shape[1]
    _check_whole(parallel, sequence)
    size = sequence // parallel
    at = rank % parallel * size
    places = torch.arange(at, at + size, device=inputs.device).unsqueeze(0)
    return inputs[:, at : at + size], labels[:, at : at + size], places
