"""A table of anyone's results, read strictly: one row a run, CSV or Parquet.

    column          needed  what it holds
    source          yes     what the run was annealed on; empty or `base`: the base as it is;
                            `control`: a run on the replay mixture alone
    tokens          yes     tokens of the source trained, repeats included; 0 is the base
    score           yes     smaller is better and above 0: bits per byte, loss
    unique_tokens   no      different tokens the run could draw from; missing: every token was new
    seed            no      a whole number; rows equal in all but it measure the noise
    flops, usd      no      what the run cost, acquisition and training
    target          no      the held-out set of the score; a run then has one row a target, and its
                            score is their mean
    guard           no      yes or no: the row's target must not get worse, and is not in the mean

Everything is checked here once, and whatever is wrong is one error that names file, line, column
and value. What would be a guess is refused; what was decided is in `notes`, which are printed.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from anneal.errors import TableError
from anneal.table.cells import Cell, empty, header, near, number, text, truth

NEEDED = ("source", "tokens", "score")
OPTIONAL = ("unique_tokens", "seed", "flops", "usd", "target", "guard")
COLUMNS = (*NEEDED, *OPTIONAL)
CONTROL = "control"
BASE = "base"
ZIP, PARQUET = b"PK\x03\x04", b"PAR1"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One row that passed.

    Args:
        where: its place in the file.
        source: empty for the base.
        tokens, unique: above 0, unique <= tokens; both 0 for the base.
        pool: unique tokens as the row gives them, which may exceed `tokens`.
        seed: the row's, or the number of the repeat where the table has no seeds.
        flops, usd: None where the table does not say.
    """

    where: str
    source: str
    tokens: float
    unique: float
    pool: float
    score: float
    seed: int
    flops: float | None
    usd: float | None
    target: str
    guard: bool


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A table as read.

    Args:
        name: of the file, for messages.
        base: rows of the un-annealed base, one a target.
        notes: what was decided in reading, in words.
    """

    name: str
    runs: tuple[Run, ...]
    base: tuple[Run, ...]
    notes: tuple[str, ...]


def read(
    path: Path, *, columns: Mapping[str, str] | None = None, higher_is_better: bool = False
) -> Rows:
    """Reads a table.

    Args:
        columns: our name -> the header that stands for it, where they differ.
        higher_is_better: scores are shares right (accuracy), and are taken as 1 - score.

    Raises:
        TableError: anything that is not the table of the module's text.
    """
    found, lines = _load(path)
    places, notes = _places(path.name, found, columns or {})
    if not lines:
        raise TableError(f"{path.name}: a header and no rows", hint="add one row a run")
    runs = [
        _row(f"{path.name}, {where}", {n: cells[i] for n, i in places.items()}, higher_is_better)
        for where, cells in lines
    ]
    if "seed" not in places:
        runs, repeats = _numbered(runs)
        if repeats:
            notes.append(f"no seed column: {repeats} rows are taken as repeats with another seed")
    if "unique_tokens" not in places:
        notes.append("no unique_tokens column: every token is taken as new")
    if higher_is_better:
        notes.append("scores are 1 - score: shares wrong, smaller is better")
    _no_doubles(runs)
    base = _one_base(tuple(r for r in runs if not r.source))
    return Rows(
        name=path.name,
        runs=tuple(r for r in runs if r.source),
        base=base,
        notes=tuple(notes),
    )


def _load(path: Path) -> tuple[list[str], list[tuple[str, Sequence[Cell]]]]:
    """Headers, and every row that is not blank with its place."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise TableError(f"{path}: no such file", hint="give a CSV or Parquet file") from None
    except OSError as error:
        raise TableError(
            f"{path}: cannot be read ({error.strerror})", hint="give a CSV or Parquet file"
        ) from None
    if not data.strip():
        raise TableError(f"{path.name}: empty file", hint=f"columns are {', '.join(COLUMNS)}")
    if data.startswith(PARQUET):
        return _parquet(path.name, data)
    if data.startswith(ZIP):
        raise TableError(
            f"{path.name}: an archive or a spreadsheet, not CSV or Parquet", hint="save it as CSV"
        )
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise TableError(
            f"{path.name}, line {line}: not UTF-8 (byte {error.start}: 0x{data[error.start]:02x})",
            hint="save it as UTF-8",
        ) from None
    return _csv(path.name, content)


def _csv(name: str, content: str) -> tuple[list[str], list[tuple[str, Sequence[Cell]]]]:
    first = next(line for line in content.splitlines() if line.strip())
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    found: list[str] = []
    rows: list[tuple[str, Sequence[Cell]]] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not found:
                found = cells
                continue
            if len(cells) != len(found):
                raise TableError(
                    f"{name}, line {reader.line_num}: {len(cells)} cells under {len(found)} "
                    "columns",
                    hint='quote cells that hold the separator: "4,096,000"',
                )
            rows.append((f"line {reader.line_num}", cells))
    except csv.Error as error:
        raise TableError(
            f"{name}, line {reader.line_num}: {error}", hint="is a quote left open?"
        ) from None
    return found, rows


def _parquet(name: str, data: bytes) -> tuple[list[str], list[tuple[str, Sequence[Cell]]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(data))
    except (pyarrow.ArrowException, OSError) as error:
        raise TableError(
            f"{name}: not a readable Parquet file ({str(error).splitlines()[0][:120]})",
            hint="write it again, or give CSV",
        ) from None
    columns = [column.to_pylist() for column in table.columns]
    rows: list[tuple[str, Sequence[Cell]]] = [
        (f"row {i}", cells) for i, cells in enumerate(zip(*columns, strict=True), 1)
    ]
    return list(table.column_names), rows


def _places(
    name: str, found: Sequence[str], columns: Mapping[str, str]
) -> tuple[dict[str, int], list[str]]:
    """Column -> position, and a note of columns that are not used."""
    names = [header(h) for h in found]
    twice = [n for n, count in Counter(names).items() if count > 1 and n]
    if twice:
        raise TableError(f"{name}: two columns are named `{twice[0]}`", hint="rename one")
    places: dict[str, int] = {}
    for known, given in columns.items():
        if header(given) not in names:
            raise TableError(
                f"{name}: no column `{given}` to read as {known}",
                hint=f"columns are {', '.join(found)}",
            )
        places[known] = names.index(header(given))
    places |= {n: i for i, n in enumerate(names) if n in COLUMNS and n not in places}
    unused = [i for i in range(len(names)) if i not in places.values()]
    for i in unused:
        meant = near(names[i], [c for c in COLUMNS if c not in places])
        if meant:
            raise TableError(
                f"{name}: unknown column `{found[i].strip()}`",
                hint=f"did you mean `{meant}`? rename it, drop it, or give "
                f"--column {meant}='{found[i].strip()}'",
            )
    missing = [n for n in NEEDED if n not in places]
    if missing:
        raise TableError(
            f"{name}: no column `{missing[0]}`; columns are {', '.join(h.strip() for h in found)}",
            hint=f"name it so, or give --column {missing[0]}=HEADER",
        )
    others = [found[i].strip() for i in unused if found[i].strip()]
    return places, [f"columns not used: {', '.join(others)}"] if others else []


def _row(where: str, cells: Mapping[str, Cell], higher_is_better: bool) -> Run:
    """One row, checked."""

    def at(column: str) -> str:
        return f"{where}, column `{column}`"

    def cost(column: str) -> float | None:
        if empty(cells.get(column)):
            return None
        value = number(cells[column], at(column))
        if value < 0:
            raise TableError(f"{at(column)}: got {value:g}, below 0", hint="give what was spent")
        return value

    source = text(cells["source"])
    if not source.isprintable() or len(source) > 80:
        raise TableError(
            f"{at('source')}: got {source[:40]!a}, not a name",
            hint="give up to 80 printable characters",
        )
    unnamed = not source or source.casefold() == BASE
    if source.casefold() == CONTROL:
        source = CONTROL
    tokens = 0.0 if unnamed and empty(cells["tokens"]) else number(cells["tokens"], at("tokens"))
    if unnamed and tokens > 0:
        got = "no source" if not source else "the source `base`"
        raise TableError(
            f"{where}: {tokens:,.0f} tokens of {got}", hint="name the source; the base has 0 tokens"
        )
    if tokens != 0 and tokens < 1:
        raise TableError(
            f"{at('tokens')}: got {tokens:g}", hint="give tokens trained; 0 is the base as it is"
        )
    given = number(cells["score"], at("score"), grouped=False)
    base = tokens == 0
    pool = tokens
    if not base and not empty(cells.get("unique_tokens")):
        pool = number(cells["unique_tokens"], at("unique_tokens"))
        if pool < 1:
            raise TableError(
                f"{at('unique_tokens')}: got {pool:g}", hint="give 1 or more, or leave it empty"
            )
    return Run(
        where=where,
        source="" if base else source,
        tokens=tokens,
        unique=min(pool, tokens),
        pool=pool,
        score=_score(given, at("score"), higher_is_better),
        seed=0 if base or "seed" not in cells else _seed(cells["seed"], at("seed")),
        flops=cost("flops"),
        usd=cost("usd"),
        target=text(cells.get("target")),
        guard=truth(cells.get("guard"), at("guard")),
    )


def _score(value: float, where: str, higher_is_better: bool) -> float:
    if higher_is_better:
        if not 0 <= value < 1:
            raise TableError(
                f"{where}: got {value:g}, not a share right in [0, 1)",
                hint="--higher-is-better takes accuracies as shares: 0.62, not 62",
            )
        return 1 - value
    if value <= 0:
        raise TableError(
            f"{where}: got {value:g}, must be above 0",
            hint="scores are losses or bits per byte; for accuracies give --higher-is-better",
        )
    return value


def _seed(cell: Cell, where: str) -> int:
    value = number(cell, where)
    if value != int(value) or abs(value) > 2**53:
        raise TableError(f"{where}: got {value:g}, not a whole number", hint="give 0, 1, 2, ...")
    return int(value)


def _key(run: Run) -> tuple[str, float, float, str]:
    return run.source, run.tokens, run.unique, run.target


def _numbered(runs: Iterable[Run]) -> tuple[list[Run], int]:
    """Rows without seeds that are equal but for the score: repeats, numbered in order."""
    seen: dict[tuple[str, float, float, str], list[float]] = {}
    out, repeats = [], 0
    for run in runs:
        before = seen.setdefault(_key(run), [])
        number_of_it = len(before)
        if run.source and run.score in before:
            number_of_it = before.index(run.score)  # the same row again: refused as a double
        elif run.source and before:
            repeats += 1
        before.append(run.score)
        out.append(replace(run, seed=number_of_it if run.source else 0))
    return out, repeats


def _no_doubles(runs: Iterable[Run]) -> None:
    seen: dict[tuple[str, float, float, str, int], Run] = {}
    for run in runs:
        if not run.source:
            continue
        first = seen.setdefault((*_key(run), run.seed), run)
        if first is not run:
            same = "the same run" if first.score == run.score else "another score of the same run"
            raise TableError(
                f"{run.where}: {same} as {first.where.split(', ')[-1]} "
                f"(source `{run.source}`, {run.tokens:,.0f} tokens, seed {run.seed})",
                hint="delete one, or tell repeats apart in a seed column",
            )


def _one_base(rows: tuple[Run, ...]) -> tuple[Run, ...]:
    """The base once for every target."""
    kept: dict[str, Run] = {}
    for run in rows:
        first = kept.setdefault(run.target, run)
        if first.score != run.score:
            raise TableError(
                f"{run.where}: the base scores {run.score:g}, but {first.score:g} in "
                f"{first.where.split(', ')[-1]}",
                hint="every curve starts from one base: keep the row of the one that was annealed",
            )
    return tuple(kept.values())
