"""Steps that ask a scripted server, and seeds for them."""

from __future__ import annotations

from fake_server import completion, words_of

from anneal.curation.steps import Synthesize
from anneal.sources.documents import Document


def step(url="http://127.0.0.1:9/v1", **more) -> Synthesize:
    server = {"kind": "server", "url": url, "model": "teacher", **more.pop("teacher", {})}
    return Synthesize.model_validate({"recipe": "rephrase", "teacher": server, **more})


def seeds(count: int) -> list[Document]:
    return [
        Document(f"s{i}", f"seed {i} says {i * i}.", f"g{i // 2}", f"o{i}") for i in range(count)
    ]


def well(path, said, number):
    return completion(words_of(said))
