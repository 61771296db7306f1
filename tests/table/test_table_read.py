"""Reading a table: generous where nothing can be misread, one clear error everywhere else."""

import doctest
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anneal.__main__ import main
from anneal.errors import TableError
from anneal.table import cells
from anneal.table.measured import measure
from anneal.table.read import read

from . import planted


def text(path, content: str):
    path.write_text(content, encoding="utf-8")
    return path


GOOD = "source,tokens,score\nbase,0,3.0\n" + "".join(
    f"{s},{x},{y}\n"
    for s, ys in (("a", (2.5, 2.3, 2.2)), ("b", (2.6, 2.2, 2.0)))
    for x, y in zip((1000, 2000, 4000), ys, strict=True)
)


def test_doctests():
    assert doctest.testmod(cells).failed == 0


@given(st.integers(0, 10**15))
def test_counts_read_the_same_with_any_separator(value):
    for shape in (str(value), f"{value:,}", f"{value:_}", f"{value:,}".replace(",", "\u202f")):
        assert cells.number(shape, "here") == value


@given(st.floats(1e-6, 1e6))
def test_floats_read_as_written(value):
    assert cells.number(repr(value), "here", grouped=False) == value


def test_headers_in_any_case_and_order_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(
        "\ufeffSCORE;Unique-Tokens;Source ;TOKENS\r\n3.0;;;\r\n".encode()
        + b"2.5;1,000;math;4,000\r\n2.4;8000;web;4 000\r\n"
    )
    rows = read(path)
    assert [r.score for r in rows.base] == [3.0]
    assert [(r.source, r.tokens, r.unique, r.pool) for r in rows.runs] == [
        ("math", 4000, 1000, 1000),
        ("web", 4000, 4000, 8000),
    ]


def test_parquet_and_csv_are_the_same_table(tmp_path):
    table = planted.rows()
    plain = Path(planted.write(tmp_path / "t.csv", table))
    columns = {
        "source": [r["Source"] for r in table],
        "tokens": [int(r["Tokens"].replace(",", "")) for r in table],
        "seed": [int(r["Seed"]) if r["Seed"] else None for r in table],
        "score": [float(r["Score"]) for r in table],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    first, second = (measure(read(p)).points for p in (tmp_path / "t.parquet", plain))
    for name in ("group", "tokens", "unique", "score", "seed"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.anchor == second.anchor == planted.BASE


def test_rows_equal_but_for_the_score_are_repeats_where_there_is_no_seed_column(tmp_path):
    rows = read(text(tmp_path / "t.csv", GOOD + "a,1000,2.51\n"))
    assert [r.seed for r in rows.runs if r.source == "a" and r.tokens == 1000] == [0, 1]
    assert any("1 rows are taken as repeats" in note for note in rows.notes)


def test_columns_by_another_name_and_columns_not_used(tmp_path):
    path = text(tmp_path / "t.csv", "source,D,bpb,notes\na,1000,2.5,first\n")
    rows = read(path, columns={"tokens": "d", "score": "BPB"})
    assert (rows.runs[0].tokens, rows.runs[0].score) == (1000, 2.5)
    assert any("not used: notes" in note for note in rows.notes)


def test_accuracies_are_read_as_shares_wrong(tmp_path):
    path = text(tmp_path / "t.csv", "source,tokens,score\na,1000,0.62\n")
    assert read(path, higher_is_better=True).runs[0].score == pytest.approx(0.38)
    bad = text(tmp_path / "u.csv", "source,tokens,score\na,1000,62\n")
    with pytest.raises(TableError, match="line 2, column `score`: got 62, not a share"):
        read(bad, higher_is_better=True)


def test_a_score_is_the_mean_over_targets_and_guards_stand_apart(tmp_path):
    lines = ["source,tokens,score,target,guard"]
    for name, shift in (("x", 0.0), ("y", 1.0), ("prose", 5.0)):
        guard = "yes" if name == "prose" else "no"
        lines.append(f"base,0,{3 + shift},{name},{guard}")
        lines += [
            f"{s},{t},{2.5 + shift - 1e-5 * t + 0.1 * (s == 'b')},{name},{guard}"
            for s in "ab"
            for t in (1000, 2000, 4000)
        ]
    path = text(tmp_path / "t.csv", "\n".join(lines) + "\n")
    both, one = measure(read(path)), measure(read(path), target="y")
    assert both.points.score[0] == pytest.approx(2.99)
    assert both.points.anchor == pytest.approx(3.5)
    assert one.points.score[0] == pytest.approx(3.49)
    assert list(both.guards) == ["prose"]
    assert both.guards["prose"].anchor == 8
    path.write_text(path.read_text().replace("b,4000,3.56,y,no\n", ""))
    with pytest.raises(TableError, match=r"source `b`, 4,000 tokens, seed 0 has no score"):
        measure(read(path))


def test_pools_are_what_the_table_names_and_new_where_it_names_none(tmp_path):
    head = "source,tokens,score,unique_tokens\n"
    body = "".join(
        f"scarce,{x},{y},500\nplenty,{x},{y},{x}\nlarge,{x},{y},99999\n"
        for x, y in ((1000, 2.5), (2000, 2.4), (4000, 2.3))
    )
    measured = measure(read(text(tmp_path / "t.csv", head + body)))
    assert measured.pools == {"scarce": 500, "plenty": None, "large": 99999}
    assert measured.pool("plenty", 1e6) == 1e6
    assert measured.repeats


def test_budgets_that_end_on_whole_steps_are_one_rung(tmp_path):
    body = "source,tokens,score\n" + "".join(
        f"{s},{x + d},{y}\n"
        for s, d in (("a", 0), ("b", 30))
        for x, y in ((1000, 2.5), (2000, 2.4), (4000, 2.3))
    )
    assert measure(read(text(tmp_path / "t.csv", body))).ladder == (1030, 2030, 4030)


BAD = {
    "empty file": ("", "empty file", "columns are"),
    "header alone": ("source,tokens,score\n", "a header and no rows", "one row a run"),
    "missing column": ("source,tokens\na,1\n", "no column `score`", "--column score=HEADER"),
    "near miss": (GOOD.replace("tokens", "toknes"), "unknown column `toknes`", "mean `tokens`"),
    "near miss of another": (
        GOOD.replace("score\n", "score,unique\n")
        .replace("\n", ",1\n")
        .replace("unique,1", "unique"),
        "unknown column `unique`",
        "did you mean `unique_tokens`",
    ),
    "column twice": (GOOD.replace("source,", "score,"), "two columns are named `score`", "rename"),
    "text in a number": (GOOD + "b,8000,good\n", "line 9, column `score`: got `good`", "digits"),
    "suffix": (GOOD + "b,8k,1.9\n", "line 9, column `tokens`: got `8k`", "1.5e9"),
    "decimal comma": (GOOD + 'b,8000,"1,923"\n', "which can be read in two ways", "decimal point"),
    "NaN": (GOOD + "b,8000,nan\n", "line 9, column `score`: got `nan`", "failed runs"),
    "no score": (GOOD + "b,8000,\n", "line 9, column `score`: is empty", "failed runs"),
    "zero": (GOOD + "b,8000,0\n", "column `score`: got 0, must be above 0", "higher-is-better"),
    "negative": (GOOD + "b,8000,-2\n", "column `score`: got -2, must be above 0", "losses"),
    "infinite": (GOOD + "b,8000,1e999\n", "too large for a number", "digits"),
    "negative tokens": (GOOD + "b,-8000,2\n", "column `tokens`: got -8000", "tokens trained"),
    "no source": (GOOD + ",8000,2\n", "8,000 tokens of no source", "name the source"),
    "the same row again": (GOOD + "b,4000,2.0\n", "the same run as line 8", "delete one"),
    "base twice": (GOOD + "base,0,3.1\n", "the base scores 3.1, but 3 in line 2", "one base"),
    "one source": (
        "\n".join(x for x in GOOD.splitlines() if not x.startswith("b,")) + "\n",
        "one source, `a`",
        "second source",
    ),
    "equal scores": (
        "source,tokens,score\n" + "".join(f"{s},{x},2.5\n" for s in "ab" for x in (1, 2, 3)),
        "all 6 scores are 2.5",
        "right column",
    ),
    "equal budgets": (
        "source,tokens,score\na,1000,2.5\nb,1000,2.6\n",
        "every run has the same budget, 1,000 tokens",
        "3 budgets",
    ),
    "two budgets": (
        "source,tokens,score\na,1000,2.5\nb,1000,2.6\na,2000,2.4\nb,2000,2.3\n",
        "at most 2 budgets a source (1,000, 2,000 tokens)",
        "third budget",
    ),
    "cells short": (GOOD + "b,8000\n", "line 9: 2 cells under 3 columns", "quote"),
    "open quote": (GOOD + 'b,"8000,2\n', "line 9:", "quote left open"),
    "control characters": (GOOD + "b\x1b[31m,8000,2\n", "not a name", "printable"),
    "seed": (
        "source,tokens,score,seed\na,1000,2.5,first\n",
        "line 2, column `seed`: got `first`",
        "digits",
    ),
    "half a seed": ("source,tokens,score,seed\na,1000,2.5,0.5\n", "not a whole number", "0, 1"),
    "two scores of one run": (
        "source,tokens,score,seed\na,1000,2.5,0\na,1000,2.6,0\n",
        "line 3: another score of the same run as line 2",
        "seed column",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_one_error_without_a_traceback(case, tmp_path, capsys):
    content, what, hint = BAD[case]
    path = text(tmp_path / "runs.csv", content)
    assert main(["fit", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("anneal: runs.csv")
    assert what in err.splitlines()[0], err
    assert hint in err.splitlines()[1], err
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"source,tokens,score\na,1,\xff\n", "line 2: not UTF-8 (byte 24: 0xff)"),
        (b"PK\x03\x04 and more", "a spreadsheet"),
        (b"PAR1 and no more", "not a readable Parquet file"),
        (None, "no such file"),
        ("folder", "cannot be read"),
    ],
)
def test_files_that_are_no_table(data, what, tmp_path, capsys):
    path = tmp_path / "runs.csv"
    if data == "folder":
        path.mkdir()
    elif data is not None:
        path.write_bytes(data)
    assert main(["fit", str(path)]) == 2
    err = capsys.readouterr().err
    assert what in err
    assert "hint: " in err


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--at", "soon"], "--at: got `soon`"),
        (["--at=-5"], "--at: got `-5`"),
        (["--column", "toknes=x"], "did you mean `tokens`"),
        (["--column", "tokens=x"], "no column `x`"),
        (["--column", "tokens"], "write --column NAME=HEADER"),
        (["--pool", "c=100"], "no source `c`"),
        (["--target", "code"], "no target `code`"),
        (["--noise", "0"], "--noise: got 0"),
        (["--draws", "3"], "--draws: got 3"),
        (["--json", "."], "--json .: a folder"),
    ],
)
def test_bad_words(words, what, tmp_path, capsys):
    path = text(tmp_path / "runs.csv", GOOD)
    assert main(["fit", str(path), *words]) == 2
    assert what in capsys.readouterr().err
