"""Repositories: code as it lies in git checkouts, with what each file says of itself.

Files of one repository belong together. They share functions and style, so a split must not part
them, and read in one piece they teach how a project hangs together (grouping by language and then
by repository is worth 3 to 7 points of pass@1: Arctic-SnowCoder, arXiv 2409.02326, table 3).

Three facts follow each file. Its language, by extension: a compact table of the common ones; what
is not in it is data, build output or rare, and is left out. Its licence, where it carries an SPDX
tag (spdx.dev, `SPDX-License-Identifier`). And its SWHID (ISO/IEC 18670), which is the hash that git
has for its content: anyone can look it up in the Software Heritage archive.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from anneal.errors import SourceError
from anneal.sources.remote import RemoteFile, below
from anneal.sources.values import RepositoriesReader

_EXTENSIONS = {
    "Assembly": "asm s",
    "C": "c h",  # headers of C++ as well: nothing in the name tells them apart
    "C#": "cs",
    "C++": "cc cpp cxx hh hpp hxx",
    "CSS": "css scss sass less",
    "Clojure": "clj cljs cljc",
    "CUDA": "cu cuh",
    "D": "d",
    "Dart": "dart",
    "Elixir": "ex exs",
    "Elm": "elm",
    "Erlang": "erl hrl",
    "F#": "fs fsi fsx",
    "Fortran": "f f77 f90 f95 f03 f08 for",
    "Go": "go",
    "Groovy": "groovy gradle",
    "HTML": "html htm xhtml",
    "Haskell": "hs lhs",
    "Java": "java",
    "JavaScript": "js jsx mjs cjs",
    "Julia": "jl",
    "Kotlin": "kt kts",
    "Lean": "lean",
    "Lisp": "lisp el cl scm rkt",
    "Lua": "lua",
    "Markdown": "md markdown",
    "Nim": "nim",
    "OCaml": "ml mli",
    "PHP": "php",
    "Pascal": "pas pp",
    "Perl": "pl pm",
    "PowerShell": "ps1 psm1",
    "Protocol Buffers": "proto",
    "Python": "py pyi pyx",
    "R": "r",
    "Ruby": "rb rake",
    "Rust": "rs",
    "SQL": "sql",
    "Scala": "scala sc",
    "Shell": "sh bash zsh fish",
    "Solidity": "sol",
    "Swift": "swift",
    "Tcl": "tcl",
    "TeX": "tex sty cls",
    "Terraform": "tf",
    "TypeScript": "ts tsx mts cts",
    "VHDL": "vhd vhdl",
    "Verilog": "v sv svh",
    "Vue": "vue",
    "YAML": "yaml yml",
    "Zig": "zig",
    "reStructuredText": "rst",
}
LANGUAGES = {f".{end}": name for name, ends in _EXTENSIONS.items() for end in ends.split()}
"""Language by extension in lower case. Left out on purpose: .m (Objective-C, MATLAB and others),
and what is mostly data (.json, .csv, .xml, .svg, .ipynb)."""
NAMES = {"Dockerfile": "Dockerfile", "Makefile": "Makefile", "CMakeLists.txt": "CMake"}
"""Language by the whole name of files without a telling extension."""

VENDORED = frozenset(
    (
        *("node_modules", "bower_components", "vendor", "third_party", "third-party", "thirdparty"),
        *("site-packages", "__pycache__", "dist", "build"),
    )
)
"""Folders of other people's code, or of what was built."""

_NAME = r"\(*[A-Za-z0-9][\w.+-]*\)*"
_SPDX = re.compile(
    rf"SPDX-License-Identifier:[ \t]*({_NAME}(?:[ \t]+(?:AND|OR|WITH)[ \t]+{_NAME})*)"
)
_SPDX_CHARACTERS = 2000
"""How far from the start the tag is looked for: it belongs into the first lines."""

Found = tuple[RemoteFile, int, str]
"""(where, nanoseconds of its last change or 0, repository)."""


def code_files(reader: RepositoriesReader, root: Path | str, dropped: Counter[str]) -> list[Found]:
    """The files of every repository below `root`, repository by repository, sorted by name.

    Args:
        reader: what to take.
        root: a folder here, or a URL.
        dropped: counts what is left out: files, or whole folders, which are not looked into.
    """
    if unknown := set(reader.languages) - {*LANGUAGES.values(), *NAMES.values()}:
        raise SourceError(
            f"reader `repositories`: no language `{min(unknown)}`",
            hint=f"it knows {', '.join(sorted({*LANGUAGES.values(), *NAMES.values()}))}",
        )
    found = _here(root, reader.depth, dropped) if isinstance(root, Path) else None
    kept = []
    for file, changed, repository in found or _there(str(root), reader.depth, dropped):
        language = language_of(file.name)
        if not repository:
            dropped["outside a repository"] += 1
        elif not language:
            dropped["unknown extension"] += 1
        elif reader.languages and language not in reader.languages:
            dropped["another language"] += 1
        elif any(fnmatchcase(file.name, pattern) for pattern in reader.exclude):
            dropped["excluded"] += 1
        elif file.size > reader.max_bytes:
            dropped["larger than max_bytes"] += 1
        else:
            kept.append((file, changed, repository))
    return sorted(kept, key=lambda found: (found[2], found[0].name))


def language_of(name: str) -> str:
    """The language of a file by its name; empty where unknown."""
    last = name.rpartition("/")[2]
    return NAMES.get(last) or LANGUAGES.get(os.path.splitext(last)[1].lower(), "")


def licence_of(text: str) -> str:
    """The SPDX expression that a file says it is under; empty where it says nothing."""
    found = _SPDX.search(text, 0, _SPDX_CHARACTERS)
    return found[1] if found else ""


def swhid(data: bytes) -> str:
    """The SoftWare Hash IDentifier of a file's content: git's own hash of it."""
    digest = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
    digest.update(data)
    return f"swh:1:cnt:{digest.hexdigest()}"


def _ignored(name: str, level: int, depth: int, *, folder: bool) -> str:
    """Why a file or folder is not looked at; empty where it is."""
    if name == ".git":
        return "version control"
    if name.startswith("."):
        return "hidden"
    if folder and level >= depth and name.lower() in VENDORED:  # above, it names a repository
        return "vendored folder"
    return ""


def _here(root: Path, depth: int, dropped: Counter[str]) -> Iterator[Found]:
    """Files below a folder of this machine, with the repository each is in."""
    pending = [("", str(root), "")]
    while pending:
        relative, folder, repository = pending.pop()
        with os.scandir(folder) as entries:
            inside = list(entries)
        if any(entry.name == ".git" for entry in inside):
            repository = relative or "."
        for entry in inside:
            name = f"{relative}/{entry.name}" if relative else entry.name
            level = name.count("/")
            is_folder = entry.is_dir(follow_symlinks=False)
            if reason := _ignored(entry.name, level, depth, folder=is_folder):
                dropped[reason] += 1
            elif entry.is_symlink():
                dropped["symbolic link"] += 1
            elif is_folder:
                named = name if level == depth - 1 else ""
                pending.append((name, entry.path, repository or named))
            elif entry.is_file():
                status = entry.stat()
                file = RemoteFile(entry.path, name, status.st_size, "")
                yield file, status.st_mtime_ns, repository


def _there(url: str, depth: int, dropped: Counter[str]) -> Iterator[Found]:
    """Files below a URL, with the repository each is in."""
    files = below(url, "**/*")
    checkouts = set()
    for file in files:
        folder, git, _ = f"/{file.name}/".partition("/.git/")
        if git:
            checkouts.add(folder[1:] or ".")
    ignored: set[tuple[str, str]] = set()
    for file in files:
        parts = file.name.split("/")
        above = ["/".join(parts[:level]) or "." for level in range(len(parts))]
        for level, part in enumerate(parts):
            if reason := _ignored(part, level, depth, folder=level < len(parts) - 1):
                ignored.add((reason, "/".join(parts[: level + 1])))
                break
        else:
            # the innermost checkout, as below a folder of this machine
            named = above[depth] if depth < len(above) else ""
            inside = [folder for folder in above if folder in checkouts]
            yield file, 0, inside[-1] if inside else named
    dropped.update(reason for reason, _ in ignored)
