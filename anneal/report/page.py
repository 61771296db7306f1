"""Writes a report: one page, its Markdown twin, the decision as JSON and the figures as SVG.

The page needs nothing but itself. Styles, the charts' data and one copy of the Vega libraries are
inside it, and a content security policy lets it run its two scripts by their hashes and fetch
nothing, so a name that is really HTML stays text even if an escape were missed. Charts are drawn
through Vega's expression interpreter: no code is ever built from strings.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from anneal.report.content import page as make_page
from anneal.report.decision import Decision
from anneal.store import write, write_value
from anneal.values import Value

if TYPE_CHECKING:
    from jinja2 import Environment

    from anneal.report.blocks import Page
    from anneal.report.look import Spec

FIGURES = "figures"
"""Folder of the SVG files beside the page."""


def write_report(decision: Decision, folder: Path) -> Path:
    """Writes the report of `decision` into `folder` and returns the path of its page.

    Makes `figures/*.svg`, `report.md`, `decision.json` and, last, `index.html`; each appears whole
    or not at all, and figures of an earlier report that this one does not have are removed.

    Raises:
        StoreError: when the disk is full or the folder cannot be written.
    """
    from anneal.report import figures, look

    charts = figures.draw(decision)
    page, colours = make_page(decision, charts), look.colours(decision)
    return publish(folder, page, charts, colours, record="decision.json", value=decision)


def publish(
    folder: Path,
    page: Page,
    charts: dict[str, Spec],
    colours: dict[str, str],
    *,
    record: str,
    value: Value,
) -> Path:
    """Writes figures, Markdown, the record that all of it is from and, last, the page.

    Args:
        folder: gets them; figures of an earlier report that this one does not have are removed.
        page: what is printed.
        charts: Vega-Lite specs by name.
        colours: CSS colour of every source.
        record: file name of the JSON.
        value: its content.

    Returns:
        The path of the page.

    Raises:
        StoreError: when the disk is full or the folder cannot be written.
    """
    from anneal.report import look

    for name, spec in charts.items():
        write(folder / FIGURES / f"{name}.svg", look.svg(spec))
    for old in (folder / FIGURES).glob("*.svg"):
        if old.stem not in charts:
            old.unlink()
    write(folder / "report.md", markdown(page))
    write_value(folder / record, value)
    write(folder / "index.html", html(page, charts, colours))
    return folder / "index.html"


def markdown(page: Page) -> str:
    """The report as Markdown; figures are linked as SVG files."""
    from anneal.report import markdown as text

    environment = _environment()
    environment.filters |= {"md": text.escape, "cell": text.cell}
    written = environment.get_template("report.md.j2").render(page=page, folder=FIGURES)
    return re.sub(r"\n{3,}", "\n\n", written)


def html(page: Page, charts: dict[str, Spec], colours: dict[str, str]) -> str:
    """The report as one self-contained HTML page.

    Args:
        page: what it says.
        charts: Vega-Lite specs by name, as `figures.draw` gives them.
        colours: CSS colour of every source.
    """
    import vl_convert

    from anneal.report.look import INK_COLOURS, SOURCE_COLOURS

    environment = _environment()
    loader = environment.loader
    assert loader is not None
    named = [(f"source-{i}", pair) for i, pair in enumerate(SOURCE_COLOURS)]
    scripts = [
        f"\n{text}\n".replace("</script", "<\\/script")
        for text in (
            vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"),
            loader.get_source(environment, "page.js")[0],
        )
    ]
    return environment.get_template("index.html.j2").render(
        page=page,
        charts=json.dumps(charts, separators=(",", ":")).translate(_IN_SCRIPT),
        colours=colours,
        palette=[*INK_COLOURS.items(), *named],
        style=loader.get_source(environment, "page.css")[0],
        scripts=scripts,
        hashes=[_hash(script) for script in scripts],
    )


_IN_SCRIPT = str.maketrans(
    {
        c: f"\\u{ord(c):04x}"
        for c in ("<", ">", "&", "\N{LINE SEPARATOR}", "\N{PARAGRAPH SEPARATOR}")
    }
)
"""What could end a script element early, as JSON escapes."""


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
