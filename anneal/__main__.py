"""The verbs of `python -m anneal`: parses words, calls one function each, maps errors to exits.

Exit codes: 0 done; 2 an error of the user's making, said in one line with a hint; 3 the sweep is
partial (some runs failed; what finished was fitted); 75 a worker was told to stop and saved its
work; 130 interrupted, resumable by the same command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from anneal.errors import AnnealError, SettingsError

EPILOG = """\
words like key=value override the sweep's settings (Hydra's syntax):
  python -m anneal sweep sweeps/pilot.yaml budget.seeds=5 source=[stdlib,packages]
exit codes: 0 done, 2 an error in what was given, 3 some runs failed, 130 interrupted (resumable)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carries out one command line; returns the exit code."""
    parser = _parser()
    words = parser.parse_args(arguments)
    try:
        return int(words.verb(words))
    except AnnealError as error:
        print(f"anneal: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("anneal: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m anneal",
        description="Decides, before the money is spent, which data to anneal a model on.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")

    def verb(
        name: str, function: Callable[[argparse.Namespace], int], about: str
    ) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=about, description=about)
        made.set_defaults(verb=function)
        return made

    for name, function, about in (
        ("sweep", _sweep, "prepare, plan, run, fit, decide and report; again: go on from there"),
        ("plan", _plan, "show every run with its price, before anything is spent"),
        ("status", _status, "one row per run of a sweep, with its evidence"),
    ):
        made = verb(name, function, about)
        made.add_argument(
            "words", nargs="*", metavar="[SWEEP.yaml] [key=value ...]", help="default: the demo"
        )
        if name == "status":
            made.add_argument("--export", type=Path, metavar="FILE", help=".parquet or .csv")
        if name == "sweep":
            made.add_argument("--fail-fast", action="store_true", help="stop at the first failure")
            made.add_argument("--max-failures", type=int, metavar="N", help="stop after N failures")
            made.add_argument("--dry-run", action="store_true", help="the same as plan")

    for name, function, about in (
        ("run", _run, "carry out one run, or serve runs to a launcher"),
        ("prepare", _prepare, "carry out one curation step, or serve steps to a launcher"),
    ):
        made = verb(name, function, about)
        made.add_argument(
            "spec", nargs="?", type=Path, help="a task file in the store; served: to get ready for"
        )
        made.add_argument("--serve", action="store_true", help="read tasks from standard input")
    return parser


def _sweep_file(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    files = [w for w in words if "=" not in w]
    if len(files) > 1:
        raise SettingsError(
            f"sweep: one file at a time, got {' '.join(files)}", hint="overrides are key=value"
        )
    return (Path(files[0]) if files else None), [w for w in words if "=" in w]


def _sweep(words: argparse.Namespace) -> int:
    from anneal import settings

    overrides = list(words.words)
    if words.fail_fast:
        overrides.append("launcher.fail_fast=true")
    if words.max_failures is not None:
        overrides.append(f"launcher.max_failures={words.max_failures}")
    ask = settings.load(*_sweep_file(overrides))
    if words.dry_run:
        return _show_plan(ask)
    from anneal.sweep.job import sweep

    return sweep(ask, command=" ".join(["python -m anneal sweep", *words.words]))


def _plan(words: argparse.Namespace) -> int:
    from anneal import settings

    return _show_plan(settings.load(*_sweep_file(words.words)))


def _show_plan(ask: object) -> int:
    from anneal.sweep.show import show_plan
    from anneal.sweep.values import Sweep

    assert isinstance(ask, Sweep)
    show_plan(ask)
    return 0


def _status(words: argparse.Namespace) -> int:
    from anneal import settings
    from anneal.sweep.show import show_status

    show_status(settings.load(*_sweep_file(words.words)), words.export)
    return 0


def _run(words: argparse.Namespace) -> int:
    from anneal.plan.protocol import serve
    from anneal.training.worker import Worker

    worker = Worker()
    if words.serve:
        return serve(worker, warm=lambda: worker.warm(words.spec))
    return _alone(words.spec, worker)


def _prepare(words: argparse.Namespace) -> int:
    from anneal.curation.worker import Worker
    from anneal.plan.protocol import serve

    worker = Worker()
    if words.serve:
        return serve(worker, saves=False)
    return _alone(words.spec, worker)


def _alone(spec: Path | None, handle: Callable[..., None]) -> int:
    if spec is None or not spec.is_file():
        raise SettingsError(
            f"{spec}: no such task file", hint="give STORE/runs/ID/task.json, or use --serve"
        )
    from anneal.plan.protocol import alone

    return alone(handle, str(spec))


if __name__ == "__main__":
    sys.exit(main())
