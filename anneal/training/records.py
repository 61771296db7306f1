"""What a run writes down while it trains, and the result at its end."""

from __future__ import annotations

import json
import platform
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import torch

from anneal.plan.flops import training_flops
from anneal.plan.values import PhaseEnd, Result, RunTask, Score
from anneal.training.checkpoint import Progress


class Rows:
    """A file of JSON lines with phase and step; rows past the step resumed from are dropped first.

    Args:
        path: the file; None writes nowhere, as in processes that are not the leader.
        progress: where the run goes on from.
    """

    def __init__(self, path: Path | None, progress: Progress) -> None:
        self._file: TextIO | None = None
        if path is None:
            return
        kept = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    break  # a kill cut the last line
                if (row["phase"], row["step"]) <= (progress.phase, progress.step):
                    kept.append(line)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
        self._file.writelines(f"{line}\n" for line in kept)

    def write(self, **row: Any) -> None:
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def result_of(
    task: RunTask,
    *,
    parameters: int,
    device: torch.device,
    progress: Progress,
    source_tokens: dict[str, int],
    unique_tokens: dict[str, int],
    scores: Mapping[str, Score],
    weights: str,
    phases: tuple[PhaseEnd, ...],
    seconds: Mapping[str, float],
) -> Result:
    """The result of a finished run.

    Args:
        task: what was asked.
        parameters: of the model.
        device: of the leading process.
        progress: where training ended.
        source_tokens: trained tokens by source, as realised.
        unique_tokens: unique tokens by source seen at least once.
        scores: at the end.
        weights: their hash.
        phases: what was measured at the ends of phases.
        seconds: `startup`, `score` and `all`.
    """
    spec = task.spec
    total = sum(p.tokens for p in spec.phases)
    shares: dict[str, float] = {}
    for phase in spec.phases:
        for portion in phase.mixture:
            part = portion.share * phase.tokens / total
            shares[portion.source] = shares.get(portion.source, 0.0) + part
    trained = total - sum(p.tokens for p, e in zip(spec.phases, phases, strict=False) if e.reused)
    tail = progress.tail_loss / progress.tail_steps if progress.tail_steps else None
    own = sum(e.seconds for e in phases if not e.reused) if phases else progress.train_seconds
    return Result(
        run=spec.id,
        scores=dict(scores),
        tokens=total,
        steps=sum(p.steps for p in spec.phases),
        flops=training_flops(parameters, total),
        parameters=parameters,
        source_tokens=source_tokens,
        unique_tokens=unique_tokens,
        asked_shares=shares,
        final_loss=phases[-1].loss if phases else tail,
        seconds=seconds["all"],
        train_seconds=own,
        save_seconds=progress.save_seconds,
        score_seconds=seconds["score"],
        startup_seconds=seconds["startup"],
        tokens_per_second=trained / own if own else 0.0,
        resumed=progress.resumed,
        weights=weights,
        device=device_name(device, task.means.processes),
        host=socket.gethostname(),
        versions=versions(task.means.engine),
        code=task.code,
        means=task.means,
        phases=phases,
        finished=now(),
    )


def now() -> str:
    """UTC time, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def device_name(device: torch.device, processes: int = 1) -> str:
    """The device in words, and how many of it."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return f"{processes} x {name}" if processes > 1 else name
    return (
        f"cpu {platform.processor() or platform.machine()} x{torch.get_num_threads() * processes}"
    )


def versions(engine: str) -> dict[str, str]:
    """Versions of what moves results."""
    found = {"python": platform.python_version()}
    names = ["torch", "transformers", "numpy", "tokenizers"]
    for name in [*names, "deepspeed"] if engine == "deepspeed" else names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
