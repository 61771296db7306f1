"""Writes the report of a full run: one page, its Markdown twin, JSON and figures."""

from __future__ import annotations

from pathlib import Path

from anneal.report import look, pretrained_figures
from anneal.report.page import FIGURES, html, markdown
from anneal.report.pretrained import Pretrained
from anneal.report.pretrained_sections import page as make_page
from anneal.store import write, write_value


def write_pretrained(found: Pretrained, folder: Path) -> Path:
    """Writes `pretrained.json`, `report.md`, `figures/*.svg` and, last, `index.html` into `folder`.

    Each appears whole or not at all; figures of an earlier report that this one does not have are
    removed.

    Returns:
        The path of the page.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
    """
    charts = pretrained_figures.draw(found)
    page = make_page(found, charts)
    for name, spec in charts.items():
        write(folder / FIGURES / f"{name}.svg", look.svg(spec))
    for old in (folder / FIGURES).glob("*.svg"):
        if old.stem not in charts:
            old.unlink()
    write(folder / "report.md", markdown(page))
    write_value(folder / "pretrained.json", found)
    write(folder / "index.html", html(page, charts, pretrained_figures.colours(found)))
    return folder / "index.html"
