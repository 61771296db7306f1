"""Tokenizers and shards: nothing is lost, nothing is counted twice, damage is noticed."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest

from anneal.errors import SourceError
from anneal.sources.documents import Document
from anneal.sources.tokenize import Provenance, document_starts, open_tokens, tokenize
from anneal.sources.tokenizer import import_tokenizer, load_tokenizer, train_tokenizer
from anneal.sources.values import Cost
from anneal.store import Store

TEXT = "the cat dog ran sat on under mat house Größe <|endoftext|> ☃ def return x y"
WORDS = TEXT.split()


def corpus(count: int = 120, seed: int = 0) -> list[Document]:
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(3, 60))) for _ in range(count)]
    return [Document(f"d{i}", text, "", "") for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    info = train_tokenizer([corpus()], folder, vocabulary=300, sample_bytes=10**6)
    return folder, info


def made(store: Store, trained, *, recipe: str = "r" * 20, count: int = 120, **options):
    stream = corpus(count)
    paid = Cost(seconds_fixed=3.0, seconds_per_token=10.0, flops_per_token=500.0)
    provenance = Provenance(
        name="cats",
        kind="general",
        documents_address="d" * 20,
        bytes=sum(len(d.text.encode()) for d in stream),
        paid=paid,
    )
    return tokenize(
        lambda: iter(stream), trained[0], store, recipe, provenance=provenance, **options
    )


def test_training_twice_gives_the_same_tokenizer(trained, tmp_path):
    again = train_tokenizer([corpus()], tmp_path, vocabulary=300, sample_bytes=10**6)
    assert again == trained[1]
    assert again.vocabulary == 300


def test_transformers_loads_the_folder(trained):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained[0])
    assert tokenizer.eos_token_id == trained[1].end_of_text
    text = "the cat\n\tGröße ☃"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_vocabulary_that_the_text_cannot_fill_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="5000 entries asked, the text yields"):
        train_tokenizer([corpus(5)], tmp_path, vocabulary=5000, sample_bytes=10**6)


def test_shards_decode_to_the_documents_with_one_end_of_text_each(trained, tmp_path):
    store = Store(tmp_path)
    manifest = made(store, trained, shard_tokens=700)
    assert len(manifest.shards) > 3
    assert manifest.dtype == "uint16"
    folder = store.tokens(manifest.content)
    tokens = np.concatenate(open_tokens(folder, manifest, verify=True))
    starts = document_starts(folder)
    assert manifest.tokens == len(tokens) == starts[-1]
    assert manifest.documents == len(starts) - 1 == 120
    end = trained[1].end_of_text
    # a text that mentions the end-of-text token does not end a document
    assert (tokens == end).sum() == manifest.documents
    assert (tokens[starts[1:] - 1] == end).all()
    tokenizer, _ = load_tokenizer(trained[0])
    for document, first, last in zip(corpus(), starts, starts[1:], strict=False):
        assert tokenizer.decode(tokens[first : last - 1].tolist()) == document.text
    assert manifest.bytes == sum(len(d.text.encode()) for d in corpus())


def test_content_is_the_tokens_not_the_recipe(trained, tmp_path):
    store = Store(tmp_path)
    one = made(store, trained, recipe="1" * 20)
    two = made(store, trained, recipe="2" * 20)
    assert one == two
    assert (store.tokens("1" * 20) / "manifest.json").exists()
    assert not list(store.tokens("2" * 20).glob("*.bin"))
    assert made(store, trained, recipe="3" * 20, count=119).content != one.content
    for folder in (store.tokens("1" * 20), store.tokens(one.content)):
        assert sum(map(len, open_tokens(folder, one))) == one.tokens


def test_costs_are_per_token_kept(trained, tmp_path):
    manifest = made(Store(tmp_path), trained)
    assert manifest.cost.seconds_fixed == 3.0
    assert manifest.cost.seconds_per_token * manifest.tokens == pytest.approx(10.0)
    assert manifest.cost.flops_per_token * manifest.tokens == pytest.approx(500.0)
    part = made(Store(tmp_path), trained, recipe="p" * 20, max_tokens=1000)
    # a part of the documents costs its part: the price of a token is the same up to bytes per token
    assert part.cost.seconds_per_token == pytest.approx(manifest.cost.seconds_per_token, rel=0.1)


def test_max_tokens_keeps_whole_documents_in_a_seeded_order(trained, tmp_path):
    store = Store(tmp_path)
    whole = made(store, trained, shard_tokens=500)
    some = made(store, trained, recipe="s" * 20, max_tokens=1000, shard_tokens=300)
    more = made(store, trained, recipe="m" * 20, max_tokens=2000)

    def texts(manifest) -> list[tuple[int, ...]]:
        tokens = np.concatenate(open_tokens(store.tokens(manifest.content), manifest))
        starts = document_starts(store.tokens(manifest.content))
        return [tuple(tokens[a:b]) for a, b in itertools.pairwise(starts)]

    assert 850 < some.tokens <= 1000
    assert 1850 < more.tokens <= 2000
    assert set(texts(some)) < set(texts(more)) < set(texts(whole))
    order = [texts(whole).index(text) for text in texts(some)]
    assert order == sorted(order)
    assert order[-1] > 60  # from all of it, not the first documents
    one = made(store, trained, recipe="o" * 20, max_tokens=1)
    assert one.documents == 1
    assert not list(store.root.rglob("candidates"))


def test_damaged_shards_are_noticed(trained, tmp_path):
    store = Store(tmp_path)
    manifest = made(store, trained)
    folder = store.tokens(manifest.content)
    shard = folder / manifest.shards[0].file
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    open_tokens(folder, manifest)
    with pytest.raises(SourceError, match="not what was written"):
        open_tokens(folder, manifest, verify=True)
    shard.write_bytes(data[:-2])
    with pytest.raises(SourceError, match=r"bytes, [\d,]+ expected"):
        open_tokens(folder, manifest)
    shard.unlink()
    with pytest.raises(SourceError, match="0 bytes"):
        open_tokens(folder, manifest)


def test_an_existing_tokenizer_is_brought_in_with_its_own_end(trained, tmp_path):
    other = tmp_path / "theirs"
    other.mkdir()
    content = json.loads((trained[0] / "tokenizer.json").read_text())
    (other / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "in").mkdir()
    info = import_tokenizer(other, tmp_path / "in", end_of_text=None)
    assert info.end_of_text_token == "<|endoftext|>"
    (other / "tokenizer_config.json").write_text('{"eos_token": {"content": "the"}}')
    (tmp_path / "in2").mkdir()
    info = import_tokenizer(other / "tokenizer.json", tmp_path / "in2", end_of_text=None)
    assert info.end_of_text_token == "the"
    assert info.content != trained[1].content
    with pytest.raises(SourceError, match="no token '<none>' in it"):
        import_tokenizer(other, tmp_path / "in", end_of_text="<none>")
    with pytest.raises(SourceError, match=r"no tokenizer\.json there"):
        import_tokenizer(tmp_path / "empty", tmp_path / "in", end_of_text=None)
    (other / "tokenizer.json").write_text("{}")
    with pytest.raises(SourceError) as caught:
        import_tokenizer(other, tmp_path / "in", end_of_text=None)
    assert "must be a Hugging Face tokenizer.json" in caught.value.hint


def test_wide_vocabularies_use_four_bytes(trained, tmp_path):
    content = json.loads((trained[0] / "tokenizer.json").read_text())
    content["added_tokens"].append({**content["added_tokens"][0], "id": 70_000, "content": "<far>"})
    content["model"]["vocab"]["<far>"] = 70_000
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "in").mkdir()
    info = import_tokenizer(tmp_path, tmp_path / "in", end_of_text="<far>")
    assert info.vocabulary == 70_001
    manifest = made(Store(tmp_path / "store"), (tmp_path / "in", info))
    assert manifest.dtype == "uint32"
    shard = open_tokens(Store(tmp_path / "store").tokens(manifest.content), manifest)[0]
    assert (shard == 70_000).sum() == manifest.documents
