"""Cleaning: what is repaired, and each rule on a text made to break it and on one that does not."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import wrap

from anneal.curation.clean import letters, normalise
from anneal.curation.steps import Clean

LOOSE = {
    "min_characters": 0,
    "max_characters": 10**9,
    "max_line": 10**9,
    "max_mean_line": 10**9,
    "min_letters": 0.0,
    "max_repeated_lines": 1.0,
}
PROSE = "\n".join(f"Line {i} says that {i} times {i} is {i * i}." for i in range(20))


@pytest.mark.parametrize(
    ("setting", "bad", "reason"),
    [
        ({"min_characters": 200}, "Short.", "too short"),
        ({"max_characters": 500}, PROSE, "too long"),
        ({"max_line": 80}, PROSE + "\n" + "x" * 81, "a line too long"),
        ({"max_mean_line": 60}, "word " * 13 + "\n" + "word " * 13, "lines too long on average"),
        ({"min_letters": 0.25}, "{}[]();: --> ## ab\n" * 9, "too few letters"),
        ({"max_repeated_lines": 0.7}, "one\n\ntwo\n" + "one\n" * 8, "lines repeat"),
        ({}, "\x00\x01 \t\n\x7f", "no text"),
    ],
)
def test_each_rule_drops_what_breaks_it_and_counts_it(carry_out, setting, bad, reason):
    step = Clean(**(LOOSE | setting))
    fine = "A text of many different words,\nshort lines and nothing odd in any of them at all.\n"
    fine = fine if "max_characters" in setting else fine * 2 + PROSE
    kept, record = carry_out(step, wrap([fine, bad, fine]))
    assert [d.text for d in kept] == [fine, fine]
    assert record.dropped == {reason: 1}
    if setting:  # at its loosest the rule is off
        assert carry_out(Clean(**LOOSE), wrap([bad]))[1].dropped == {}


def test_a_text_at_the_limit_stays(carry_out):
    text = "ab c\nab d\n..\n"
    step = Clean(
        min_characters=len(text),
        max_characters=len(text),
        max_line=4,
        max_mean_line=4,
        min_letters=6 / len(text),
        max_repeated_lines=0.0,
    )
    assert carry_out(step, wrap([text]))[1].dropped == {}


def test_repair_is_what_no_reader_notices(carry_out):
    odd = "caf\u0065\u0301\r\nna\x00ïve\rnext\x0bpage\x85last\u2028end\tkept\x9f"
    assert normalise(odd) == "café\nnaïve\nnextpage\nlast\nend\tkept"
    fine = "def f():\n\treturn 'é', '\u200d', '漢字'\n"
    assert normalise(fine) is fine
    kept, record = carry_out(Clean(**LOOSE), wrap([odd, fine]))
    assert [d.text for d in kept] == [normalise(odd), fine]
    assert record.notes["clean_repaired"] == 1
    kept, record = carry_out(Clean(**LOOSE, normalise=False), wrap([odd]))
    assert kept[0].text == odd


@settings(max_examples=40)
@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_repair_is_done_once_and_letters_are_counted_as_python_does(text):
    done = normalise(text)
    assert normalise(done) is done
    assert unicodedata.is_normalized("NFC", done)
    assert letters(text) == sum(map(str.isalnum, text))
