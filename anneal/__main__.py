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
from typing import TYPE_CHECKING

from anneal.errors import AnnealError, SettingsError

if TYPE_CHECKING:
    from anneal.table.commands import Options

EPILOG = """\
words like key=value override the sweep's settings (Hydra's syntax):
  python -m anneal sweep sweeps/pilot.yaml budget.seeds=5 source=[stdlib,packages]
exit codes: 0 done, 2 an error in what was given, 3 some runs failed, 130 interrupted (resumable)
"""
TABLE = """\
columns of TABLE (in any order and case; counts may have thousands separators):
  source         what the run was annealed on; empty or `base`: the base as it is; `control`:
                 a run on the replay mixture alone
  tokens         tokens of the source trained, repeats included; 0 is the base as it is
  score          smaller is better and above 0: bits per byte, loss
 and where there are any:
  unique_tokens  different tokens the run could draw from; without it every token was new
  seed           a whole number; rows equal in all but it measure the noise
  flops, usd     what the run cost, acquisition and training
  target         the held-out set of the score: a run has one row a target, its score is their mean
  guard          yes or no: this target must not get worse, and is not in the mean
"""
COSTS = """\
FILE of costs (money is US dollars; `sources` and `budget` are needed):
  budget: {tokens: 4e9}             # source tokens; or usd, or flops, for everything
  parameters: 1.3e9                 # of the model; or flops_per_trained
  usd_per_hour: 2.5                 # of one device,
  flops_per_second: 4e14            # and what it does
  replay: 0.25                      # share of trained tokens, on top of the sources'
  sources:
    math:
      available: 1.2e9              # unique tokens that exist
      max_epochs: 8                 # 4 where nothing is said
      usd_fixed: 500
      usd_per_billion_tokens: 40    # or usd_per_token; flops_fixed, flops_per_token
      usd_tiers: [[1e8, 0], [1e9, 2e-7]]  # rising besides: tokens, USD for each; the last goes on
      licence: research             # a licence group
  exclude_licences: [research]      # buy nothing of these
  current: {math: 0.3, web: 0.7}    # today's mix, to compare with
  prior: {math: 0.3, web: 0.7}      # a mix to stay near, of every source that may be bought,
  prior_limit: 0.2                  # within so many nats of KL(shares || prior)
  least_tokens: 1e9                 # source tokens that must be bought at least
  guards: {prose: 0.02}             # how much worse than the base a guard may get
  confidence: 0.9                   # with which guards are kept
  noise: 0.004                      # SD of a score between seeds, if known from elsewhere
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

    _table_verbs(verb)
    made = verb("run", _run, "carry out one run, or serve runs to a launcher")
    made.add_argument(
        "spec", nargs="?", type=Path, help="a task file in the store; served: to get ready for"
    )
    made.add_argument("--serve", action="store_true", help="read tasks from standard input")
    made = verb("prepare", _prepare, "prepare sources of a sweep, and tell what they cost")
    made.add_argument(
        "words",
        nargs="*",
        metavar="[SOURCE ...] [SWEEP.yaml] [key=value ...]",
        help="all of the sweep's sources and targets where none is named; or one step's file",
    )
    made.add_argument("--serve", action="store_true", help="read steps from standard input")
    made = verb("synthesize", _synthesize, "have a teacher model write one source of a sweep")
    made.add_argument(
        "words",
        nargs="+",
        metavar="SOURCE [SWEEP.yaml] [key=value ...]",
        help="a source with a step of kind `synthesize`",
    )
    return parser


def _table_verbs(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """`fit` and `allocate`: a plain table of anyone's results, no sweep needed."""
    for name, function, about, epilog in (
        ("fit", _fit, "fit laws to a plain table of results, no sweep needed", TABLE),
        ("allocate", _allocate, "split a budget over a table's sources", f"{TABLE}\n{COSTS}"),
    ):
        made = verb(name, function, about)
        made.formatter_class = argparse.RawDescriptionHelpFormatter
        made.epilog = epilog
        made.add_argument("table", type=Path, metavar="TABLE", help="CSV or Parquet, one row a run")
        if name == "allocate":
            made.add_argument(
                "--costs", type=Path, required=True, metavar="FILE", help="YAML, see below"
            )
        made.add_argument(
            "--at",
            action="append",
            default=[],
            metavar="TOKENS",
            help="a budget to look at (800000, 8e5, 800k); may be given again",
        )
        made.add_argument(
            "--column",
            action="append",
            default=[],
            metavar="NAME=HEADER",
            help="read the column HEADER as NAME; may be given again",
        )
        made.add_argument(
            "--pool",
            action="append",
            default=[],
            metavar="SOURCE=TOKENS",
            help="unique tokens of a source that exist; may be given again",
        )
        made.add_argument("--target", metavar="NAME", help="judge by this target alone")
        made.add_argument("--noise", type=float, metavar="SD", help="of a score between seeds")
        made.add_argument(
            "--higher-is-better",
            action="store_true",
            help="scores are accuracies in [0, 1), taken as 1 - score",
        )
        made.add_argument("--draws", type=int, default=400, metavar="N", help="of the law: 400")
        made.add_argument("--seed", type=int, default=0, metavar="N", help="of all draws: 0")
        made.add_argument("--json", type=Path, metavar="FILE", help="every number, unrounded")
        made.add_argument(
            "--out", type=Path, metavar="FOLDER", help="a page with figures, Markdown and JSON"
        )


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


def _fit(words: argparse.Namespace) -> int:
    from anneal.table.commands import fit_table

    fit_table(words.table, _options(words), forms=_forms())
    return 0


def _allocate(words: argparse.Namespace) -> int:
    from anneal.table.commands import allocate_table

    allocate_table(words.table, words.costs, _options(words), forms=_forms())
    return 0


def _options(words: argparse.Namespace) -> Options:
    from anneal.table.commands import Options

    return Options(
        at=words.at,
        columns=words.column,
        pools=words.pool,
        target=words.target,
        noise=words.noise,
        higher_is_better=words.higher_is_better,
        draws=words.draws,
        seed=words.seed,
        json=words.json,
        out=words.out,
    )


def _forms() -> list[str]:
    """The forms that a sweep averages: one list for both."""
    import yaml

    from anneal import settings

    return list(
        yaml.safe_load((settings.folder("conf") / "law" / "default.yaml").read_text())["forms"]
    )


def _run(words: argparse.Namespace) -> int:
    from anneal.plan.protocol import serve
    from anneal.training.rank import is_rank, run_as_rank
    from anneal.training.worker import Worker

    worker = Worker()
    if words.serve:
        return serve(worker, warm=lambda: worker.warm(words.spec))
    if is_rank() and words.spec is not None:  # one process of a run: torchrun started it
        return run_as_rank(worker, str(words.spec))
    return _alone(words.spec, worker)


def _prepare(words: argparse.Namespace) -> int:
    names, rest = _sources(words.words)
    steps = [w for w in names if w.endswith(".json")]
    if words.serve or steps:
        from anneal.curation.worker import Worker
        from anneal.plan.protocol import serve

        worker = Worker()
        return serve(worker, saves=False) if words.serve else _alone(Path(steps[0]), worker)
    from anneal import settings
    from anneal.sweep.supplies import prepare_sources

    prepare_sources(settings.load(*_sweep_file(rest)), names)
    return 0


def _synthesize(words: argparse.Namespace) -> int:
    from anneal import settings
    from anneal.sweep.supplies import synthesize_source

    names, rest = _sources(words.words)
    if len(names) != 1:
        raise SettingsError(
            f"synthesize: one source at a time, got {' '.join(names) or 'none'}",
            hint="python -m anneal synthesize SOURCE [SWEEP.yaml] [key=value ...]",
        )
    synthesize_source(settings.load(*_sweep_file(rest)), names[0])
    return 0


def _sources(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of sources, and the words that make a sweep: its file and overrides."""
    rest = [w for w in words if "=" in w or w.endswith((".yaml", ".yml"))]
    return [w for w in words if w not in rest], rest


def _alone(spec: Path | None, handle: Callable[..., None]) -> int:
    if spec is None or not spec.is_file():
        raise SettingsError(
            f"{spec}: no such task file", hint="give STORE/runs/ID/task.json, or use --serve"
        )
    from anneal.plan.protocol import alone

    return alone(handle, str(spec))


if __name__ == "__main__":
    sys.exit(main())
