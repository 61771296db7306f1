"""What may stand after each verb of `python -m anneal`: the parser's longer lists of words.

`__main__` names the verbs and binds them to what they do; here is only how they are spelt.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from anneal.table.about import COSTS, TABLE


def sweep(made: ArgumentParser) -> None:
    """Words of `sweep`, beside its file."""
    made.add_argument("--fail-fast", action="store_true", help="stop at the first failure")
    made.add_argument("--max-failures", type=int, metavar="N", help="stop after N failures")
    made.add_argument("--dry-run", action="store_true", help="the same as plan")


def status(made: ArgumentParser) -> None:
    """Words of `status`, beside its file."""
    made.add_argument("--export", type=Path, metavar="FILE", help=".parquet or .csv")
    made.add_argument(
        "--watch", action="store_true", help="look again every two seconds until all is finished"
    )


def gc(made: ArgumentParser) -> None:
    """Words of `gc`, beside its file."""
    made.add_argument("--delete", action="store_true", help="delete what is listed")
    made.add_argument("--cache", action="store_true", help="caches too")


def why(made: ArgumentParser) -> None:
    """Words of `why`."""
    made.add_argument("run", metavar="RUN", help="a run's id or its beginning")
    made.add_argument(
        "words", nargs="*", metavar="[SWEEP.yaml] [key=value ...]", help="default: the demo"
    )


def pretrain(made: ArgumentParser) -> None:
    """Words of `pretrain`: a decision carried out."""
    made.add_argument(
        "words",
        nargs="*",
        metavar="[SWEEP.yaml | DECISION.json] [key=value ...]",
        help="default: the demo and its own decision",
    )
    made.add_argument(
        "--dry-run", action="store_true", help="show tokens, steps, FLOPs, hours, USD and disk"
    )
    made.add_argument("--decision", type=Path, metavar="FILE", help="another decision.json")
    made.add_argument(
        "--from", dest="begin", metavar="PHASE", help="begin with this phase, after the one before"
    )


def export(made: ArgumentParser) -> None:
    """Words of `export`: the weights of a run as a model that others load."""
    made.add_argument("run", metavar="RUN", help="a run's id or its beginning, or weights' folder")
    made.add_argument("folder", type=Path, metavar="FOLDER", help="to make")
    made.add_argument("--phase", metavar="NAME", help="the state after this phase")
    made.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    made.add_argument(
        "--tokenizer", type=Path, metavar="FOLDER", help="of the store; where RUN does not tell it"
    )
    made.add_argument("--store", type=Path, default=Path("store"), metavar="FOLDER")


def table(made: ArgumentParser, *, costs: bool) -> None:
    """Words of `fit` and `allocate`: a plain table of anyone's results, no sweep needed.

    Args:
        made: the verb's parser.
        costs: a file of costs goes with the table.
    """
    made.formatter_class = RawDescriptionHelpFormatter
    made.epilog = f"{TABLE}\n{COSTS}" if costs else TABLE
    made.add_argument("table", type=Path, metavar="TABLE", help="CSV or Parquet, one row a run")
    if costs:
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
