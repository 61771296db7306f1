"""Tasks of EleutherAI's lm-eval on an exported model, from local task files alone.

lm-eval runs in a process of its own with hubs switched off (`harness_inside`). Its numbers are
taken as they are; their intervals are made here from the values of the items, because lm-eval has
none for bits per byte: Wilson's for what is right or wrong, a bootstrap over documents for bits per
byte and perplexities, a bootstrap over items for other means, lm-eval's standard error for what is
left.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from anneal.errors import SettingsError, SourceError, TrainingError
from anneal.evaluation.pass_at_k import binomial, bootstrap_mean, bootstrap_ratio
from anneal.evaluation.task_files import HINT, task_configs
from anneal.evaluation.values import LEVEL, Measure, TaskResult

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}
PER_BYTE: dict[str, Callable[[float], float]] = {
    "bits_per_byte": lambda nats: -nats / math.log(2),
    "byte_perplexity": lambda nats: math.exp(-nats),
    "word_perplexity": lambda nats: math.exp(-nats),
}
"""Metrics whose items are (log-likelihood, weight), as functions of the sums' ratio."""
SAME = 1e-6
"""How far, relatively, our mean of the items may lie from lm-eval's number to be the same."""


def evaluate_tasks(
    model: Path,
    paths: Sequence[Path],
    *,
    batch: int = 16,
    seed: int = 0,
) -> tuple[tuple[TaskResult, ...], dict[str, str]]:
    """Every metric of every task, and the versions of what measured them.

    Args:
        model: an exported folder.
        paths: task files, or folders of them.
        batch: requests at once.
        seed: of few-shot examples and bootstraps.

    Raises:
        SettingsError: lm-eval is not installed.
        SourceError: a task file cannot be used, or lm-eval rejects it; the message names the task.
        TrainingError: the model cannot be loaded.
    """
    configs = task_configs(paths)
    if find_spec("lm_eval") is None:
        raise SettingsError(
            "tasks are evaluated by lm-eval, which is not installed",
            hint="pip install 'anneal[evaluation]'",
        )
    with tempfile.TemporaryDirectory(prefix="anneal-tasks-") as scratch:
        answer = Path(scratch) / "answer.json"
        asked = {
            "model": str(model.absolute()),
            "tasks": configs,
            "batch": batch,
            "seed": seed,
            "scratch": scratch,
            "answer": str(answer),
        }
        log = _run(asked, Path(scratch))
        if not answer.is_file():
            raise TrainingError(
                f"lm-eval ended without an answer: {log}", hint="memory may be full"
            )
        told = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in told:
        if told["task"]:
            raise SourceError(f"task `{told['task']}`: lm-eval: {told['error']}", hint=HINT)
        raise TrainingError(
            f"model {model}: lm-eval cannot load it: {told['error']}",
            hint="give a folder that `python -m anneal export RUN FOLDER` made",
        )
    return tuple(_results(told["results"], seed)), told["versions"]


def _run(asked: dict[str, Any], scratch: Path) -> str:
    """Runs lm-eval to its end; returns the end of what it printed."""
    path = os.pathsep.join(filter(None, [_package_root(), os.environ.get("PYTHONPATH", "")]))
    log = scratch / "log"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "anneal.evaluation.harness_inside"],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            env=os.environ | OFFLINE | {"HF_DATASETS_CACHE": str(scratch), "PYTHONPATH": path},
        )
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(asked).encode())
            process.stdin.close()
            process.wait()
        finally:
            process.kill()
            process.wait()
    return " ".join(log.read_text(encoding="utf-8", errors="replace").split())[-300:]


def _package_root() -> str:
    return str(Path(__file__).resolve().parent.parent.parent)


def _results(told: Sequence[dict[str, Any]], seed: int) -> list[TaskResult]:
    found = []
    for task in told:
        for key, metric in task["metrics"].items():
            name, _, filter_ = key.partition(",")
            if not isinstance(metric["value"], int | float):
                continue  # lm-eval's bypass metric has no number
            found.append(
                TaskResult(
                    task=task["task"],
                    metric=name,
                    filter=filter_,
                    higher_is_better=metric["higher_is_better"],
                    measure=measure(
                        name,
                        float(metric["value"]),
                        metric["stderr"],
                        metric["items"],
                        n=task["n"],
                        seed=seed,
                    ),
                    fewshot=int(task["fewshot"]),
                )
            )
    return found


def measure(
    metric: str, value: float, stderr: object, items: Sequence[Any], *, n: int, seed: int
) -> Measure:
    """lm-eval's number with an interval.

    Args:
        metric: its name.
        value: lm-eval's number.
        stderr: lm-eval's standard error, where that is a number.
        items: the metric's value of each item.
        n: items, where `items` does not tell.
        seed: of a bootstrap.
    """
    made = _from_items(metric, items, seed)
    if made is not None and abs(made.value - value) <= SAME * max(1.0, abs(value)):
        return made.model_copy(update={"value": value})
    if not isinstance(stderr, int | float) or not math.isfinite(stderr):
        return Measure(value=value, n=n)
    half = float(norm.ppf((1 + LEVEL) / 2)) * stderr
    return Measure(
        value=value, stderr=stderr, low=value - half, high=value + half, interval="stderr", n=n
    )


def _from_items(metric: str, items: Sequence[Any], seed: int) -> Measure | None:
    """Number and interval from the items alone; None where it is not known how."""
    try:
        table = np.array(items, float)
    except (TypeError, ValueError):
        return None
    if metric in PER_BYTE and table.ndim == 2 and table.shape[1] == 2:
        ratio = bootstrap_ratio(table[:, 0], table[:, 1], seed=seed)
        change = PER_BYTE[metric]
        if ratio.low is None or ratio.high is None or ratio.stderr is None:
            return ratio.model_copy(update={"value": change(ratio.value)})
        value = change(ratio.value)
        # the slope of `change` turns the ratio's spread into the metric's
        slope = 1 / math.log(2) if metric == "bits_per_byte" else value
        return ratio.model_copy(
            update={
                "value": value,
                "stderr": ratio.stderr * slope,
                "low": change(ratio.high),  # the better the likelihood, the lower all of these
                "high": change(ratio.low),
            }
        )
    if table.ndim != 1 or not len(table) or not np.isfinite(table).all():
        return None
    if np.isin(table, (0.0, 1.0)).all():
        return binomial(int(table.sum()), len(table))
    return bootstrap_mean(table, seed=seed)
