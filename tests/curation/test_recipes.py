"""What a teacher is asked: templates, and the stretch of a seed that they show."""

from __future__ import annotations

import pytest

from anneal import settings
from anneal.curation.recipes import Recipe, stretch
from anneal.errors import SettingsError, SourceError
from anneal.sources.documents import Document


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        ("oss_instruct", {}),
        ("oss_instruct", {"language": "Rust"}),
        ("rephrase", {}),
        *[("rephrase", {"style": s}) for s in ("easy", "medium", "hard", "question_answer")],
        ("question_answer", {"pairs": "5"}),
        ("textbook", {"audience": "nurses"}),
    ],
)
def test_recipes_of_the_house_show_the_seed_and_their_variables(name, variables, tmp_path):
    recipe = Recipe(name, variables, tmp_path)
    prompt = recipe.prompt(Document("i", "THE SEED {{ 1 + 1 }}", "", ""))
    assert "THE SEED {{ 1 + 1 }}" in prompt  # text of a seed is no template
    assert all(value in prompt for key, value in variables.items() if key != "style")
    assert "{#" not in prompt
    assert "\n\n\n" not in prompt
    assert prompt != Recipe("textbook", {}, tmp_path).prompt(Document("i", "THE SEED", "", ""))


def test_the_styles_differ(tmp_path):
    seed = Document("i", "text", "", "")
    styles = ("easy", "medium", "hard", "question_answer")
    assert len({Recipe("rephrase", {"style": s}, tmp_path).prompt(seed) for s in styles}) == 4


@pytest.mark.parametrize(
    ("text", "variables", "what", "hint"),
    [
        ("{{ seed.text }} {{ colour }}", {}, "'colour' is undefined", "variables given: none"),
        (
            "{{ seed.text }} {{ style }}",
            {"stile": "x"},
            "does not use the variable `stile`",
            "`sty",
        ),
        ("{{ seed.texts }}", {}, "no attribute 'texts'", "variables"),
        ("{{ seed.text", {}, "line 1", "Jinja"),
        ("{% for x in y %}", {}, "line 1", "Jinja"),
        ("hello", {}, "never shows the seed", "seed.text"),
        ("{{ seed.text }}", {"seed": "x"}, "`seed` is the seed document", "another name"),
        ("{{ seed.text }}{% include 'x' %}", {}, "no loader", ""),
        ("{{ seed.text.__class__.__mro__ }}", {}, "unsafe", ""),
        ("{{ seed.text }}{{ refuse('not today') }}", {}, "not today", ""),
        ("{{ seed.text }}{{ 1 / 0 }}", {}, "division by zero", ""),
    ],
)
def test_mistakes_in_a_template_are_one_clear_error(text, variables, what, hint, tmp_path):
    (tmp_path / "mine.j2").write_text(text)
    with pytest.raises(SourceError, match=r"^recipe `mine\.j2`") as caught:
        Recipe("mine.j2", variables, tmp_path)
    assert what in caught.value.what
    assert hint in caught.value.hint


def test_unknown_recipes_and_styles_are_named(tmp_path):
    with pytest.raises(SourceError, match="`nothing`: no such template") as caught:
        Recipe("nothing", {}, tmp_path)
    assert "oss_instruct, question_answer, rephrase, textbook" in caught.value.hint
    with pytest.raises(SourceError, match="style is gay; it can be easy, medium, hard"):
        Recipe("rephrase", {"style": "gay"}, tmp_path)
    (tmp_path / "bytes.j2").write_bytes(b"\xff\xfe")
    with pytest.raises(SourceError, match="cannot be read"):
        Recipe("bytes.j2", {}, tmp_path)


def test_the_example_sources_compose_and_their_recipes_take_their_variables(tmp_path):
    made_from = "stdlib,packages,packages_filtered,exercises"
    words = [f"source=[{made_from},oss_instruct,rephrased]"]
    with pytest.raises(SettingsError, match="Missing mandatory value: model"):
        settings.load(None, words)
    words += ["source.rephrased.steps.0.teacher.model=/models/small"]
    found = {s.name: s.steps[0] for s in settings.load(None, words).source if s.steps}
    for name in ("oss_instruct", "rephrased"):
        Recipe(found[name].recipe, found[name].variables, tmp_path)
    assert found["oss_instruct"].parse == "python"


def test_a_stretch_is_whole_lines_within_its_size_and_every_part_can_be_drawn():
    lines = [f"line {i:03d} of the text\n" for i in range(200)]
    text = "".join(lines)
    drawn = [stretch(text, 50, str(key).encode()) for key in range(1500)]
    assert all(set(s.splitlines(keepends=True)) <= set(lines) and len(s) <= 200 for s in drawn)
    assert min(len(s) for s in drawn) > 150
    assert {line for s in drawn for line in s.splitlines(keepends=True)} == set(lines)
    assert stretch(text, 10_000, b"") == text
    assert stretch("é" * 300, 50, b"") == "é" * 100  # one long line is cut, between characters
