"""The report of a full run: the same in every form, and safe whatever the names are."""

import html as entities
import re

import pytest

from anneal.report import pretrained_figures
from anneal.report.blocks import Facts, Table
from anneal.report.pretrained import Pretrained
from anneal.report.pretrained_console import summary
from anneal.report.pretrained_page import write_pretrained
from anneal.report.pretrained_sections import page as make_page
from anneal.report.pretrained_words import headline
from anneal.store import read_value

from . import example_pretrained as example
from .test_report import Elements

EXAMPLES = ["pretrained", "aborted", "lopsided", "hostile"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    return {name: write_pretrained(getattr(example, name)(), folder / name) for name in EXAMPLES}


@pytest.mark.integration
@pytest.mark.parametrize("name", EXAMPLES)
def test_files(written, name):
    path, found = written[name], getattr(example, name)()
    names = sorted(p.relative_to(path.parent).as_posix() for p in path.parent.rglob("*.*"))
    charts = pretrained_figures.draw(found)
    assert names == sorted(
        ["index.html", "pretrained.json", "report.md", *(f"figures/{c}.svg" for c in charts)]
    )
    assert {"errors", "loss", "scores-0", "scores-1"} == set(charts)
    assert read_value(path.parent / "pretrained.json", Pretrained) == found
    others = [p for p in path.parent.rglob("*.*") if p != path]
    assert all(p.stat().st_mtime_ns <= path.stat().st_mtime_ns for p in others)


@pytest.mark.integration
@pytest.mark.parametrize("name", EXAMPLES)
def test_markdown_and_page_hold_every_printed_text(written, name):
    found = getattr(example, name)()
    page = make_page(found, pretrained_figures.draw(found))
    plain = entities.unescape((written[name].parent / "report.md").read_text())
    plain = re.sub(r"\\([\\`*~|$_#])", r"\1", plain)
    shown = Elements(written[name].read_text()).text
    blocks = [page.box.allocation, page.box.facts, *(b for s in page.sections for b in s.blocks)]
    seen = 0
    for block in blocks:
        texts = []
        if isinstance(block, Table):
            texts = [t for row in block.rows for t in row]
            assert all(len(row) == len(block.columns) for row in block.rows), block.caption
        elif isinstance(block, Facts):
            texts = [t for fact in block.facts for t in (fact.value, fact.note)]
        for text in texts:
            assert text in plain and text in shown, text
            seen += bool(text)
    assert seen > 100


@pytest.mark.integration
def test_the_page_fetches_nothing_and_hostile_names_stay_text(written):
    for path in written.values():
        parsed = Elements(path.read_text())
        assert sum(t == "script" for t, _ in parsed.elements) == 3
        for tag, attributes in parsed.elements:
            assert tag not in {"link", "iframe", "object", "embed", "base", "img"}
            for name in {"src", "href", "action", "data"} & set(attributes):
                assert str(attributes[name]).startswith("#")
    assert example.HOSTILE in Elements(written["hostile"].read_text()).text
    assert "<img" not in (written["hostile"].parent / "report.md").read_text()


def test_the_box_says_how_it_ended():
    assert headline(example.pretrained()) == "3 of 4 intervals held"  # known ones do not count
    assert headline(example.aborted()) == "Aborted"
    assert headline(example.pretrained(state="unfinished")).startswith("Not finished; 3 of 4")
    box = make_page(example.pretrained(), ()).box
    assert box.tone == "care"
    assert "0.0909 bpb worse than predicted" in box.reason
    assert "assumption of the law does not hold" in box.reason
    (outside,) = box.allocation.marked
    assert box.allocation.rows[outside][:2] == ("synthetic-enhanced", "score")
    inside = [r for r in example.foretold() if r.inside]
    assert make_page(example.pretrained(foretold=inside), ()).box.tone == "go"
    assert make_page(example.aborted(), ()).box.tone == "stop"
    assert "2.3511 above its limit" in make_page(example.aborted(), ()).box.partial


def test_what_is_not_predicted_and_what_does_not_hold_is_told():
    text = str(make_page(example.aborted(), ()).sections[0])
    assert "this run does not score `prose_heldout`" in text
    assert "re-warmed 1 time" in text


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_terminal_ends_with_the_table_in_80_columns(name):
    found = getattr(example, name)()
    lines = summary(found).splitlines()
    assert max(map(len, lines)) <= 80
    table = lines[-len(found.foretold) - len(found.phases) - 1 :]
    assert table[0].split() == ["after", "predicted", "measured", "error", "held"]
    assert sum("yes" in line or " NO" in line for line in table) == sum(
        row.inside is not None for row in found.foretold
    )
    if name == "pretrained":
        assert "1.7411 [1.6709, 1.8113]    1.8320  +0.0909  NO" in table[-2]
        assert any("have held 10 of 13 times [55%, 90%]" in line for line in lines)
        assert "known beforehand" in lines[-len(table) - 1]


def test_phases_too_short_for_an_axis_of_tokens_stand_side_by_side():
    where, aside = pretrained_figures.place(example.pretrained())
    assert not aside and where(1000) == 1000
    found = example.lopsided()
    where, aside = pretrained_figures.place(found)
    assert aside
    assert [where(end) for end in pretrained_figures.ends(found)] == [1, 2, 3]
    assert where(0) == 0 and where(525_000_000_000) == pytest.approx(1.5)


@pytest.mark.integration
def test_figures_of_an_earlier_report_go(tmp_path):
    write_pretrained(example.pretrained(), tmp_path)
    write_pretrained(example.pretrained(losses=(), foretold=example.foretold()[::2]), tmp_path)
    assert {p.stem for p in (tmp_path / "figures").iterdir()} == {"errors", "scores-0"}


@pytest.mark.integration
def test_a_run_without_predictions_has_a_report(tmp_path):
    rows = [
        row.model_copy(
            update={
                "predicted": None,
                "reason": "no law",
                "inside": None,
                "error": None,
                "counted": False,
            }
        )
        for row in example.foretold()
    ]
    found = example.pretrained(foretold=rows, losses=(), evaluations=(), calibration=None)
    path = write_pretrained(found, tmp_path)
    assert "No interval was tested" in path.read_text()
    assert headline(found) == "no interval was tested"
    path = write_pretrained(example.pretrained(foretold=()), tmp_path)
    assert "Nothing was predicted of this run." in path.read_text()
