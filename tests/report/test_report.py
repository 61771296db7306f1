"""The report of a decision: complete, self-contained, escaped, and the same in every form."""

from __future__ import annotations

import html as entities
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from anneal.errors import StoreError
from anneal.report import figures, look, write_report
from anneal.report.blocks import Facts, Note, Row, Table
from anneal.report.content import page as make_page
from anneal.report.decision import Decision
from anneal.report.page import html, markdown
from anneal.store import read_value
from anneal.sweep.console import summary

from . import example

pytestmark = pytest.mark.integration

SVG = "{http://www.w3.org/2000/svg}svg"


class Elements(HTMLParser):
    """Every element with its attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.data: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in {"script", "style"}:
            self._inside = "data" if ("type", "application/json") in attrs else "code"

    def handle_endtag(self, tag: str) -> None:
        if tag in {"script", "style"}:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "data":
            self.data.append(data)
        elif not self._inside:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(example.decision(), tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(example.hostile(), tmp_path_factory.mktemp("hostile"))


def test_files(written: Path) -> None:
    names = sorted(p.relative_to(written.parent).as_posix() for p in written.parent.rglob("*.*"))
    charts = figures.draw(example.decision())
    assert names == sorted(
        ["decision.json", "index.html", "report.md", *(f"figures/{c}.svg" for c in charts)]
    )
    assert written.stat().st_size < 2_500_000


def test_the_page_is_written_last(written: Path) -> None:
    others = [p for p in written.parent.rglob("*.*") if p != written and p.is_file()]
    assert all(p.stat().st_mtime_ns <= written.stat().st_mtime_ns for p in others)


def test_decision_json_is_the_decision(written: Path) -> None:
    assert read_value(written.parent / "decision.json", Decision) == example.decision()


def test_order_of_contents(written: Path) -> None:
    sections = [a["id"] for t, a in Elements(written.read_text()).elements if t == "section"]
    assert sections == [
        "decision", "registration", "sources", "evidence", "noise", "effects", "curves",
        "point-estimates", "check", "allocation", "sensitivity", "extrapolation", "next",
        "uncertainty", "reproduce",
    ]  # fmt: skip


def test_every_contents_link_has_its_section(written: Path) -> None:
    elements = Elements(written.read_text()).elements
    ids = [a["id"] for _, a in elements if "id" in a]
    links = [str(a["href"])[1:] for t, a in elements if t == "a"]
    assert len(ids) == len(set(ids))
    assert set(links) <= set(ids)
    assert len(links) > 10


def test_decision_box_says_what_decides(written: Path) -> None:
    text = Elements(written.read_text()).text
    box = text[text.index("Adopt with hold-out") : text.index("Square brackets")]
    for number in (
        "48.1% [35.2%, 62.5%]",  # allocation
        "1.584 [1.565, 1.603] bpb",  # predicted score
        "2.213",  # base
        "71%",  # best
        "0.0034 bpb",  # expected regret
        "0.0121",  # 95th percentile
        "+0.0021 [−0.0043, +0.0085]",  # runner-up
        "tie: below the noise floor",
        "limit 1.944",  # guard
    ):
        assert number in box, number


def test_the_page_fetches_nothing(written: Path) -> None:
    parsed = Elements(written.read_text())
    fetching = {"src", "srcset", "href", "action", "data", "poster", "xlink:href"}
    for tag, attributes in parsed.elements:
        for name in fetching & set(attributes):
            assert str(attributes[name]).startswith("#"), (tag, name, attributes[name])
        assert tag not in {"link", "iframe", "object", "embed", "base", "img"}
    style = re.search(r"<style>(.*?)</style>", written.read_text(), re.S)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    policy = next(str(a["content"]) for _, a in parsed.elements if a.get("http-equiv") is not None)
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    assert "http" not in policy


def test_addresses_in_the_charts_are_names_only(written: Path) -> None:
    (data,) = Elements(written.read_text()).data
    addresses = set(re.findall(r"https?://[^\"]+", data))
    assert all(a.startswith("https://vega.github.io/schema/vega-lite/") for a in addresses)
    for spec in json.loads(data).values():
        assert "url" not in json.dumps(spec.get("data", {}))


def test_vega_is_inside_once(written: Path) -> None:
    assert written.read_text().count("window.vegaEmbed=") == 1


def test_hostile_names_stay_text_in_html(hostile: Path) -> None:
    page = hostile.read_text()
    parsed = Elements(page)
    assert example.HOSTILE in parsed.text
    assert [t for t, _ in parsed.elements if t == "img"] == []
    assert sum(t == "script" for t, _ in parsed.elements) == 3
    assert page.count("</script>") == 3
    assert "<img src=x" not in page
    (data,) = parsed.data
    domain = json.loads(data)["allocation"]["layer"][0]["encoding"]["color"]["scale"]["domain"]
    assert domain[0] == example.HOSTILE


def test_hostile_names_stay_text_in_markdown(hostile: Path) -> None:
    text = (hostile.parent / "report.md").read_text()
    assert "<img" not in text
    assert "**b**" not in text
    assert r"&lt;img src=x onerror=alert(1)&gt;&lt;/script&gt;\|\`\*\*b\*\*\`" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1, table[:200]


def test_hostile_names_stay_text_in_svg(hostile: Path) -> None:
    root = ElementTree.fromstring((hostile.parent / "figures" / "epochs.svg").read_text())  # noqa: S314
    assert not [e for e in root.iter() if e.tag.endswith("img") or e.tag.endswith("script")]
    assert any("<img" in (e.text or "") for e in root.iter())


def numbers(text: str) -> list[str]:
    return re.findall(r"\d[\d.,]*(?:e−?\d+)?[kMBT%]?", text)


def test_markdown_holds_every_printed_text(written: Path) -> None:
    decision = example.decision()
    page = make_page(decision, figures.draw(decision))
    plain = entities.unescape((written.parent / "report.md").read_text())
    plain = re.sub(r"\\([\\`*~|$_#])", r"\1", plain)
    html_text = Elements(written.read_text()).text
    blocks = [page.box.allocation, page.box.facts, page.box.beats]
    blocks += [b for s in page.sections for b in s.blocks]
    seen = 0
    for block in blocks:
        if isinstance(block, Table):
            texts = [t for row in block.rows for t in row]
        elif isinstance(block, Facts):
            texts = [t for fact in block.facts for t in (fact.value, fact.note)]
        elif isinstance(block, Note):
            texts = [block.text]
        elif isinstance(block, Row):
            texts = [f.caption for f in block.figures]
        else:
            texts = [block.caption]
        for text in texts:
            assert text in plain, text
            assert text in html_text, text
            seen += len(numbers(text))
    assert seen > 1000


def test_svg_figures_stand_alone(written: Path) -> None:
    for path in (written.parent / "figures").glob("*.svg"):
        text = path.read_text()
        assert ElementTree.fromstring(text).tag == SVG  # noqa: S314
        assert "var(--" not in text
        assert set(re.findall(r"https?://[^\"']+", text)) <= {
            "http://www.w3.org/2000/svg",
            "http://www.w3.org/1999/xlink",
        }


def test_one_colour_a_source_in_every_figure() -> None:
    decision = example.decision()
    named = look.colours(decision)
    assert len(set(named.values())) == len(named) == 5
    scales = re.findall(
        r'"scale": ({"domain": \["stdlib"[^}]*})', json.dumps(list(figures.draw(decision).values()))
    )
    assert len(scales) >= 8
    for scale in map(json.loads, scales):
        assert dict(zip(scale["domain"], scale["range"], strict=True)) == named


def test_partial_sweeps_say_what_is_missing() -> None:
    decision = example.partial()
    page = make_page(decision, ())
    assert page.box.partial.startswith("Partial: 58 of 62")
    assert page.box.missing == decision.evidence.missing
    text = Elements(html(page, {}, {})).text
    box = text[text.index("Run more") : text.index("Square brackets")]
    assert "Partial: 58 of 62 planned runs" in box
    for name in decision.evidence.missing:
        assert name in box
    twin = markdown(page)
    assert "> - missing: packages 4.2M seed 0: out of memory" in twin
    assert "1 non finite, 1 out of memory" in twin


def test_a_complete_sweep_is_not_called_partial(written: Path) -> None:
    assert "Partial" not in Elements(written.read_text()).text


def test_no_crossover_is_an_answer(written: Path) -> None:
    assert "no crossover in range" in Elements(written.read_text()).text


@pytest.mark.parametrize(
    ("verdict", "tone"),
    [
        ("adopt", "go"),
        ("adopt with hold-out", "care"),
        ("run more", "wait"),
        ("not decidable", "stop"),
    ],
)
def test_verdicts_are_told_apart_by_word_mark_and_tone(verdict: str, tone: str) -> None:
    box = make_page(example.decision(verdict=verdict), ()).box
    assert box.verdict == verdict.capitalize()
    assert box.tone == tone
    marks = {make_page(example.decision(verdict=v), ()).box.mark for v in ("adopt", verdict)}
    assert len(marks) == (1 if verdict == "adopt" else 2)


def test_an_axis_where_nothing_was_spent_is_left_out() -> None:
    free = tuple(p.model_copy(update={"usd": 0.0}) for p in example.decision().points)
    charts = figures.draw(example.decision(points=free))
    assert "curves-usd" not in charts
    assert "curves-tokens" in charts


def test_one_free_source_makes_the_money_axis_linear() -> None:
    decision = example.decision()
    some = tuple(
        p.model_copy(update={"usd": 0.0}) if p.source == "stdlib" else p for p in decision.points
    )
    assert '"type": "log"' in json.dumps(figures.draw(decision)["curves-usd"])
    spec = figures.draw(example.decision(points=some))["curves-usd"]
    assert '"type": "log"' not in json.dumps(spec)
    assert look.svg(spec).startswith("<svg")


def test_what_does_not_exist_is_left_out(tmp_path: Path) -> None:
    bare = example.decision(
        points=(), curves=(), marginal=(), marginal_per_usd=(), allocation=(), binding=(), beats=(),
        crossovers=(), sensitivity=(), mixture_checks=(), ranks=(), rank_stability=None, effects=(),
        hold_out=(), guards={}, guard_limits={}, warnings=(), verdict="not decidable",
        next_best=None,
    )  # fmt: skip
    text = Elements(write_report(bare, tmp_path).read_text()).text
    assert list((tmp_path / "figures").glob("*")) == []
    assert "Nothing is recommended to be bought." in text
    assert "no guard was set" in text
    assert "No limit binds" in text
    assert "No further run was considered." in text


@pytest.mark.integration
def test_the_next_run_is_named_with_its_price_or_that_there_is_none(tmp_path: Path) -> None:
    text = Elements(write_report(example.decision(), tmp_path).read_text()).text
    assert "run stdlib at 8.4M tokens (1.1e14 FLOPs, 0.310 device-hours, USD 0.31)" in text
    assert "best gain per device-hour first" in text
    found = example.decision().next_best
    assert found is not None
    bare = found.model_copy(update={"stop": True, "reason": "it is within the noise floor"})
    asked = example.decision(next_best=bare)
    assert "next: stop: no further run is worth its price; it is within" in summary(asked)
    unpriced = tuple(r.model_copy(update={"flops": None, "hours": None}) for r in found.rows)
    plain = found.model_copy(update={"rows": unpriced, "price": "1e9 tokens"})
    text = Elements(write_report(example.decision(next_best=plain), tmp_path).read_text()).text
    assert "run stdlib at 8.4M tokens (8.4M tokens)" in text
    assert "ranked by gain per token" in text


def test_runs_without_a_fit_are_still_drawn() -> None:
    charts = figures.draw(example.decision(curves=()))
    assert look.svg(charts["curves-tokens"]).count("<path") > 50


def test_many_sources_repeat_colours_with_dashes() -> None:
    decision = example.decision()
    curves = tuple(
        decision.curves[i % 5].model_copy(update={"source": f"source {i}"}) for i in range(12)
    )
    rows = tuple(
        decision.allocation[i % 5].model_copy(update={"source": f"source {i}"}) for i in range(12)
    )
    many = example.decision(curves=curves, allocation=rows)
    named = look.colours(many)
    assert named["source 0"] == named["source 8"] != named["source 1"]
    dashed = example.decision(curves=curves, marginal=curves, allocation=rows)
    assert 'stroke-dasharray="6,4"' in look.svg(figures.draw(dashed)["marginal-tokens"])
    assert "stroke-dasharray" not in look.svg(figures.draw(decision)["marginal-tokens"])


@pytest.mark.integration
def test_writing_again_removes_figures_that_are_gone(tmp_path: Path) -> None:
    write_report(example.decision(), tmp_path)
    assert (tmp_path / "figures" / "marginal-usd.svg").exists()
    write_report(example.decision(marginal_per_usd=()), tmp_path)
    assert not (tmp_path / "figures" / "marginal-usd.svg").exists()
    assert (tmp_path / "figures" / "marginal-tokens.svg").exists()


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    blocked = tmp_path / "report"
    blocked.write_text("in the way")
    with pytest.raises((StoreError, NotADirectoryError)):
        write_report(example.decision(), blocked)
    assert blocked.read_text() == "in the way"


def test_the_decision_is_light_to_import() -> None:
    heavy = "{'altair', 'vl_convert', 'jinja2', 'pandas', 'numpy', 'torch'}"
    code = f"import sys, anneal.report.decision; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
