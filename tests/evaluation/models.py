"""A tiny model with a tokenizer of its own, as a run leaves it, and exported."""

from __future__ import annotations

import argparse
from pathlib import Path

from anneal.plan.values import LlamaShape
from anneal.sources.documents import Document
from anneal.sources.tokenizer import train_tokenizer

SHAPE = LlamaShape(hidden=64, layers=1, heads=2, kv_heads=2, feed_forward=128, max_positions=512)
"""Heads of 32, which vLLM takes."""
VOCABULARY = 512


def tokenizer(folder: Path) -> Path:
    """A byte-level BPE of the source of argparse."""
    folder.mkdir(parents=True)
    text = Path(argparse.__file__).read_text()
    train_tokenizer(
        [[Document("a", text, "", "argparse")]], folder, vocabulary=VOCABULARY, sample_bytes=10**6
    )
    return folder


def weights(
    folder: Path, tokens: Path, *, shape: LlamaShape = SHAPE, steps: int = 40, seed: int = 0
) -> Path:
    """Weights as a run leaves them, after a few steps on the source of argparse."""
    import torch

    from anneal.sources.tokenizer import load_tokenizer
    from anneal.training.checkpoint import save_weights
    from anneal.training.model import llama

    model = llama(shape, vocabulary=VOCABULARY + 8, seed=seed)
    ids = load_tokenizer(tokens)[0].encode(Path(argparse.__file__).read_text()).ids
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(steps):
        start = step * 64 * 16 % (len(ids) - 64 * 16)
        batch = torch.tensor(ids[start : start + 64 * 16]).reshape(16, 64)
        model(input_ids=batch, labels=batch).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    save_weights(folder, model, {n: p.detach() for n, p in model.named_parameters()}, {})
    return folder


def exported(folder: Path, *, dtype: str = "bfloat16", **more) -> Path:
    """`folder`/model, made from `folder`/weights and `folder`/tokenizer."""
    from anneal.training.export import export

    tokens = tokenizer(folder / "tokenizer")
    export(
        weights(folder / "weights", tokens, **more),
        folder / "model",
        tokenizer=tokens,
        dtype=dtype,
    )
    return folder / "model"
