"""Provenance: read from the input, kept with the documents, counted in bounded memory."""

from __future__ import annotations

import json
from collections import Counter

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from anneal.sources.documents import (
    DOCUMENTS_FILE,
    Document,
    documents,
    read_documents,
    write_documents,
)
from anneal.sources.evidence import MOST, Census, forbidden, permitted
from anneal.sources.values import (
    Counted,
    Evidence,
    InstalledReader,
    JsonlReader,
    Manifest,
    ParquetReader,
)

ROWS = [
    {"text": "one", "lic": "MIT", "lang": "en", "meta": {"swhid": "swh:1:cnt:1", "from": "a/b"}},
    {"text": "two", "lic": None, "lang": "ar", "meta": {"swhid": None, "from": "a/c"}},
    {"text": "three", "lic": " GPL-3.0-only ", "lang": None, "meta": {"swhid": "x", "from": None}},
]
FIELDS = {
    "licence": "lic",
    "language": "lang",
    "identifier": "meta.swhid",
    "origin": "meta.from",
}


def test_rows_state_licence_language_identifier_and_origin(tmp_path):
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "in.parquet")
    for reader in (
        JsonlReader(path="in.jsonl", **FIELDS),
        ParquetReader(path="in.parquet", **FIELDS),
    ):
        found = list(documents(reader, base=tmp_path, prepared={}))
        assert [(d.licence, d.language, d.identifier, d.origin) for d in found] == [
            ("MIT", "en", "swh:1:cnt:1", "a/b"),
            ("", "ar", "", "a/c"),
            ("GPL-3.0-only", "", "x", ""),
        ]


def test_all_licences_of_a_list_hold(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "t", "lic": ["MIT", "GPL-2.0"]}\n')
    (found,) = documents(JsonlReader(path="in.jsonl", licence="lic"), base=tmp_path, prepared={})
    assert found.licence == "MIT AND GPL-2.0"


def test_installed_code_is_python_and_prose_is_not():
    def first(**reader) -> Document:
        return next(documents(InstalledReader(**reader), base=None, prepared={}))  # type: ignore[arg-type]

    assert first(what="packages", packages=("jinja2",)).language == "Python"
    assert first(what="prose", packages=("jinja2",)).language == ""


def test_written_documents_keep_what_they_state_and_older_files_are_read(tmp_path):
    given = [
        Document("a", "text", "g", "o", licence="MIT", language="C", identifier="swh:1:cnt:0"),
        Document("b", "text", "g", "o", language="C"),
        Document("c", "text", "", ""),
    ]
    write_documents(tmp_path / DOCUMENTS_FILE, given)
    assert list(read_documents(tmp_path)) == given
    older = b'{"id": "c", "text": "text", "group": "", "origin": ""}\n'
    (tmp_path / DOCUMENTS_FILE).write_bytes(zstandard.compress(older))
    assert list(read_documents(tmp_path)) == given[2:]


def test_a_census_counts_documents_and_bytes():
    given = [
        Document("1", "é", "", "x.jsonl:1", licence="MIT", language="fr", identifier="i"),
        Document("2", "abc", "", "x.jsonl:2", licence="MIT"),
        Document("3", "abcd", "", ""),
    ]
    census = Census()
    assert list(census.of(given)) == given
    assert census.evidence == Evidence(
        licences={
            "MIT": Counted(documents=2, bytes=5),
            "not stated": Counted(documents=1, bytes=4),
        },
        languages={
            "fr": Counted(documents=1, bytes=2),
            "not stated": Counted(documents=2, bytes=7),
        },
        origins={
            "x.jsonl": Counted(documents=2, bytes=5),
            "not stated": Counted(documents=1, bytes=4),
        },
        identified=1,
    )


@pytest.mark.parametrize(
    ("origins", "named"),
    [
        ([f"x.jsonl:{i}" for i in range(500)], {"x.jsonl": 500}),
        ([f"{i % 3}/sub/{i}.txt" for i in range(500)], {"0/sub": 167, "1/sub": 167, "2/sub": 166}),
        (
            [f"github:me/tool{i % 4}@abc:src/{i}/f.py#{i}" for i in range(200)],
            {f"github:me/tool{i}@abc:src": 50 for i in range(4)},
        ),
    ],
)
def test_origins_are_cut_short_until_they_are_few(origins, named):
    census = Census()
    list(census.of(Document(str(i), "text", "", origin) for i, origin in enumerate(origins)))
    assert {name: c.documents for name, c in census.evidence.origins.items()} == named


def test_counts_stay_small_and_complete_where_nothing_is_alike():
    census = Census()
    given = (Document(str(i), "text", "", f"o{i}", licence=f"l{i}") for i in range(1000))
    list(census.of(given))
    for counts in (census.evidence.licences, census.evidence.origins):
        assert len(counts) == MOST + 1
        assert sum(c.documents for c in counts.values()) == 1000
        assert sum(c.bytes for c in counts.values()) == 4000


@pytest.mark.parametrize(
    ("licence", "names", "answer"),
    [
        ("MIT", ("GPL-3.0-only",), False),
        ("gpl-3.0-only", ("GPL-3.0-only",), True),
        ("GPL-3.0-or-later", ("GPL-3.0*",), True),
        ("LGPL-3.0-only", ("GPL-3.0*",), False),
        ("CC-BY-NC-4.0", ("CC-BY-NC*", "unknown"), True),
        ("MIT OR GPL-3.0-only", ("GPL*",), False),
        ("GPL-2.0 or GPL-3.0-only", ("GPL*",), True),
        ("MIT AND GPL-3.0-only", ("GPL*",), True),
        ("MIT AND Zlib OR GPL-3.0-only", ("GPL*",), False),
        ("(MIT OR Zlib) AND GPL-3.0-only", ("GPL*",), True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", ("GPL*",), True),
        ("PSF-2.0 and the packages' own", ("the packages' own",), True),
        ("", ("*",), False),
        ("MIT", (), False),
    ],
)
def test_what_a_list_of_licences_forbids(licence, names, answer):
    assert forbidden(licence, names) is answer


def test_forbidden_documents_are_dropped_and_counted():
    dropped: Counter[str] = Counter()
    stream = [
        Document(str(i), "t", "", "", licence=("MIT", "GPL-3.0", "")[i % 3]) for i in range(9)
    ]
    kept = list(permitted(stream, ("GPL*",), dropped))
    assert {d.licence for d in kept} == {"MIT", ""}
    assert dropped == {"forbidden licence": 3}


def test_a_manifest_without_evidence_is_still_read():
    older = {
        "name": "a",
        "kind": "general",
        "documents_address": "d",
        "tokenizer": "t",
        "vocabulary": 300,
        "dtype": "uint16",
        "tokens": 1,
        "bytes": 1,
        "documents": 1,
        "shards": [{"file": "0.bin", "tokens": 1, "sha256": "s"}],
        "content": "c",
    }
    assert Manifest.model_validate(older).evidence == Evidence()


def test_a_real_corpus_states_its_licences_and_repositories(shared):
    reader = JsonlReader(
        path=str(shared / "corpora" / "target_math_other" / "data.jsonl.zst"),
        id="id",
        licence="licence",
        origin="provenance",
    )
    census = Census()
    count = sum(1 for _ in census.of(documents(reader, base=shared, prepared={})))
    licences = {name: c.documents for name, c in census.evidence.licences.items()}
    assert set(licences) == {"Apache-2.0", "MIT"}
    assert sum(licences.values()) == count
    # `github:owner/name@commit:file#row`, cut where there are few
    assert all(name.startswith("github:") for name in census.evidence.origins)
    assert {name.partition("@")[0] for name in census.evidence.origins} == {
        "github:google-deepmind/AQuA",
        "github:arkilpatel/SVAMP",
    }
