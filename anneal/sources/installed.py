"""Text that every machine with this project has: the interpreter and its installed packages.

Three supplies come out of one Python environment, and they differ as real data sources do. The
standard library is small, edited code of one style. The packages are large, uneven code. Their
documentation (the language reference, READMEs, docstrings) is English prose about code. So a sweep
can be run on real text with no download at all.

What is installed differs between machines; nothing here depends on where. Names are relative to
the environment's root, the order is the order of names, and subsets are drawn by hash of the name.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import os
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from anneal.errors import SourceError
from anneal.sources.files import InputFile, entry, seeded_order
from anneal.sources.values import InstalledReader

NOT_MODULES = frozenset(
    (
        *("site-packages", "dist-packages", "lib-dynload", "encodings", "idlelib", "lib2to3"),
        *("distutils", "turtledemo", "ensurepip", "pydoc_data", "__phello__"),
        *("__hello__.py", "this.py", "antigravity.py"),
    )
)
"""Top-level names of the standard library that are data, applications or jokes, not its code."""

TEST_FOLDERS = frozenset(("test", "tests", "testing", "_tests", "__pycache__", "idle_test"))

DISTRIBUTIONS = {
    "sklearn": "scikit_learn",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "hydra": "hydra_core",
}
"""Import names whose distribution is called otherwise (for READMEs)."""


def installed_files(reader: InstalledReader, dropped: Counter[str]) -> list[InputFile]:
    """Files behind an installed reader, sorted by name; what is left out is counted in `dropped`.

    Raises:
        SourceError: when a named package is not installed, or none is named where some are needed.
    """
    if reader.what != "stdlib" and not reader.packages:
        raise SourceError(
            f"reader `installed`, {reader.what}: no package named", hint="list some in `packages`"
        )
    if reader.what == "stdlib":
        files = _code(_stdlib(), "", reader.max_bytes, dropped, skip=NOT_MODULES)
    else:
        files = []
        for package in sorted(reader.packages):
            root = _package(package)
            if root.is_file():
                files.append(entry(root, root.name, package))
            else:
                files += _code(root, package, reader.max_bytes, dropped)
    if reader.what == "prose":
        return sorted(files + _documentation(reader.packages), key=lambda file: file.name)
    files.sort(key=lambda file: file.name)
    return _subset(files, reader.max_total_bytes, dropped)


def code(
    files: list[InputFile], dropped: Counter[str], *, parsed: bool
) -> Iterator[tuple[InputFile, str]]:
    """Text of every Python file; what is not UTF-8, or if asked does not parse, is counted."""
    for file in files:
        text = _python(Path(file.path))
        if text is None:
            dropped["not UTF-8"] += 1
        elif parsed and not _parses(text):
            dropped["not parseable"] += 1
        elif text.strip():
            yield file, text


def prose(
    files: list[InputFile], max_total_bytes: int | None, dropped: Counter[str]
) -> Iterator[tuple[str, str, str]]:
    """English prose as (name, text, group): reference topics, READMEs, paragraphs of docstrings.

    Files come in an order drawn by hash of their name, and the text stops after about
    `max_total_bytes`: a subset of everything rather than the first packages in the alphabet.
    """
    total = 0
    for file in sorted(files, key=lambda file: (file.group != "topics", seeded_order(file.name))):
        text = Path(file.path).read_text(encoding="utf-8", errors="replace")
        if file.group == "topics":
            pieces = [(f"{file.name}#{k}", v, f"topics/{k}") for k, v in _topics(text)]
        elif file.name.endswith("METADATA"):
            pieces = [(file.name, "\n\n".join(paragraphs(_description(text))), file.group)]
        else:
            kept = (p for docstring in docstrings(text) for p in paragraphs(docstring))
            # overloads and subclasses repeat paragraphs word for word within a file
            pieces = [(file.name, "\n\n".join(dict.fromkeys(kept)), file.group)]
        for name, piece, group in pieces:
            if len(piece) < 200:  # a title or one line: nothing to learn from
                dropped["little prose"] += 1
                continue
            yield name, piece + "\n", group
            total += len(piece)
            if max_total_bytes is not None and total >= max_total_bytes:
                return


def docstrings(text: str) -> Iterator[str]:
    """Docstrings of a module's text, dedented, by pattern: 20 times faster than parsing it."""
    for match in _DOCSTRING.finditer(text):
        lines = match["text"].expandtabs().split("\n")
        rest = [line for line in lines[1:] if line.strip()]
        margin = min((len(line) - len(line.lstrip()) for line in rest), default=0)
        yield "\n".join([lines[0].strip()] + [line[margin:].rstrip() for line in lines[1:]])


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of `text` that are English sentences: no code, tables, lists or markup.

    A paragraph ends at an empty line or where the indentation changes, so the description below
    a parameter's name is a paragraph of its own.
    """
    for block in _blocks(text):
        words = block.split(None, 6)
        if len(words) < 7 or not block[0].isupper() or block[-1] not in ".:!?":
            continue
        letters = sum(map(str.isalpha, block)) + block.count(" ") + block.count("\n")
        if letters > 0.88 * len(block) and not _NOT_PROSE.search(block):
            yield block


def _blocks(text: str) -> Iterator[str]:
    block: list[str] = []
    margin = 0
    for line in text.split("\n"):
        bare = line.lstrip()
        indent = len(line) - len(bare)
        if block and (not bare or indent != margin):
            yield "\n".join(block)
            block = []
        if bare:
            block.append(bare)
            margin = indent
    if block:
        yield "\n".join(block)


_DOCSTRING = re.compile(
    # at the start of the file behind comments, or on the line after one that ends in a colon
    r"(?:\A(?:\s*\#[^\n]*\n|\s)*|:[ \t]*(?:\#[^\n]*)?\n\s*)"
    r'[rRuU]?(?P<q>"""|\'\'\')(?P<text>.*?)(?P=q)',
    re.DOTALL,
)
_NOT_PROSE = re.compile(
    r">>>|\.\. |^:\w|^[-=~^*#+|]{2,}|^[-*+] |^\d+[.)] |```|\$|[\\{}<>|]|\w=\w|https?:"
    r"|copyright|licen[cs]e|warrant|redistribut|^\w+ (?:\(.*\))?:|^(?:Raises|Returns|Args)\b.*:$",
    re.MULTILINE | re.IGNORECASE,
)
"""Markup, tables, lists, code; and licences, the same in every file."""


def _stdlib() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _package(name: str) -> Path:
    """Folder or file of an installed top-level package, without importing it."""
    spec = importlib.machinery.PathFinder.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise SourceError(
            f"reader `installed`: package `{name}` is not installed",
            hint="install it, or take it out of `packages`",
        )
    origin = Path(spec.origin)
    return origin.parent if spec.submodule_search_locations else origin


def _code(
    root: Path,
    prefix: str,
    max_bytes: int,
    dropped: Counter[str],
    *,
    skip: frozenset[str] = frozenset(),
) -> list[InputFile]:
    """Python files below `root` without tests; names are relative to the folder above packages."""
    files = []
    pending = [(str(root), prefix)]
    while pending:
        folder, relative = pending.pop()
        top = relative == prefix
        for found in os.scandir(folder):
            name = found.name
            if top and name in skip:
                continue
            path = f"{relative}/{name}" if relative else name
            if not name.endswith(".py"):
                if name.isidentifier() and name not in TEST_FOLDERS and found.is_dir():
                    pending.append((found.path, path))
                continue
            if name.startswith(("test_", "_sysconfigdata", "conftest")):
                continue
            status = found.stat()
            if status.st_size > max_bytes:
                dropped["larger than max_bytes"] += 1
            elif status.st_size:
                # standard library: the top-level module; packages: package and sub-package
                parts = path.removesuffix(".py").split("/")
                group = "/".join(parts[: 2 if prefix else 1])
                files.append(InputFile(found.path, path, group, status.st_size, status.st_mtime_ns))
    return files


def _documentation(packages: tuple[str, ...]) -> list[InputFile]:
    """The language reference of `pydoc`, and the descriptions that the packages ship."""
    found = []
    topics = _stdlib() / "pydoc_data" / "topics.py"
    if topics.exists():
        found.append(entry(topics, "pydoc_data/topics.py", "topics"))
    for package in sorted(packages):
        site = _package(package).parent
        name = DISTRIBUTIONS.get(package, package)
        for path in sorted(site.glob(f"{name}-*.dist-info/METADATA")):
            found.append(entry(path, f"{name}/METADATA", name))
    return found


def _subset(
    files: list[InputFile], max_total_bytes: int | None, dropped: Counter[str]
) -> list[InputFile]:
    if max_total_bytes is None or sum(file.size for file in files) <= max_total_bytes:
        return files
    kept, total = [], 0
    for file in sorted(files, key=lambda file: seeded_order(file.name)):
        if total >= max_total_bytes:
            break
        kept.append(file)
        total += file.size
    dropped["beyond max_total_bytes"] += len(files) - len(kept)
    return sorted(kept, key=lambda file: file.name)


def _python(path: Path) -> str | None:
    """Source text, or None where it is not UTF-8 (a few old modules declare another encoding)."""
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return None


def _parses(text: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's invalid escapes
        try:
            compile(text, "document", "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def _topics(text: str) -> list[tuple[str, str]]:
    """The (key, text) pairs of `topics = {...}`, read as data and never executed."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics = ast.literal_eval(node.value)
            return [(key, topics[key]) for key in sorted(topics)]
    return []


def _description(text: str) -> str:
    """The description of a METADATA file: what follows its headers."""
    return text.partition("\n\n")[2]
