"""Writes the report of a full run: one page, its Markdown twin, JSON and figures."""

from __future__ import annotations

from pathlib import Path

from anneal.report import pretrained_figures
from anneal.report.page import publish
from anneal.report.pretrained import Pretrained
from anneal.report.pretrained_sections import page as make_page


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
    colours = pretrained_figures.colours(found)
    return publish(folder, page, charts, colours, record="pretrained.json", value=found)
