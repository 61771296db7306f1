"""Acceptance: what an answer of a teacher must be to count as a document.

Three mistakes of language models are caught because they can be seen without judging content: an
answer that is not what was asked for (no code, code that does not compile, a question without an
answer), one that says the same again and again, and nothing at all. Refusals and errors of fact
are not guessed at: the annotator and the runs are there for that.
"""

from __future__ import annotations

import re
import warnings
from itertools import pairwise
from typing import Literal

Parse = Literal["text", "python", "question_answer"]

REPEATED = 10
"""Words of an n-gram whose return counts as repetition."""

# one word, so that text without spaces has words too: a character of a script that uses none, a
# run of letters up to 16, or a mark
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]|\w{1,16}|[^\w\s]")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*(\w*)[^\n]*\n(.*?)^ {0,3}\1[ \t]*$", re.M | re.S)
# bare, numbered, or dressed in Markdown: `Question:`, `2. **Answer**:`, `### Question 3:`
_QUESTION = re.compile(
    r"^[ \t]*(?:\d+[.)][ \t]*)?[*_#]*[ \t]*(question|answer)[ \t]*\d*[ \t]*[*_]*:[*_]*[ \t]*",
    re.M | re.I,
)


class Rejected(Exception):
    """An answer that does not count; its text is the reason, as it is counted."""


def accepted(answer: str, parse: Parse, max_repetition: float) -> str:
    """The document in an answer, without what stands around it, ending in a newline.

    Args:
        answer: as the teacher gave it.
        parse: text: all of it. python: the longest of its fenced blocks, which must be Python that
            compiles. question_answer: its pairs of `Question:` and `Answer:`.
        max_repetition: most that `repetition` of the document may be.

    Raises:
        Rejected: it does not count.
    """
    text = answer.strip()
    if not text:
        raise Rejected("empty answer")
    if parse == "python":
        text = _python(text)
    elif parse == "question_answer":
        text = _pairs(text)
    if repetition(text) > max_repetition:
        raise Rejected("repeats itself")
    return text + "\n"


def repetition(text: str) -> float:
    """Share of the words of `text` that are in a 10-gram which stood in it before; 0 to 1."""
    words = _WORD.findall(text)
    seen: set[tuple[str, ...]] = set()
    repeated = end = 0
    for start in range(len(words) - REPEATED + 1):
        gram = tuple(words[start : start + REPEATED])
        if gram in seen:
            repeated += start + REPEATED - max(start, end)
            end = start + REPEATED
        else:
            seen.add(gram)
    return repeated / len(words) if words else 0.0


def _python(text: str) -> str:
    blocks = [
        block.strip("\n")
        for _, language, block in _FENCE.findall(text)
        if language.lower() in ("", "python", "python3", "py")
    ]
    code = max(blocks, key=len, default="")
    if not code.strip():
        raise Rejected("no fenced block of Python")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes and the like are not our affair
            compile(code, "answer", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Rejected("Python that does not compile") from None
    return code


def _pairs(text: str) -> str:
    pieces = _QUESTION.split(text)[1:]
    found = [
        (word.lower(), said.strip()) for word, said in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    pairs = [
        f"Question: {question}\n\nAnswer: {answer}"
        for (first, question), (second, answer) in pairwise(found)
        if (first, second) == ("question", "answer") and question and answer
    ]
    if not pairs:
        raise Rejected("no question with an answer")
    return "\n\n".join(pairs)
