"""The page in a real browser: it draws, switches, fits, and asks the network for nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anneal.report import write_report
from anneal.report.pretrained_page import write_pretrained

from . import example, example_pretrained

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.integration

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
ALL_DRAWN = "[...document.querySelectorAll('.plot')].every(plot => plot.dataset.drawn)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("browser")
    return {
        "complete": write_report(example.decision(), folder / "complete"),
        "full run": write_pretrained(example_pretrained.pretrained(), folder / "full run"),
        "full run hostile": write_pretrained(example_pretrained.hostile(), folder / "full hostile"),
        "hostile": write_report(example.hostile(), folder / "hostile"),
    }


def opened(browser: Browser, path: Path, width: int, scheme: str) -> tuple[Page, list[str]]:
    """The page with its charts drawn, and the list that collects whatever goes wrong on it."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
    page.on("request", lambda r: wrong.append(r.url) if r.url != path.as_uri() else None)
    page.goto(path.as_uri())
    page.wait_for_function(ALL_DRAWN, timeout=30_000)
    return page, wrong


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize(
    ("name", "figures"),
    [("complete", 5), ("hostile", 5), ("full run", 3), ("full run hostile", 3)],
)
def test_draws_without_error_request_or_overflow(
    browser: Browser, pages: dict[str, Path], name: str, figures: int, width: int, scheme: str
) -> None:
    page, wrong = opened(browser, pages[name], width, scheme)
    for fold in page.locator("summary").all():
        fold.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    plots = page.locator(".plot svg")
    assert plots.count() == figures
    for plot in plots.all():
        box = plot.bounding_box()
        assert box is not None
        assert box["width"] > 250
        assert box["x"] + box["width"] <= width
    assert page.locator("img").count() == 0
    assert wrong == []
    page.context.close()


def test_the_axis_switch_redraws(browser: Browser, pages: dict[str, Path]) -> None:
    page, wrong = opened(browser, pages["complete"], 1440, "light")
    figure = page.locator("[data-figure=curves]")
    assert "tokens of the source" in figure.locator("svg").text_content()
    figure.locator("input[value=curves-tokens]").focus()
    for chart, title in (
        ("curves-training-flops", "training FLOPs"),
        ("curves-total-flops", "training and acquisition FLOPs"),
        ("curves-usd", "USD, acquisition and training"),
    ):
        page.keyboard.press("ArrowRight")
        figure.locator(f".plot[data-drawn={chart}]").wait_for()
        assert title in figure.locator("svg").text_content()
        assert figure.locator("svg").count() == 1
    assert wrong == []
    page.context.close()


def test_a_tooltip_shows_a_hostile_name_as_text(browser: Browser, pages: dict[str, Path]) -> None:
    page, wrong = opened(browser, pages["hostile"], 1440, "light")
    bar = page.locator("[data-figure=allocation] .mark-rect path").first
    bar.scroll_into_view_if_needed()
    bar.hover()
    tooltip = page.locator(".vg-tooltip.visible")
    tooltip.wait_for()
    assert example.HOSTILE in tooltip.text_content()
    assert page.locator("img").count() == 0
    assert wrong == []
    page.context.close()


def test_charts_follow_the_colour_scheme(browser: Browser, pages: dict[str, Path]) -> None:
    page, _ = opened(browser, pages["complete"], 1440, "light")
    bar = "[data-figure=allocation] .mark-rect path"
    fill = f"getComputedStyle(document.querySelector('{bar}')).fill"
    light = page.evaluate(fill)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(fill)
    page.emulate_media(color_scheme="dark", media="print")
    assert light != dark
    assert page.evaluate(fill) == light
    page.context.close()
