"""Cleaning: text repaired where that is safe, and what is no text worth reading dropped.

Repair is what no reader of the text would notice: Unicode in its composed form (NFC), so that one
word is one sequence of bytes, line ends as one character, and no control characters. More is not
done on purpose. `ftfy` also undoes text decoded with the wrong encoding, and with it quotes,
ligatures and widths; it reads 4 MB/s where everything here reads more than 100, as long as
tokenising itself takes, to change two in a thousand documents of corpora that have been published
(`analysis/bench_sources.py`). The filters of datatrove want a language model's tokens or word
lists per language; the rules here are those that published corpora share and that hold for code
and prose alike.

Every rule is counted under its own reason, and a dropped document is listed with what was measured.
All of it is done by calls on whole strings, none by a loop over characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace

from anneal.curation.chain import Context, Tally
from anneal.curation.steps import Clean
from anneal.sources.documents import Document

_ASCII = bytes(range(128))
_ODD = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_LINE_END = re.compile("\r\n?|[\x85\u2028\u2029]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_NO_LETTER = bytes(byte for byte in _ASCII if not chr(byte).isalnum())


def clean(
    stream: Iterable[Document], step: Clean, context: Context, tally: Tally
) -> Iterator[Document]:
    """Streams the documents worth reading, repaired; counts the others by the first rule broken."""
    repaired = 0
    for given in stream:
        document = given
        if step.normalise and (text := normalise(given.text)) is not given.text:
            repaired += 1
            document = replace(given, text=text)
        broken = next(_broken_rules(document.text, step), None)
        if broken is None:
            yield document
        else:
            reason, measured = broken
            tally.drop(document, reason, measured=measured)
    if step.normalise:
        tally.notes["clean_repaired"] = repaired


def normalise(text: str) -> str:
    """The text in NFC, lines ended by \\n, no control characters but tab and newline.

    The same object comes back where there is nothing to do.
    """
    if _ODD.search(text):
        text = _CONTROL.sub("", _LINE_END.sub("\n", text))
    # last: what a control character kept apart may compose once it is gone
    if not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    return text


def letters(text: str) -> int:
    """Characters of any script that are letters or digits."""
    data = text.encode()
    count = len(data.translate(None, _NO_LETTER))
    if text.isascii():
        return count
    beyond = data.translate(None, _ASCII)
    return count - len(beyond) + sum(map(str.isalnum, beyond.decode()))


def _broken_rules(text: str, step: Clean) -> Iterator[tuple[str, float]]:
    """The rules that `text` breaks and what was measured, cheap rules first."""
    length = len(text)
    if not text.strip():
        yield "no text", length
        return
    if length < step.min_characters:
        yield "too short", length
    if length > step.max_characters:
        yield "too long", length
    lines = text.split("\n")
    if (longest := max(map(len, lines))) > step.max_line:
        yield "a line too long", longest
    if (mean := length / len(lines)) > step.max_mean_line:
        yield "lines too long on average", round(mean, 1)
    if (share := letters(text) / length) < step.min_letters:
        yield "too few letters", round(share, 4)
    filled = [line for line in map(str.strip, lines) if line]
    if (repeated := 1 - len(set(filled)) / len(filled)) > step.max_repeated_lines:
        yield "lines repeat", round(repeated, 4)
