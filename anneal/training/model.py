"""Models: made from a shape, or loaded from a checkpoint, always as a plain causal LM.

A model is used in two parts: its **body** (tokens to hidden states; this is what gets compiled) and
its **head** (a matrix). Loss and scoring put tiles through the head themselves (`loss`). Models
whose logits are more than `hidden @ head.T` are refused rather than trained wrongly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anneal.errors import TrainingError
from anneal.plan.values import Checkpoint, LlamaShape, RunSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PLAIN_HEADS = frozenset(
    {"llama", "mistral", "mixtral", "qwen2", "qwen3", "olmo", "olmo2", "olmo3", "smollm3"}
    | {"gpt2", "gpt_neox", "phi", "phi3", "starcoder2", "stablelm"}
)
"""transformers model types whose logits are `hidden @ head.T` (a bias is refused where found)."""

LONG = 512
"""Sequences from here on use fused attention on a CPU; below, plain attention under the compiler is
faster for models of this size (measured, analysis/LOG.md)."""


def llama(shape: LlamaShape, *, vocabulary: int, seed: int) -> PreTrainedModel:
    """A Llama model with seeded initial weights in fp32 on the CPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=shape.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=shape.tied,
        bos_token_id=None,
        eos_token_id=0,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


def checkpoint(start: Checkpoint) -> PreTrainedModel:
    """A causal LM by folder or hub identifier, in fp32 on the CPU; remote code is never run.

    Raises:
        TrainingError: when it cannot be loaded, or its head is not a plain matrix.
    """
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            start.path,
            revision=start.revision or "main",
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"base {start.path}: {error}",
            hint="give a folder or hub identifier of a causal LM with safetensors weights",
        ) from error
    kind = model.config.model_type
    head = model.get_output_embeddings()
    if kind not in PLAIN_HEADS or getattr(head, "bias", None) is not None:
        raise TrainingError(
            f"base {start.path}: model type `{kind}` may scale, cap or shift its logits",
            hint=f"use one of {', '.join(sorted(PLAIN_HEADS))}",
        )
    return model


def body(model: PreTrainedModel) -> Any:
    """The part of the model that gives hidden states (before the head)."""
    return model.base_model


def head(model: PreTrainedModel) -> Tensor:
    """The head's matrix, (vocabulary, width)."""
    weight: Tensor = model.get_output_embeddings().weight
    return weight


def attention_for(device: torch.device, sequence: int) -> str:
    """Which of transformers' attentions is fastest here: fused on GPUs and for long sequences."""
    return "sdpa" if device.type == "cuda" or sequence >= LONG else "eager"


def check_positions(model: PreTrainedModel, spec: RunSpec) -> None:
    """Whether the model has a position for every token of a sequence, in all phases and scoring.

    Raises:
        TrainingError: a context beyond the model's.
    """
    most = getattr(model.config, "max_position_embeddings", None)
    asked = {f"phase `{phase.name}`": phase.sequence for phase in spec.phases}
    for where, sequence in (asked | {"scoring": spec.score_sequence}).items():
        if most is not None and sequence > most:
            raise TrainingError(
                f"{where}: sequences of {sequence:,} tokens, the model has {most:,} positions",
                hint="use shorter sequences, or a base with more positions (max_positions)",
            )


def parameter_count(model: PreTrainedModel) -> int:
    """Parameters, a tied embedding counted once."""
    return sum(p.numel() for p in model.parameters())
