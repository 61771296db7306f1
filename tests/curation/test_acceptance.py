"""What an answer must be to count."""

from __future__ import annotations

import random

import pytest

from anneal.curation.acceptance import Rejected, accepted, repetition


def test_repetition_is_the_share_of_words_in_ngrams_seen_before():
    rng = random.Random(0)
    fresh = [f"w{rng.randrange(10**6)}" for _ in range(100)]
    assert repetition(" ".join(fresh)) == 0
    assert repetition(" ".join(fresh + fresh)) == 0.5
    assert repetition(" ".join(fresh + fresh[:20])) == pytest.approx(20 / 120)
    assert repetition(" ".join(fresh + fresh[:9])) == 0  # too short to be a 10-gram
    for loop in ("again " * 100, "!" * 100, "a" * 2000, "\u6211\u5f88\u597d" * 40):
        assert repetition(loop) > 0.8, loop[:10]
    assert repetition("") == 0


GOOD = (
    'Sure, here it is:\n\n```python\n"""Add."""\n\n\ndef add(a, b):\n    return a + b\n```\nEnjoy!'
)


@pytest.mark.parametrize(
    ("answer", "parse", "found"),
    [
        (" a text \n", "text", "a text\n"),
        (GOOD, "python", '"""Add."""\n\n\ndef add(a, b):\n    return a + b\n'),
        ("```\nx = 1\n```", "python", "x = 1\n"),
        ("```py\nx\n```\n```bash\nmake everything else\n```", "python", "x\n"),
        ("~~~python\ns = '```'\n~~~", "python", "s = '```'\n"),
        ("Question: Why?\nAnswer: So.", "question_answer", "Question: Why?\n\nAnswer: So.\n"),
        (
            "Here:\n1. **Question:** Why?\n**Answer:** So.\n"
            "### Question 2:\nHow?\n### Answer 2:\nThus.",
            "question_answer",
            "Question: Why?\n\nAnswer: So.\n\nQuestion: How?\n\nAnswer: Thus.\n",
        ),
        (
            "Question: open?\nQuestion: a?\nAnswer: b",
            "question_answer",
            "Question: a?\n\nAnswer: b\n",
        ),
    ],
)
def test_what_counts_is_taken_out_of_what_stands_around_it(answer, parse, found):
    assert accepted(answer, parse, 0.3) == found


@pytest.mark.parametrize(
    ("answer", "parse", "reason"),
    [
        ("  \n", "text", "empty answer"),
        ("", "python", "empty answer"),
        ("def f(): pass", "python", "no fenced block of Python"),
        ("```python\ndef f():\n    retur", "python", "no fenced block of Python"),  # never closed
        ("```rust\nfn main() {}\n```", "python", "no fenced block of Python"),
        ("```python\ndef f(:\n```", "python", "Python that does not compile"),
        ("```python\nreturn 1\n```", "python", "Python that does not compile"),
        ("```python\nx = '\0'\n```", "python", "Python that does not compile"),
        ("```python\n" + "(" * 5000 + "\n```", "python", "Python that does not compile"),
        ("No pairs here.", "question_answer", "no question with an answer"),
        ("Question: Why?\nAnswer:  ", "question_answer", "no question with an answer"),
        ("Answer: So.\nQuestion: Why?", "question_answer", "no question with an answer"),
        ("so it goes " * 40, "text", "repeats itself"),
    ],
)
def test_what_does_not_count_is_rejected_with_its_reason(answer, parse, reason):
    with pytest.raises(Rejected, match=f"^{reason}$"):
        accepted(answer, parse, 0.3)


def test_code_of_an_answer_is_compiled_and_never_run():
    code = "raise SystemExit('run')\n"
    assert accepted(f"```python\n{code}```", "python", 1.0) == code
