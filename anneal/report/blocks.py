"""What a report is made of, before it is HTML or Markdown.

`content` turns a decision into these values, with every number already printed, and the two
templates lay them out. So the page and its Markdown twin say the same by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple


class Column(NamedTuple):
    """A column of a table."""

    label: str
    kind: Literal["text", "number", "source", "code"] = "text"
    """Numbers stand right-aligned; a source carries its colour; code is set in fixed width."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under a caption."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[int] = frozenset()
    """Rows set in bold: the chosen ones."""
    folded: bool = False
    """Closed at first: the long evidence behind a shorter table."""


class Fact(NamedTuple):
    """A number or phrase under its name."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A list of facts."""

    facts: tuple[Fact, ...]


@dataclass(frozen=True, kw_only=True)
class Note:
    """A sentence between other blocks."""

    text: str
    warning: bool = False


class Choice(NamedTuple):
    """One way to draw a figure."""

    label: str
    chart: str
    """Name of the chart in `figures.draw`, and of its SVG file."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure with one or more ways to draw it, switched by the reader."""

    name: str
    switch: str
    """What is switched, asked for by the buttons' legend; unused with one choice."""
    choices: tuple[Choice, ...]
    caption: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """Figures side by side where the page is wide enough."""

    figures: tuple[Figure, ...]


Block = Table | Facts | Note | Figure | Row


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report under a heading, opened by how to read it."""

    name: str
    """Anchor."""
    title: str
    lead: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Box:
    """The decision box: what someone reads who reads nothing else."""

    verdict: str
    tone: Literal["go", "care", "wait", "stop"]
    """Its colour; the words and the mark say the same."""
    mark: str
    meaning: str
    reason: str
    allocation: Table
    facts: Facts
    beats: Table
    partial: str
    """Empty when every run finished."""
    missing: tuple[str, ...]
    warnings: tuple[str, ...]
    nothing: str = "Nothing is recommended to be bought."
    """Said where `allocation` has no rows."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole report."""

    question: str
    meta: tuple[Fact, ...]
    level: str
    box: Box
    sections: tuple[Section, ...]
    kind: str = "Data-budget decision"
    """What this is, above the question."""
    name: str = "Decision"
    """What the box holds."""
