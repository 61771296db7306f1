"""Files of programming problems in HumanEval's form, and the score of a model on them.

A line is a problem: `prompt` begins a function, the model goes on, `test` defines `check`, and
`check(entry_point)` must run through. Completions are cut where the function ends, at the first of
the paper's stop sequences (arXiv 2107.03374, section 2.2 and appendix).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import ValidationError

from anneal.errors import SettingsError, SourceError
from anneal.evaluation.completions import completions
from anneal.evaluation.pass_at_k import over_problems
from anneal.evaluation.sandbox import LIMITS, run_program
from anneal.evaluation.values import (
    Ended,
    Limits,
    Problem,
    ProblemResult,
    ProgramsResult,
    Ran,
    Sampling,
    Walls,
)
from anneal.sources.streams import lines

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""What begins after the function: the first of them ends the completion."""
MESSAGES = 5

Report = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""


def read_problems(path: Path) -> list[Problem]:
    """Problems of a JSONL file, plain, .gz or .zst.

    Raises:
        SourceError: the file or a line of it cannot be used; the message names the line.
    """
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    for number, line in _lines(path):
        problem = _problem(line, path, number)
        if problem.task_id in seen:
            raise SourceError(
                f"{path}, line {number}: task_id {problem.task_id!r} stands on line "
                f"{seen[problem.task_id]} already",
                hint="give every problem a task_id of its own",
            )
        seen[problem.task_id] = number
        problems.append(problem)
    if not problems:
        raise SourceError(f"{path}: no problem in it", hint="one JSON object a line")
    return problems


def program(problem: Problem, completion: str) -> str:
    """What is run: the prompt gone on with, the tests, and their call."""
    return f"{problem.prompt}{completion}\n\n{problem.test}\n\ncheck({problem.entry_point})\n"


def cut(completion: str) -> str:
    """A completion up to the first stop sequence."""
    ends = [at for stop in STOPS if (at := completion.find(stop)) >= 0]
    return completion[: min(ends)] if ends else completion


def evaluate_programs(
    model: Path,
    file: Path,
    sampling: Sampling,
    *,
    ks: Sequence[int],
    cache: Path,
    weights: str,
    allow_execution: bool,
    limits: Limits = LIMITS,
    report: Report = lambda what, done, total: None,
) -> ProgramsResult:
    """pass@k of a model on one file of problems.

    Args:
        model: an exported folder.
        file: of problems.
        sampling: how completions are drawn.
        ks: the k of every pass@k.
        cache: folder in which completions are kept.
        weights: address of the model; completions are kept under it.
        allow_execution: see `sandbox`; without it nothing is generated either.
        limits: of one program.
        report: told of progress.

    Raises:
        SettingsError: execution was not allowed, or a k is larger than the samples.
        SourceError: a bad file.
        TrainingError: the model cannot be loaded.
    """
    problems = read_problems(file)
    for k in ks:
        if not 1 <= k <= sampling.samples:
            raise SettingsError(
                f"pass@{k} of {sampling.samples} completions of a problem",
                hint=f"--k must be from 1 to --samples; give --samples {max(k, 1)} or more",
            )
    # before the long part
    ran = run_program("assert True", limits, allow_execution=allow_execution)
    if ran.ended != "passed":
        raise SettingsError(
            f"not even a program of one line passes under these limits ({ran.message})",
            hint="raise --program-seconds or --program-memory",
        )
    drawn = completions(
        model,
        [problem.prompt for problem in problems],
        sampling,
        stops=STOPS,
        cache=cache,
        weights=weights,
        report=lambda done, total: report("completions", done, total),
    )
    texts = [[cut(text) for text in row] for row in drawn.texts]
    rans = run_all(
        [[program(p, text) for text in row] for p, row in zip(problems, texts, strict=True)],
        limits,
        allow_execution=allow_execution,
        report=lambda done, total: report("programs", done, total),
    )
    results = [_result(p, row) for p, row in zip(problems, rans, strict=True)]
    counts = [(result.samples, result.passed) for result in results]
    return ProgramsResult(
        file=str(file),
        content=_content(problems),
        sampling=sampling,
        generator=drawn.generator,
        limits=limits,
        walls=_weakest([ran.walls for row in rans for ran in row]),
        pass_at={k: over_problems(counts, k, seed=sampling.seed) for k in ks},
        problems=tuple(results),
        generated=drawn.generated,
    )


def run_all(
    programs: Sequence[Sequence[str]],
    limits: Limits,
    *,
    allow_execution: bool,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[Ran]]:
    """Runs every program once (equal ones together), one for each core at a time."""
    different = list(dict.fromkeys(text for row in programs for text in row))
    ends: dict[str, Ran] = {}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:

        def one(text: str) -> Ran:
            return run_program(text, limits, allow_execution=allow_execution)

        for text, ran in zip(different, pool.map(one, different), strict=True):
            ends[text] = ran
            report(len(ends), len(different))
    return [[ends[text] for text in row] for row in programs]


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    if not path.is_file():
        raise SourceError(f"{path}: no such file", hint="give a file of problems: .jsonl[.gz|.zst]")
    yield from ((number, line) for number, _, line in lines(str(path)))


def _problem(line: bytes, path: Path, number: int) -> Problem:
    hint = "a problem has task_id, prompt, test and entry_point, all texts"
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise SourceError(f"{path}, line {number}: not an object", hint=hint)
        known = {key: row[key] for key in Problem.model_fields if key in row}
        problem = Problem.model_validate(known, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise SourceError(f"{path}, line {number}: {where}: {first['msg']}", hint=hint) from None
    except ValueError as error:
        raise SourceError(f"{path}, line {number}: not JSON ({error})", hint=hint) from None
    if not problem.entry_point.isidentifier():
        raise SourceError(
            f"{path}, line {number}: entry_point {problem.entry_point!r} is not a name", hint=hint
        )
    return problem


def _result(problem: Problem, rans: Sequence[Ran]) -> ProblemResult:
    ended: Counter[Ended] = Counter(ran.ended for ran in rans)
    messages = dict.fromkeys(f"{ran.ended}: {ran.message}" for ran in rans if ran.ended != "passed")
    return ProblemResult(
        task_id=problem.task_id,
        samples=len(rans),
        passed=ended["passed"],
        ended={kind: count for kind, count in sorted(ended.items()) if count},
        messages=tuple(messages)[:MESSAGES],
    )


def _weakest(walls: Sequence[Walls]) -> Walls | None:
    if not walls:
        return None
    return Walls(**{name: all(getattr(w, name) for w in walls) for name in Walls.model_fields})


def _content(problems: Sequence[Problem]) -> str:
    text = "\n".join(problem.model_dump_json() for problem in problems)
    return hashlib.sha256(text.encode()).hexdigest()
