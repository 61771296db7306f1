"""Text that must stay text in Markdown.

Names and reasons come from people and from data. Escaping keeps `<img>` from becoming an image,
`|` from ending a cell and `**` from setting bold, and leaves `2.413 [2.401, 2.426]` readable:
brackets are touched only where they would make a link.
"""

from __future__ import annotations

import re

_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def escape(text: str) -> str:
    r"""`text` as Markdown that shows exactly it, on one line.

    >>> escape("a|b *c* <img> [d](e) snake_case")
    'a\\|b \\*c\\* &lt;img&gt; [d]&#40;e) snake_case'
    """
    line = " ".join(text.split())
    line = re.sub(r"[&<>]", lambda m: _HTML[m[0]], line)
    line = re.sub(r"([\\`*~|$])", r"\\\1", line)
    line = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)
    line = re.sub(r"\]([(\[:])", lambda m: f"]&#{ord(m[1])};", line)
    return re.sub(r"^([#+=-]|\d+[.)])(?=\s|$)", r"\\\1", line)


def code(text: str) -> str:
    """`text` in fixed width where that is safe inside a table, escaped otherwise."""
    line = " ".join(text.split())
    return escape(line) if not line or "`" in line or "|" in line else f"`{line}`"


def cell(text: str, kind: str) -> str:
    """One cell of a table, by its column's kind."""
    return code(text) if kind == "code" else escape(text)
