"""The words of the verb `evaluate`: what a person types, and the checked values made of it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anneal.errors import SettingsError

if TYPE_CHECKING:
    from anneal.evaluation.values import Limits, Sampling


@dataclass(frozen=True)
class Asked:
    """What is to be evaluated, and how."""

    model: Path
    tasks: Sequence[Path]
    programs: Path | None
    sampling: Sampling
    ks: Sequence[int]
    limits: Limits
    run_programs: bool
    store: Path


def add_words(made: argparse.ArgumentParser) -> None:
    """Tells the parser of the verb what it takes."""
    made.add_argument("model", type=Path, metavar="MODEL_FOLDER", help="as `export` makes it")
    made.add_argument(
        "--tasks",
        type=Path,
        nargs="+",
        default=[],
        metavar="FOLDER_OR_FILE",
        help="lm-eval task files with local data",
    )
    made.add_argument(
        "--programs",
        type=Path,
        metavar="FILE.jsonl",
        help="problems in HumanEval's form [.gz|.zst]",
    )
    for name, default, metavar, about in (
        ("samples", 1, "N", "completions of each problem"),
        ("k", "1", "1,10", "of every pass@k"),
        ("temperature", 0.2, "T", "of a completion's draw"),
        ("max-tokens", 512, "N", "of a completion"),
        ("seed", 0, "N", "of all draws"),
        ("batch", 16, "N", "sequences at once"),
        ("program-seconds", 10.0, "S", "wall-clock and CPU of one program"),
        ("program-memory", 2**30, "BYTES", "of one program"),
    ):
        made.add_argument(
            f"--{name}",
            type=type(default),
            default=default,
            metavar=metavar,
            help=f"{about}: {default}",
        )
    made.add_argument(
        "--generator", choices=("auto", "transformers", "vllm"), default="auto", help="what draws"
    )
    made.add_argument(
        "--run-programs",
        action="store_true",
        help="yes, run in a sandbox what the model wrote; without it --programs is refused",
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="every number, unrounded")
    made.add_argument("--store", type=Path, default=Path("store"), metavar="FOLDER")


def asked_for(words: Mapping[str, Any]) -> Asked:
    """The verb's words, checked.

    Raises:
        SettingsError: a number among them that cannot be.
    """
    from pydantic import ValidationError

    from anneal.evaluation.values import Limits, Sampling

    try:
        ks = tuple(dict.fromkeys(int(k) for k in str(words["k"]).split(",")))
    except ValueError:
        raise SettingsError(f"--k {words['k']}: not whole numbers", hint="as in --k 1,10") from None
    try:
        limits = Limits(
            wall_seconds=words["program_seconds"],
            cpu_seconds=math.ceil(words["program_seconds"]),
            memory_bytes=words["program_memory"],
        )
        sampling = Sampling(
            **{name: words[name] for name in Sampling.model_fields if name in words}
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"--{name} " for name in first["loc"]).replace("_", "-")
        raise SettingsError(
            f"evaluate: {where}{first['msg'].removeprefix('Value error, ')}",
            hint="python -m anneal evaluate --help",
        ) from None
    return Asked(
        model=words["model"],
        tasks=words["tasks"],
        programs=words["programs"],
        sampling=sampling,
        ks=ks,
        limits=limits,
        run_programs=words["run_programs"],
        store=words["store"],
    )
