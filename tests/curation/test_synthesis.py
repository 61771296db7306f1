"""Synthesis against a scripted server: what is asked, kept, counted and paid for."""

from __future__ import annotations

import dataclasses
import json
import random
import re

import numpy as np
import pytest
from asking import seeds, step, well
from fake_server import completion, serving, words_of
from safetensors.numpy import save_file

from anneal.curation.plan import plan_preparation
from anneal.curation.recipes import Recipe
from anneal.curation.steps import Offline, Synthesize
from anneal.curation.synthesis import planned
from anneal.curation.teacher import parameters, request_seed, teacher_address
from anneal.curation.values import (
    CuratedSource,
    CuratedTarget,
    CurationRecord,
    TrainedTokenizer,
)
from anneal.curation.worker import prepare
from anneal.errors import SourceError
from anneal.sources.documents import Document, held_out, read_documents
from anneal.sources.values import Split
from anneal.store import Store, read_value


def test_documents_are_their_seeds_children_in_order(carry_out):
    with serving(well) as (url, asked):
        made, record = carry_out(step(url, per_seed=2, parameters=1e9), seeds(30))
    assert [d.id for d in made] == [f"s{i}#{k}" for i in range(30) for k in (0, 1)]
    assert all(d.group == f"g{int(d.id[1:-2]) // 2}" for d in made)
    assert len({d.text for d in made}) == 60  # the two of a seed differ in the request's seed
    assert len(asked) == 60
    assert {path for path, _, _ in asked} == {"/v1/chat/completions"}
    said = asked[0][1]
    assert (said["model"], said["max_tokens"], said["temperature"], said["top_p"]) == (
        "teacher",
        1024,
        0.7,
        0.95,
    )
    assert record.dropped == {}
    assert record.flops == 2 * 1e9 * 60 * 30
    notes = record.notes
    assert notes["teacher"] == "server: teacher"
    assert "{{ seed.text }}" in notes["recipe_template"]
    assert (notes["prompt_tokens"], notes["output_tokens"]) == (600, 1200)
    assert notes["acceptance_rate"] == 1
    assert notes["flops_per_accepted_token"] == 2 * 1e9 * 1800 / 1200


def test_seed_and_document_are_on_one_side_of_a_split(carry_out):
    mixed = [
        dataclasses.replace(d, group=d.group if i % 2 else "") for i, d in enumerate(seeds(60))
    ]
    with serving(well) as (url, _):
        made, _ = carry_out(step(url), mixed)
    split = Split(part="heldout", fraction=0.5)
    sides = [held_out(d, split) for d in made]
    assert sides == [held_out(d, split) for d in mixed]
    assert len(set(sides)) == 2


def test_the_same_seeds_again_cost_nothing_even_with_the_teacher_gone(carry_out):
    with serving(well) as (url, asked):
        made, first = carry_out(step(url, teacher={"usd_per_million_output": 2.0}), seeds(20))
        assert len(asked) == 20
    again, second = carry_out(
        step("http://127.0.0.1:9/v1", teacher={"usd_per_million_output": 2.0}), seeds(20)
    )
    assert again == made
    assert second.usd == first.usd == pytest.approx(8e-4)  # what it cost, whenever that was
    assert (first.notes["requests_found_in_cache"], second.notes["requests_found_in_cache"]) == (
        0,
        20,
    )
    # other settings that ask the same: nothing new; a few more seeds: only those
    with serving(well) as (url, asked):
        loose, _ = carry_out(step(url, max_repetition=0.9, max_seeds=25), seeds(25))
    assert len(asked) == 5
    assert {d.id for d in made} < {d.id for d in loose}


def test_equal_questions_in_one_run_are_asked_once(carry_out):
    same = [Document(str(i), "the same text", "", "") for i in range(40)]
    with serving(well) as (url, asked):
        made, record = carry_out(step(url, parameters=1.0), same)
    assert len(made) == 40
    assert len(asked) == record.notes["requests"] == 1
    assert record.flops == 2 * 30
    with serving(well) as (url, asked):  # a greedy answer needs no seed of its own
        carry_out(step(url, temperature=0, per_seed=3), seeds(2))
    assert len(asked) == 2


def test_seeds_are_drawn_by_hash_and_not_by_place(carry_out):
    shuffled = seeds(100)
    random.Random(1).shuffle(shuffled)
    with serving(well) as (url, _):
        one, record = carry_out(step(url, max_seeds=10), seeds(100))
        two, _ = carry_out(step(url, max_seeds=10), shuffled)
        more, _ = carry_out(step(url, max_seeds=20), seeds(100))
        other, _ = carry_out(step(url, max_seeds=10, seed=1), seeds(100))
    assert [d.id for d in one] == [d.id for d in two]
    assert one == two
    assert more[:10] == one  # a larger draw begins with the smaller
    assert {d.id for d in other} != {d.id for d in one}
    assert record.dropped == {"seed not drawn": 90}


def test_a_prompt_shows_one_stretch_of_a_long_seed(carry_out):
    long = "".join(f"line {i:04d}\n" for i in range(3000))
    with serving(well) as (url, asked):
        carry_out(step(url, per_seed=4, seed_tokens=100), [Document("a", long, "", "")])
    shown = [re.findall(r"line \d{4}", said["messages"][0]["content"]) for _, said, _ in asked]
    assert all(30 <= len(lines) <= 40 for lines in shown)
    assert len({lines[0] for lines in shown}) == 4


def test_a_cut_answer_is_tried_once_more_with_twice_the_room(carry_out):
    """Planted: half fit at once, a quarter fit the second time, the others never."""

    def answer(path, said, number):
        which = int(re.search(r"seed (\d+)", said["messages"][0]["content"])[1])
        needed = {0: 50, 1: 50, 2: 150, 3: 900}[which % 4]
        room = said["max_tokens"]
        return completion(
            words_of(said), "stop" if needed <= room else "length", 7, min(needed, room)
        )

    with serving(answer) as (url, asked):
        made, record = carry_out(step(url, max_output=100, parameters=1.0), seeds(40))
        assert sorted(said["max_tokens"] for _, said, _ in asked) == [100] * 40 + [200] * 20
        assert record.dropped == {"truncated": 10}
        assert record.notes["answers_rejected"] == "10 truncated"
        # every try is paid for
        assert record.notes["output_tokens"] == 20 * 50 + 20 * 100 + 10 * 150 + 10 * 200
        assert record.flops == 2 * (60 * 7 + record.notes["output_tokens"])
        assert record.notes["accepted_tokens"] == 20 * 50 + 10 * 150
        again, _ = carry_out(step(url, max_output=100), seeds(40))
        assert again == made
        assert len(asked) == 60
    # the second try has the seed of the first: it says the same and goes on
    pairs = {}
    for _, said, _ in asked:
        pairs.setdefault(said["messages"][0]["content"], set()).add(said["seed"])
    assert all(len(seeds) == 1 for seeds in pairs.values())


def test_room_is_not_doubled_where_it_cannot_help(carry_out):
    def loops(path, said, number):
        return completion("and so on " * 50, "length", 7, said["max_tokens"])

    def ends_with_the_context(path, said, number):
        return completion(words_of(said), "length", 7, said["max_tokens"] - 1)

    for answer, reason in ((loops, "repeats itself"), (ends_with_the_context, "truncated")):
        with serving(answer) as (url, asked):
            _, record = carry_out(step(url, teacher={"model": reason}), seeds(3))
        assert record.dropped == {reason: 3}
        assert len(asked) == 3


def test_what_is_rejected_is_counted_by_reason_and_paid(carry_out):
    def answer(path, said, number):
        which = int(re.search(r"seed (\d+)", said["messages"][0]["content"])[1]) % 5
        texts = [
            f"```python\nx = {number}\n```",
            "",
            "no code",
            "```python\ndef\n```",
            "```\nx=1\n```",
        ]
        return completion(texts[which], "content_filter" if which == 4 else "stop", 100, 10)

    price = {"usd_per_million_prompt": 1.0, "usd_per_million_output": 5.0}
    with serving(answer) as (url, _):
        made, record = carry_out(step(url, parse="python", teacher=price), seeds(50))
    assert len(made) == 10
    assert record.dropped == {
        "empty answer": 10,
        "no fenced block of Python": 10,
        "Python that does not compile": 10,
        "ended by content_filter": 10,
    }
    assert record.notes["acceptance_rate"] == 0.2
    assert record.usd == pytest.approx(50 * (100 * 1.0 + 10 * 5.0) / 1e6)
    assert record.notes["usd_per_accepted_token"] == pytest.approx(record.usd / 100)
    assert record.flops == 0
    assert "unknown" in record.notes["flops_per_accepted_token"]


def test_a_prompt_beyond_the_context_is_dropped_unpaid_and_asked_again_another_day(carry_out):
    message = "This model's maximum context length is 512 tokens. However, you asked for more."

    def answer(path, said, number):
        return 400, {"error": {"message": message, "code": 400}}, {}

    with serving(answer) as (url, asked):
        made, record = carry_out(step(url, parameters=1.0), seeds(3))
    assert (made, record.dropped) == ([], {"does not fit the teacher's context": 3})
    assert record.flops == record.notes["requests"] == 0
    with serving(well) as (url, asked):
        made, _ = carry_out(step(url), seeds(3))
    assert len(made) == len(asked) == 3


def test_a_model_without_chat_template_is_asked_for_completions(carry_out):
    def answer(path, said, number):
        if path.endswith("chat/completions"):
            return 400, {"error": {"message": "you must provide a chat template"}}, {}
        return completion(words_of(said), chat=False)

    with serving(answer) as (url, asked):
        made, _ = carry_out(step(url), seeds(40))
    assert len(made) == 40
    assert [path for path, _, _ in asked].count("/v1/chat/completions") == 1
    assert asked[-1][1]["prompt"].startswith("Rewrite the text")


def test_seeds_of_requests_follow_from_what_is_asked():
    one = request_seed(0, 0, "prompt", 0.7)
    assert one == request_seed(0, 0, "prompt", 0.7)
    assert len({one, request_seed(1, 0, "prompt", 0.7), request_seed(0, 1, "prompt", 0.7)}) == 3
    assert 0 <= one < 2**31
    assert request_seed(0, 5, "prompt", 0.0) == 0


def model(folder, **config):
    folder.mkdir()
    save_file(
        {"a": np.zeros((3, 5), np.float32), "b": np.zeros(7, np.float16)}, folder / "m.safetensors"
    )
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    return Offline(model=folder.name)


def test_an_offline_teacher_goes_by_its_content_and_counts_its_parameters(tmp_path):
    one, two = model(tmp_path / "one"), model(tmp_path / "two")
    store = Store(tmp_path / "store")
    assert parameters(one, tmp_path) == 22
    assert teacher_address(one, tmp_path, store) == teacher_address(two, tmp_path, store)
    (tmp_path / "two" / "generation_config.json").write_text("{}")
    assert teacher_address(one, tmp_path, store) != teacher_address(two, tmp_path, store)
    with pytest.raises(SourceError, match="mixture of experts"):
        parameters(model(tmp_path / "three", num_local_experts=8), tmp_path)
    (tmp_path / "one" / "m.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    with pytest.raises(SourceError, match=r"m\.safetensors cannot be read"):
        parameters(one, tmp_path)
    (tmp_path / "two" / "m.safetensors").rename(tmp_path / "two" / "pytorch_model.bin")
    with pytest.raises(SourceError, match=r"no config\.json with safetensors weights"):
        parameters(two, tmp_path)
    with pytest.raises(SourceError, match="no such folder"):
        teacher_address(Offline(model="./nowhere"), tmp_path, store)


def test_a_model_on_the_hub_goes_by_its_commit_and_a_plan_fetches_no_weights(tmp_path):
    store = Store(tmp_path / "store")
    teacher = {"kind": "offline", "model": "house/teacher"}
    with pytest.raises(SourceError, match="no such folder, and the hub does not answer") as caught:
        planned([Synthesize(recipe="textbook", teacher=teacher)], tmp_path, store)
    assert "pin `revision`" in caught.value.hint
    teacher["revision"] = "0123456789" * 4
    one = planned([Synthesize(recipe="textbook", teacher=teacher)], tmp_path, store)
    teacher["revision"] = "9876543210" * 4
    two = planned([Synthesize(recipe="textbook", teacher=teacher)], tmp_path, store)
    assert one[0][0].teacher.revision == "0123456789" * 4
    assert one[1] != two[1]


def test_the_recipe_is_what_is_made_and_not_how(tmp_path):
    store = Store(tmp_path / "store")

    def fields(**more):
        return planned([step(**more)], tmp_path, store)[1]

    same = fields()
    assert fields(url="http://elsewhere/v1") == same
    assert fields(teacher={"parallel": 3, "key_variable": "K", "timeout_seconds": 5}) == same
    (tmp_path / "copy.j2").write_text(Recipe("rephrase", {}, tmp_path).text)
    assert fields(recipe="copy.j2") == same
    for other in (
        {"variables": {"style": "easy"}},
        {"recipe": "textbook"},
        {"teacher": {"model": "larger"}},
        {"teacher": {"usd_per_million_output": 1.0}},
        {"max_output": 5},
        {"seed": 1},
    ):
        assert fields(**other) != same, other


def synthetic(url, read, **more) -> CuratedSource:
    steps = [step(url, **more).model_dump()]
    fields = {"name": "written", "kind": "synthetic", "read": read, "steps": steps}
    return CuratedSource.model_validate(fields)


def lines(path, texts) -> dict:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return {"kind": "jsonl", "path": path.name}


def test_what_is_written_is_deduplicated_and_kept_clear_of_the_targets(tmp_path):
    """Planted: of every four answers one is a target's text and one is the same as before."""
    secret = " ".join(f"held{i}" for i in range(60))

    def answer(path, said, number):
        which = int(re.search(r"seed (\d+)", said["messages"][0]["content"])[1]) % 4
        return completion({0: secret, 1: "always the same"}.get(which) or words_of(said))

    read = lines(tmp_path / "seeds.jsonl", [f"seed {i}" for i in range(40)])
    heldout = {"name": "heldout", "read": lines(tmp_path / "t.jsonl", [secret])}
    target = CuratedTarget.model_validate(heldout)
    store = Store(tmp_path / "store")
    with serving(answer) as (url, asked):
        steps = plan_preparation(
            [synthetic(url, read)], [target], TrainedTokenizer(vocabulary=300), store, base=tmp_path
        )
        for one in steps[:2]:
            prepare(one, store, lambda done, total: None)
    assert len(asked) == 40
    folder = store.documents(steps[1].id)
    record = read_value(folder / "curation.json", CurationRecord)
    # the copies of the target are copies of each other, so nine of ten go as duplicates
    assert record.dropped == {"exact duplicate": 18, "occurs in a target": 1}
    assert len({d.text for d in read_documents(folder)}) == record.documents == 21
    assert record.notes["teacher"] == "server: teacher"
    assert [s.step for s in record.steps] == ["synthesize", "deduplicate", "decontaminate"]


def test_a_plan_names_the_source_whose_recipe_is_wrong_and_follows_its_text(tmp_path):
    read = lines(tmp_path / "seeds.jsonl", ["seed 1"])
    store = Store(tmp_path / "store")
    mine = tmp_path / "mine.j2"

    def plan(**more):
        source = synthetic("http://127.0.0.1:9/v1", read, recipe="mine.j2", **more)
        return plan_preparation([source], [], TrainedTokenizer(), store, base=tmp_path)[0].id

    mine.write_text("{{ seed.text }} {{ style }}")
    with pytest.raises(SourceError, match=r"^source `written`: recipe `mine\.j2`: 'style' is und"):
        plan()
    first = plan(variables={"style": "easy"})
    assert plan(variables={"style": "easy"}) == first
    assert plan(variables={"style": "hard"}) != first
    mine.write_text("{{ seed.text }}, {{ style }}")
    assert plan(variables={"style": "easy"}) != first
