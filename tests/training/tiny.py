"""A store with made-up tokens, and runs of three phases on it that train in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from anneal.plan.means import Means
from anneal.plan.values import (
    LlamaShape,
    Phase,
    Portion,
    RunSpec,
    RunTask,
    Schedule,
    Scored,
)
from anneal.sources.tokenizer import TokenizerInfo
from anneal.sources.values import Manifest, Shard
from anneal.store import Store, write_value

SHAPE = LlamaShape(hidden=64, layers=2, heads=2, kv_heads=2, feed_forward=128)
VOCABULARY = 128
SOURCES = {"web": 6000, "code": 3000, "written": 2000}
TARGETS = {"aim": 400, "guard": 300}
MEANS = Means(device="cpu", compile="off", checkpoint_seconds=1e9)


def store(folder: Path) -> Store:
    """Sources and targets, each a random walk over the vocabulary: something to learn."""
    made = Store(folder / "store")
    for number, (name, tokens) in enumerate({**SOURCES, **TARGETS}.items()):
        rng = np.random.default_rng(number % 3)
        ids = (np.cumsum(rng.integers(1, 4, tokens)) % VOCABULARY).astype("<u2")
        place = made.tokens(name)
        place.mkdir(parents=True)
        (place / "0.bin").write_bytes(ids.tobytes())
        manifest = Manifest(
            name=name,
            kind="target" if name in TARGETS else "general",
            documents_address="made",
            tokenizer="made",
            vocabulary=VOCABULARY,
            dtype="uint16",
            tokens=tokens,
            bytes=tokens * 3,
            documents=1,
            shards=(Shard(file="0.bin", tokens=tokens, sha256=""),),
            content=name,
        )
        write_value(place / "manifest.json", manifest)
    info = TokenizerInfo(vocabulary=128, end_of_text=0, end_of_text_token="<|end|>", content="made")
    write_value(made.tokenizer("made") / "tokenizer_info.json", info)
    return made


def phase(name: str, shares: dict[str, float], steps: int, **more) -> Phase:
    settings = {"batch": 4, "sequence": 32} | more
    return Phase(
        name=name,
        mixture=tuple(Portion(source=s, content=s, share=v) for s, v in shares.items()),
        tokens=steps * settings["batch"] * settings["sequence"],
        **settings,
    )


GENERAL = phase(
    "general", {"web": 1.0}, 12, schedule=Schedule(kind="constant", peak=5e-3, warmup=0.1)
)
GOOD = phase(
    "high_quality",
    {"code": 0.75, "web": 0.25},
    10,
    schedule=Schedule(kind="linear", peak=5e-3, warmup=0.2),
)
LAST = phase("synthetic", {"written": 0.5, "code": 0.5}, 8, schedule=Schedule(peak=2e-3))


def spec(*phases: Phase, precision: str = "float32", **more) -> RunSpec:
    return RunSpec(
        start=SHAPE,
        phases=phases or (GENERAL, GOOD, LAST),
        seed=3,
        tokenizer="made",
        vocabulary=VOCABULARY,
        precision=precision,
        targets=(
            Scored(name="aim", content="aim"),
            Scored(name="guard", content="guard", guard=True),
        ),
        score_sequence=32,
        **more,
    )


def task(asked: RunSpec | None = None, means: Means = MEANS) -> RunTask:
    return RunTask(spec=asked or spec(), means=means, label="full run", code="test")


def means(**changes) -> Means:
    return Means.model_validate(MEANS.model_dump() | changes)
