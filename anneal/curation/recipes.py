"""Recipes: what a teacher is asked, as Jinja templates.

A template is given `seed`, the seed document with its text cut to a stretch (`seed.text`,
`seed.origin`, `seed.group` and the other fields of a document), and the variables of the step. It
runs in Jinja's sandbox, with no way to other files. What could go wrong is found before anything
is paid for: a name that nobody gave, a variable that the template never looks at, a style that it
does not know (`refuse(message)` in a template). The text of the template, not its name, is what a
source is identified by.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anneal.errors import SourceError
from anneal.sources.documents import Document

BYTES_OF_A_TOKEN = 4
"""Assumed of seed text, so that a prompt does not depend on who serves the teacher (English is
near 4.5, code near 3.5, scripts of three bytes a character near 4)."""


class Recipe:
    """One template with its variables, read and tried.

    Args:
        name: of a template in `conf/recipe/`, or a path to one (with `/` or `.j2`).
        variables: given to the template by name.
        base: folder that a path starts from (of the sweep file).

    Raises:
        SourceError: no such template, a mistake in it, or variables that do not fit it.
    """

    def __init__(self, name: str, variables: Mapping[str, str], base: Path) -> None:
        from jinja2 import StrictUndefined, TemplateSyntaxError, meta
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self.name = name
        self.variables = dict(variables)
        self.text = _read(name, base)
        environment = ImmutableSandboxedEnvironment(
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,  # a prompt is no HTML
        )
        environment.globals["refuse"] = _refuse
        try:
            names = meta.find_undeclared_variables(environment.parse(self.text))
            self._template = environment.from_string(self.text)
        except TemplateSyntaxError as error:
            raise SourceError(
                f"recipe `{name}`, line {error.lineno}: {error.message}",
                hint="correct the template; it is Jinja",
            ) from None
        self._check(names - {"refuse"})

    @property
    def address(self) -> str:
        """Of the template's text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:20]

    def prompt(self, seed: Document) -> str:
        """What the teacher is asked about `seed`, whose text is shown whole.

        Raises:
            SourceError: the template fails, or refuses.
        """
        try:
            return self._template.render(seed=asdict(seed), **self.variables).strip()
        except Exception as error:  # a template can fail as any program can
            raise SourceError(
                f"recipe `{self.name}`: {str(error) or type(error).__name__}",
                hint=f"variables given: {', '.join(sorted(self.variables)) or 'none'};"
                " set the step's `variables`, or correct the template",
            ) from None

    def _check(self, names: set[str]) -> None:
        if "seed" not in names:
            raise SourceError(
                f"recipe `{self.name}`: it never shows the seed", hint="use {{ seed.text }} in it"
            )
        if "seed" in self.variables:
            raise SourceError(
                f"recipe `{self.name}`: variable `seed` is the seed document itself",
                hint="give the variable another name",
            )
        for given in self.variables:
            if given not in names:
                near = difflib.get_close_matches(given, names, n=1)
                known = ", ".join(sorted(names - {"seed"})) or "none"
                raise SourceError(
                    f"recipe `{self.name}`: it does not use the variable `{given}`",
                    hint=f"did you mean `{near[0]}`?" if near else f"it uses: {known}",
                )
        self.prompt(Document("id", "text", "group", "origin"))


def stretch(text: str, tokens: int, key: bytes) -> str:
    """`text`, or where it is longer than `tokens` a stretch of whole lines of it, drawn by `key`.

    A token is taken as `BYTES_OF_A_TOKEN` bytes. Where even one line is too long, it is cut.
    """
    limit = tokens * BYTES_OF_A_TOKEN
    if len(text.encode()) <= limit:
        return text
    lines = text.splitlines(keepends=True)
    sizes = [len(line.encode()) for line in lines]
    # the latest start is the one whose stretch ends with the text
    last, behind = len(lines) - 1, sizes[-1]
    while behind + sizes[last - 1] <= limit:
        last -= 1
        behind += sizes[last]
    first = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") % (last + 1)
    taken, size = first, 0
    while taken < len(lines) and size + sizes[taken] <= limit:
        size += sizes[taken]
        taken += 1
    if taken > first:
        return "".join(lines[first:taken])
    return lines[first].encode()[:limit].decode(errors="ignore")


def _read(name: str, base: Path) -> str:
    own = "/" in name or name.endswith(".j2")
    path = base / Path(name).expanduser() if own else _folder() / f"{name}.j2"
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in _folder().glob("*.j2")))
        hint = f"paths start from {base}" if own else f"conf/recipe/ has {known}"
        raise SourceError(f"recipe `{name}`: no such template ({path})", hint=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"recipe {path}: cannot be read ({error})", hint="give a UTF-8 text file"
        ) from None


def _folder() -> Path:
    """`conf/recipe`: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf" / "recipe"
    return inside if inside.is_dir() else package.parent / "conf" / "recipe"


def _refuse(message: Any) -> str:
    raise ValueError(str(message))
