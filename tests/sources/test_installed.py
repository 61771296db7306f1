"""Installed text: what comes out of the interpreter and its packages is what is promised."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from anneal.errors import SourceError
from anneal.sources.documents import documents
from anneal.sources.files import input_files
from anneal.sources.installed import docstrings, paragraphs
from anneal.sources.values import InstalledReader

HERE = Path()


def test_the_standard_library_is_parseable_code_without_tests():
    found = list(documents(InstalledReader(what="stdlib"), base=HERE, prepared={}))
    groups = {d.group for d in found}
    assert {"argparse", "json", "email", "asyncio"} <= groups
    assert not groups & {"test", "idlelib", "encodings", "site-packages", "lib2to3", "pydoc_data"}
    assert not any("/test/" in d.id or "/tests/" in d.id or d.id.startswith("/") for d in found)
    assert [d.id for d in found] == sorted(d.id for d in found)
    assert 3e6 < sum(len(d.text) for d in found) < 2e7
    ast.parse(found[0].text)


def test_a_bounded_subset_is_drawn_from_everything_and_is_always_the_same():
    def names(limit: int | None) -> list[str]:
        reader = InstalledReader(
            what="packages", packages=("numpy", "networkx"), max_total_bytes=limit
        )
        return [file.name for file in input_files(reader, base=HERE)]

    some, more = names(300_000), names(600_000)
    assert some == names(300_000) == sorted(some)
    assert set(some) < set(more) < set(names(None))
    assert {name.split("/")[0] for name in some} == {"numpy", "networkx"}


def test_packages_leave_tests_out_and_group_by_sub_package():
    dropped: Counter[str] = Counter()
    reader = InstalledReader(what="packages", packages=("networkx",), max_bytes=40_000)
    files = input_files(reader, base=HERE, dropped=dropped)
    assert "networkx/algorithms" in {file.group for file in files}
    assert not any("/tests/" in file.name or "/test_" in file.name for file in files)
    assert all(0 < file.size <= 40_000 for file in files)
    assert dropped["larger than max_bytes"] > 0


def test_prose_is_sentences_and_respects_its_bound():
    reader = InstalledReader(what="prose", packages=("networkx",), max_total_bytes=700_000)
    found = list(documents(reader, base=HERE, prepared={}))
    size = sum(len(d.text) for d in found)
    assert 600_000 < size < 760_000
    assert {d.group.split("/")[0] for d in found} >= {"topics", "networkx"}
    text = "".join(d.text for d in found if d.group.startswith("networkx"))
    assert ">>>" not in text
    assert "def " not in text.replace("def \n", "")
    letters = sum(c.isalpha() or c.isspace() for c in text)
    assert letters > 0.93 * len(text)


def test_docstrings_and_their_paragraphs():
    module = '''# a comment
"""Module text, with a full sentence that is long enough here."""
import os


def mean(values):
    """Return the mean.

    The mean of an empty list is not defined, so that one raises an error.

    Parameters
    ----------
    values : list
        Numbers of any kind that can be added up and divided by a count.

    >>> mean([1, 2])
    1.5
    """
    text = """Not a docstring, although it is a string with many words in it."""
    return sum(values) / len(values)
'''
    first, second = docstrings(module)
    assert first.startswith("Module text")
    assert list(paragraphs(second)) == [
        "The mean of an empty list is not defined, so that one raises an error.",
        "Numbers of any kind that can be added up and divided by a count.",
    ]


def test_packages_that_are_not_there_or_not_named_are_errors():
    with pytest.raises(SourceError, match="`no_such_package` is not installed"):
        input_files(InstalledReader(what="packages", packages=("no_such_package",)), base=HERE)
    with pytest.raises(SourceError, match="no package named"):
        input_files(InstalledReader(what="prose"), base=HERE)
