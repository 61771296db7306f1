"""How much arithmetic training costs.

Training takes 6 N D FLOPs: two per parameter and token forward, four backward (Kaplan et al.,
arXiv 2001.08361, section 2.1; Hoffmann et al., arXiv 2203.15556). N counts every parameter, a tied
embedding once: the head is a real product, and for the input embedding of an untied model this
errs on the dear side. Attention's quadratic term is left out, as in both papers. Where it
matters, on sequences longer than the model is wide, `attention_flops` says how much.
"""

from __future__ import annotations

from anneal.plan.values import LlamaShape

TRAINING_FORMULA = "6 x parameters x tokens"


def training_flops(parameters: int, tokens: float) -> float:
    """FLOPs of training a model of `parameters` on `tokens`."""
    return 6.0 * parameters * tokens


def attention_flops(shape: LlamaShape, tokens: float, sequence: int) -> float:
    """FLOPs of causal attention in training: 6 x layers x width x sequence a token.

    Scores and sums are 2 x 2 x width x (sequence / 2) forward for each layer, and twice that
    backward; the forward pass of FlashAttention's recomputation is not counted.
    """
    return 6.0 * shape.layers * shape.hidden * sequence * tokens


PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}
"""Dense bf16 FLOP/s of a device, by a word of its name (the makers' data sheets, SXM)."""


def utilisation(
    parameters: int, tokens_per_second: float, device: str, devices: int
) -> float | None:
    """Model FLOPs utilisation (arXiv 2204.02311): 6 N a token over what the devices could do at
    best; None for a device whose peak is not known."""
    peak = next((flops for word, flops in PEAKS.items() if word in device), None)
    if peak is None:
        return None
    return training_flops(parameters, tokens_per_second) / (peak * devices)


def llama_parameters(shape: LlamaShape, vocabulary: int) -> int:
    """Parameters of a Llama model: as many as transformers makes, without making it."""
    width, kv_width = shape.hidden, shape.hidden // shape.heads * shape.kv_heads
    attention = 2 * width * width + 2 * width * kv_width
    layer = attention + 3 * width * shape.feed_forward + 2 * width
    embeddings = vocabulary * width * (1 if shape.tied else 2)
    return embeddings + shape.layers * layer + width
