"""A worker whose scores follow a known law: the truth that a sweep must find. No torch.

Started in place of `python -m anneal` (`python -m tests.integration.planted VERB --serve`). The
truth is in the environment, `PLANTED`: JSON {floor, base, alpha, r_star, noise,
tau: {source: tokens}, tokens: {source or target: unique tokens}, guard: slope, and perhaps
complements: [c, D0]}.

    score = floor + (base - floor) (1 + sum_i D_i / tau_i) ^ -alpha,  D_i effective data of source i

With complements mixtures are better than the rule of `allocation.mixture`: the score is multiplied
by exp(-c M log(1 + D / D0)), M = 1 - sum of squared shares of the D source tokens.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from pathlib import Path

import numpy as np

from anneal.curation.values import CurationRecord, PrepareStep
from anneal.plan.protocol import Report, TaskFailed, serve
from anneal.plan.values import Result, RunTask, Score
from anneal.sources.tokenizer import TokenizerInfo
from anneal.sources.values import Cost, Manifest, Shard
from anneal.store import Store, read_value, write_value
from anneal.training.data import largest_remainder
from anneal.values import address

TRUTH = json.loads(os.environ.get("PLANTED", "{}"))


def effective(tokens: float, unique: float, r_star: float) -> float:
    """Muennighoff's effective data (arXiv 2305.16264)."""
    if tokens <= unique:
        return tokens
    return unique * (1 + r_star * (1 - math.exp(-(tokens / unique - 1) / r_star)))


def true_score(truth: dict, tokens: dict[str, float], unique: dict[str, float]) -> float:
    depth = sum(effective(tokens[s], unique[s], truth["r_star"]) / truth["tau"][s] for s in tokens)
    score = truth["floor"] + (truth["base"] - truth["floor"]) * (1 + depth) ** -truth["alpha"]
    if "complements" not in truth or not tokens:
        return score
    (c, d0), total = truth["complements"], sum(tokens.values())
    mixed = 1 - sum((x / total) ** 2 for x in tokens.values())
    return score * math.exp(-c * mixed * math.log1p(total / d0))


def prepare(step: PrepareStep, store: Store) -> None:
    path = step.done(store)
    if step.work.kind == "documents":
        write_value(
            path,
            CurationRecord(
                documents=10, bytes=1000, read=10, read_bytes=1000, dropped={}, steps=()
            ),
        )
    elif step.work.kind == "tokenizer":
        info = TokenizerInfo(
            vocabulary=4096, end_of_text=0, end_of_text_token="<|end|>", content="planted"
        )
        write_value(path, info)
    else:
        name = step.work.name
        tokens = TRUTH["tokens"][name]
        content = address([name, tokens])
        manifest = Manifest(
            name=name,
            kind="target" if "target" in name or "guard" in name else "general",
            documents_address=step.work.documents,
            tokenizer="planted",
            vocabulary=4096,
            dtype="uint16",
            tokens=tokens,
            bytes=tokens * 3,
            documents=10,
            shards=(Shard(file="0.bin", tokens=tokens, sha256="0"),),
            content=content,
            cost=Cost(**TRUTH.get("cost", {}).get(name, {})),
        )
        write_value(path, manifest)
        write_value(store.tokens(content) / "manifest.json", manifest)


def run(task: RunTask, store: Store, report: Report) -> None:
    spec = task.spec
    seed = int.from_bytes(hashlib.sha256(spec.id.encode()).digest()[:8], "big")
    rng = np.random.default_rng(seed)
    tokens: dict[str, float] = {}
    pools: dict[str, float] = {}
    trained = sum(p.tokens for p in spec.phases)
    for phase in spec.phases:
        if phase.name == "base":
            continue
        samples = phase.tokens // phase.sequence
        counts = largest_remainder([p.share for p in phase.mixture], samples)
        for portion, count in zip(phase.mixture, counts, strict=True):
            name = portion.source
            if name == "replay" and len(phase.mixture) > 1:
                continue
            share = 0.75 if name == "replay" else 1.0
            tokens[name] = count * phase.sequence * share
            pools[name] = float(portion.pool or TRUTH["tokens"][name]) * share
    if TRUTH.get("fail") and any(TRUTH["fail"] == s for s in tokens):
        raise TaskFailed("non_finite", "planted failure")
    noise = math.exp(TRUTH["noise"] * rng.standard_normal()) if tokens else 1.0
    score = true_score(TRUTH, tokens, pools) * noise
    guard = 3.0 + TRUTH["guard"] * math.log2(1 + sum(tokens.values()) / 1e5)
    report(trained, trained, loss=score, tokens_per_second=1e6)
    done = {
        name: Score(loss=value, bpb=value, tokens=1000, bytes=3000)
        for name, value in (("target", score), ("guard", guard))
    }
    folder = store.run(spec.id)
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    replay = trained - sum(v for k, v in tokens.items() if k != "replay")
    source_tokens = {k: round(v) for k, v in tokens.items() if k != "replay"}
    source_tokens["replay"] = round(replay)
    write_value(
        folder / "result.json",
        Result(
            run=spec.id,
            scores={t.name: done[t.name] for t in spec.targets},
            tokens=trained,
            steps=sum(p.steps for p in spec.phases),
            flops=6.0 * 1e6 * trained,
            parameters=1_000_000,
            source_tokens=source_tokens,
            unique_tokens={k: round(min(v, pools.get(k, v))) for k, v in source_tokens.items()},
            asked_shares={},
            final_loss=score,
            seconds=0.01,
            train_seconds=0.01,
            score_seconds=0.0,
            startup_seconds=0.0,
            tokens_per_second=1e6,
            device="planted",
            host="here",
            versions={"python": "3"},
            code=task.code,
            means=task.means,
            finished="2026-01-01T00:00:00+00:00",
        ),
    )


def handle(spec: str, report: Report) -> None:
    path = Path(spec)
    if path.parent.name == "steps":
        prepare(read_value(path, PrepareStep), Store(path.parents[1]))
    else:
        run(read_value(path, RunTask), Store(path.parents[2]), report)


if __name__ == "__main__":
    sys.exit(serve(handle, saves=False))
