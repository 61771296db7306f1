"""One step by itself, with everything that it may use made in a temporary folder."""

from __future__ import annotations

import pytest

from anneal.curation.chain import Chain, Context, Meter
from anneal.sources.documents import DOCUMENTS_FILE, write_documents
from anneal.store import Store


@pytest.fixture
def carry_out(tmp_path):
    """`carry_out(step, documents, upstream={name: documents}, targets={name: documents})`: the
    documents that come out, and the step's record."""
    count = 0

    def done(step, stream, *, upstream=None, targets=None, base=tmp_path):
        nonlocal count
        count += 1
        place = tmp_path / f"step-{count}"
        folders = []
        for number, group in enumerate((upstream or {}, targets or {})):
            found = {}
            for index, (name, given) in enumerate(group.items()):
                found[name] = place / f"{number}-{index}"
                found[name].mkdir(parents=True)
                write_documents(found[name] / DOCUMENTS_FILE, given)
            folders.append(found)
        (place / "scratch").mkdir(parents=True)
        store = Store(tmp_path / "store")
        context = Context(store, place / "scratch", base, folders[0], folders[1])
        chain = Chain([step], Meter(stream), context)
        return list(chain), chain.records()[0]

    return done
