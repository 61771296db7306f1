"""Repositories: kept together, in a stable order, with language, licence and identifier."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from pathlib import Path

import fsspec
import pytest

from anneal.errors import SourceError
from anneal.sources.documents import Document, documents
from anneal.sources.files import fingerprint
from anneal.sources.repositories import LANGUAGES, language_of, licence_of, swhid
from anneal.sources.values import RepositoriesReader
from anneal.store import Store

FILES = {
    "flask/.git/HEAD": "ref: refs/heads/main\n",
    "flask/.git/config": "[core]\n",
    "flask/.github/lint.yml": "on: push\n",
    "flask/.gitignore": "*.pyc\n",
    "flask/app.py": "# SPDX-License-Identifier: BSD-3-Clause\nprint('app')\n",
    "flask/src/util.c": "/* SPDX-License-Identifier: MIT OR Apache-2.0 */\nint x;\n",
    "flask/src/util.h": "int x;\n",
    "flask/build/made.py": "made = 1\n",
    "flask/web/node_modules/left-pad/index.js": "pad()\n",
    "flask/third_party/zlib/zlib.c": "int z;\n",
    "flask/data.bin": "data",
    "flask/Makefile": "all:\n",
    "flask-extra/one.rs": "fn main() {}\n",
    "flask-extra/big.rs": "// " + "x" * 400,
    "build/kept.go": "package kept\n",
    "loose.py": "print('in no repository')\n",
}


def plant(root: Path, files: dict[str, str] = FILES) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def read(base: Path, **given) -> tuple[list[Document], Counter[str]]:
    dropped: Counter[str] = Counter()
    reader = RepositoriesReader(**{"path": "code", "max_bytes": 300, **given})
    return list(documents(reader, base=base, prepared={}, dropped=dropped)), dropped


def test_files_of_a_repository_stand_together_and_the_rest_is_counted(tmp_path):
    plant(tmp_path / "code")
    found, dropped = read(tmp_path)
    assert [(d.group, d.id, d.language) for d in found] == [
        ("build", "build/kept.go", "Go"),
        ("flask", "flask/Makefile", "Makefile"),
        ("flask", "flask/app.py", "Python"),
        ("flask", "flask/src/util.c", "C"),
        ("flask", "flask/src/util.h", "C"),
        ("flask-extra", "flask-extra/one.rs", "Rust"),
    ]
    assert dropped == {
        "version control": 1,
        "hidden": 2,
        "vendored folder": 3,
        "unknown extension": 1,
        "larger than max_bytes": 1,
        "outside a repository": 1,
    }
    licences = {d.id: d.licence for d in found}
    assert licences["flask/app.py"] == "BSD-3-Clause"
    assert licences["flask/src/util.c"] == "MIT OR Apache-2.0"
    assert licences["flask/src/util.h"] == ""


def test_only_the_languages_and_files_that_are_asked_for(tmp_path):
    plant(tmp_path / "code")
    found, dropped = read(tmp_path, languages=("Python", "C"), exclude=("*/src/*.h",))
    assert [d.id for d in found] == ["flask/app.py", "flask/src/util.c"]
    assert dropped["another language"] == 4
    assert dropped["excluded"] == 1
    with pytest.raises(SourceError, match="no language `Pyton`") as caught:
        read(tmp_path, languages=("Pyton",))
    assert "Python" in caught.value.hint


def test_the_identifier_is_what_git_calls_the_file(tmp_path):
    assert swhid(b"") == "swh:1:cnt:e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # as everyone knows
    plant(tmp_path / "code")
    found, _ = read(tmp_path)
    if git := shutil.which("git"):
        path = tmp_path / "code" / "flask" / "app.py"
        said = subprocess.run([git, "hash-object", path], capture_output=True, check=True).stdout
        identifiers = {d.id: d.identifier for d in found}
        assert identifiers["flask/app.py"] == f"swh:1:cnt:{said.decode().strip()}"


def test_a_checkout_anywhere_is_a_repository_and_names_count_elsewhere(tmp_path):
    plant(
        tmp_path / "code",
        {
            "me/tool/a.py": "a",
            "me/other/b.py": "b",
            "you/deep/down/.git": "gitdir: elsewhere\n",
            "you/deep/down/c.py": "c",
            "you/d.py": "d",
        },
    )
    found, dropped = read(tmp_path, depth=2)
    assert [(d.group, d.id) for d in found] == [
        ("me/other", "me/other/b.py"),
        ("me/tool", "me/tool/a.py"),
        ("you/deep/down", "you/deep/down/c.py"),
    ]
    assert dropped["outside a repository"] == 1
    (tmp_path / "code" / ".git").mkdir()  # then all of it is one, apart from the one inside
    found, _ = read(tmp_path, depth=2)
    assert {d.group for d in found} == {".", "you/deep/down"}


def test_binary_and_foreign_files_are_counted(tmp_path):
    plant(tmp_path / "code")
    (tmp_path / "code" / "flask" / "latin.py").write_bytes("# caf\xe9\n".encode("latin-1"))
    (tmp_path / "code" / "flask" / "object.s").write_bytes(b"\x7fELF\0\0")
    (tmp_path / "code" / "flask" / "link.py").symlink_to("app.py")
    found, dropped = read(tmp_path)
    assert len(found) == 6
    assert (dropped["not UTF-8"], dropped["binary"], dropped["symbolic link"]) == (1, 1, 1)


def test_a_store_gives_the_same_documents_as_a_folder(tmp_path):
    plant(tmp_path / "code")
    memory = fsspec.filesystem("memory")
    for name, text in FILES.items():
        memory.pipe(f"/code-{tmp_path.name}/{name}", text.encode())
    found, dropped = read(tmp_path)
    there, dropped_there = read(tmp_path, path=f"memory://code-{tmp_path.name}")
    assert there == found
    assert dropped_there == dropped
    folder = RepositoriesReader(path="code")
    url = RepositoriesReader(path=f"memory://code-{tmp_path.name}")
    store = Store(tmp_path / "store")
    before = fingerprint(folder, base=tmp_path, store=store)
    assert fingerprint(url, base=tmp_path, store=store) == before
    (tmp_path / "code" / "flask" / "src" / ".git").mkdir()  # another group: another content
    assert fingerprint(folder, base=tmp_path, store=store) != before


def test_a_folder_without_code_is_an_error(tmp_path):
    plant(tmp_path / "code", {"a/b.bin": "b"})
    with pytest.raises(SourceError, match=r"no file to read \(1 left out\)"):
        read(tmp_path)
    with pytest.raises(SourceError, match="not a folder"):
        read(tmp_path, path="code/a/b.bin")


def test_language_and_licence_by_the_common_rules():
    assert language_of("a/b/X.PY") == "Python"
    assert language_of("a/Dockerfile") == "Dockerfile"
    assert language_of("a/py") == language_of("a/.py") == language_of("b.m") == ""
    assert len(set(LANGUAGES.values())) > 40
    assert licence_of("<!-- SPDX-License-Identifier: CC-BY-4.0 -->") == "CC-BY-4.0"
    assert licence_of(r'"SPDX-License-Identifier: MIT\nprint()"') == "MIT"
    assert licence_of("// SPDX-License-Identifier: (MIT AND Zlib)\r\n") == "(MIT AND Zlib)"
    assert licence_of("no tag") == licence_of(" " * 3000 + "SPDX-License-Identifier: MIT") == ""
