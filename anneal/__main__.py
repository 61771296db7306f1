"""The verbs of `python -m anneal`: parses words, calls one function each, maps errors to exits.

Exit codes: 0 done; 2 an error of the user's making, said in one line with a hint; 3 the sweep is
partial (some runs failed; what finished was fitted) or the full run ended early; 75 told to stop
(SIGTERM), work is saved; 130 interrupted; both resumable by the same command.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from anneal import words as spelt
from anneal.errors import AnnealError, SettingsError
from anneal.plan.interrupts import PREEMPTED, interrupt

if TYPE_CHECKING:
    from anneal.table.commands import Options

EPILOG = """\
words like key=value override the sweep's settings (Hydra's syntax):
  python -m anneal sweep sweeps/pilot.yaml budget.seeds=5 source=[stdlib,packages]
exit codes: 0 done, 2 an error in what was given, 3 some runs failed, 75 told to stop (SIGTERM) and
130 interrupted (both resumable)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carries out one command line; returns the exit code."""
    parser = _parser()
    words, after = parser.parse_known_args(arguments)
    if after and (not hasattr(words, "words") or any(word.startswith("-") for word in after)):
        parser.error(f"unrecognized arguments: {' '.join(after)}")
    if after:  # argparse wants them together: `pretrain demo.yaml --from synthetic seed=1`
        words.words = [*words.words, *after]
    if words.verb in (_sweep, _pretrain, _prepare, _synthesize):
        signal.signal(signal.SIGTERM, _preempt)
    try:
        return int(words.verb(words))
    except AnnealError as error:
        print(f"anneal: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        told = "stopped (SIGTERM)" if _preempted else "interrupted"
        print(f"anneal: {told}; the same command goes on from here", file=sys.stderr)
        return PREEMPTED if _preempted else 130


_preempted: list[int] = []
"""Filled when SIGTERM came: the machine wants this process back."""


def _preempt(number: int, frame: FrameType | None) -> None:
    """Lets workers save, as Ctrl-C does; the exit code tells the two apart."""
    _preempted.append(number)
    interrupt(frame)


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
        ("cancel", _cancel, "have what runs in a sweep's store save its work and stop"),
        ("gc", _gc, "list what nothing in a sweep's store needs any more, and delete it"),
    ):
        made = verb(name, function, about)
        made.add_argument(
            "words", nargs="*", metavar="[SWEEP.yaml] [key=value ...]", help="default: the demo"
        )
        if name in {"sweep", "status", "gc"}:
            getattr(spelt, name)(made)
    spelt.why(verb("why", _why, "which field made a run a new one: the nearest finished run"))
    spelt.pretrain(
        verb("pretrain", _pretrain, "carry the decision out: the full run, phase after phase")
    )
    made = verb("fit", _fit, "fit laws to a plain table of results, no sweep needed")
    spelt.table(made, costs=False)
    made = verb("allocate", _allocate, "split a budget over a table's sources")
    spelt.table(made, costs=True)
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
    made = verb("shift", _shift, "carry out a launcher's tasks inside an allocation of a cluster")
    made.add_argument("folder", type=Path, metavar="FOLDER", help="holds the launcher's tasks.json")
    made = verb("synthesize", _synthesize, "have a teacher model write one source of a sweep")
    made.add_argument(
        "words",
        nargs="+",
        metavar="SOURCE [SWEEP.yaml] [key=value ...]",
        help="a source with a step of kind `synthesize`",
    )
    spelt.export(
        verb("export", _export, "make a model folder for transformers and vLLM of a run's weights")
    )
    from anneal.evaluation.words import add_words

    add_words(
        verb("evaluate", _evaluate, "measure an exported model on local tasks and on programs")
    )
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

    ask = settings.load(*_sweep_file(words.words))
    if words.watch:
        from anneal.sweep.watch import watch

        watch(ask)
        if words.export is None:
            return 0
    show_status(ask, words.export)
    return 0


def _why(words: argparse.Namespace) -> int:
    from anneal import settings
    from anneal.sweep.why import why

    why(settings.load(*_sweep_file(words.words)), words.run)
    return 0


def _cancel(words: argparse.Namespace) -> int:
    from anneal import settings
    from anneal.sweep.cancel import cancel

    cancel(settings.load(*_sweep_file(words.words)))
    return 0


def _gc(words: argparse.Namespace) -> int:
    from anneal import settings
    from anneal.sweep.gc import collect

    collect(settings.load(*_sweep_file(words.words)), delete=words.delete, cache=words.cache)
    return 0


def _pretrain(words: argparse.Namespace) -> int:
    from anneal import settings

    decisions = [w for w in words.words if "=" not in w and w.endswith(".json")]
    if len(decisions) > 1 or (decisions and words.decision is not None):
        raise SettingsError(
            f"pretrain: one decision at a time, got {', '.join(decisions)}"
            + (f" and --decision {words.decision}" if words.decision else ""),
            hint="python -m anneal pretrain [SWEEP.yaml] [DECISION.json] [key=value ...]",
        )
    decision = Path(decisions[0]) if decisions else words.decision
    ask = settings.load(*_sweep_file([w for w in words.words if w not in decisions]))
    if words.dry_run:
        from anneal.pretrain.show import show

        show(ask, decision)
        return 0
    from anneal.pretrain.job import pretrain

    return pretrain(
        ask,
        decision=decision,
        begin=words.begin,
        command=" ".join(["python -m anneal pretrain", *words.words]),
    )


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


def _shift(words: argparse.Namespace) -> int:
    from anneal.launch.shift import shift

    return shift(words.folder)


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


def _export(words: argparse.Namespace) -> int:
    from anneal.store import Store
    from anneal.training.export import export, find_weights

    weights, tokenizer = find_weights(words.run, Store(words.store), phase=words.phase)
    tokenizer = words.tokenizer or tokenizer
    if tokenizer is None:
        raise SettingsError(
            f"export {weights}: nothing here tells which tokenizer it was trained with",
            hint="add --tokenizer STORE/tokenizers/ADDRESS",
        )
    made = export(weights, words.folder, tokenizer=tokenizer, dtype=words.dtype)
    print(
        f"{made.folder}: {made.model_type}, {made.parameters:,} parameters, {made.dtype}, "
        f"{made.bytes:,} bytes"
    )
    for note in made.notes:
        print(f"note: {note}")
    return 0


def _evaluate(words: argparse.Namespace) -> int:
    from anneal.evaluation.evaluate import evaluate, show
    from anneal.evaluation.words import asked_for

    show(evaluate(asked_for(vars(words))), words.json)
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
