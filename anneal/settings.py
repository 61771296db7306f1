"""Settings: a sweep file and overrides in, one checked `Sweep` value out.

Hydra composes: the user's sweep file, from any folder, is the primary config; `conf/` supplies the
groups it picks from, and folders beside the sweep file can add to them; words like
`budget.seeds=5` override. Pydantic checks. Below this module nobody knows that Hydra exists.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from anneal.errors import SettingsError
from anneal.sweep.values import Sweep

_HERE = Path(__file__).resolve().parent


def folder(name: str) -> Path:
    """`conf` or `sweeps`: inside the package in a wheel, beside it in a checkout."""
    inside = _HERE / name
    return inside if inside.is_dir() else _HERE.parent / name


def load(path: Path | None, overrides: Sequence[str] = ()) -> Sweep:
    """Composes and checks a sweep.

    Args:
        path: the sweep file; None is the embedded demo.
        overrides: Hydra overrides, `key=value`.

    Raises:
        SettingsError: naming the key, what was there, and what could be.
    """
    file = (path or folder("sweeps") / "demo.yaml").absolute()
    if not file.is_file():
        raise SettingsError(
            f"sweep {path}: no such file",
            hint="give a sweep file, or none for the demo; see sweeps/ for examples",
        )
    plain = _compose(file, overrides)
    for group in ("source", "replay", "helper", "target"):
        plain[group] = _named(plain.get(group), group, file)
    asked = plain.get("pretrain")
    if isinstance(asked, dict) and "phases" in asked:
        phases = _named(asked["phases"], "pretrain.phases", file)
        plain["pretrain"] = {**asked, "phases": phases}
    plain.setdefault("name", file.stem)
    plain["folder"] = str(file.parent)
    try:
        return Sweep.model_validate(plain)
    except ValidationError as error:
        raise _explained(error, file, plain) from None


def _compose(file: Path, overrides: Sequence[str]) -> dict[str, Any]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    GlobalHydra.instance().clear()
    try:
        with _alone(file) as place, initialize_config_dir(str(place), version_base="1.3"):
            words = [f"hydra.searchpath=[file://{folder('conf')}]", *map(_override, overrides)]
            config = compose(file.stem, words)
            plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        raise _refused(str(error) or type(error).__name__, file) from None
    finally:
        GlobalHydra.instance().clear()
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _refused(message: str, file: Path) -> SettingsError:
    """Hydra's complaint, with the options there are as the hint."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    what = f"sweep {file}: {lines[0]}"
    option = re.search(r"[Cc]ould not (?:find|load) '(\w+)/([^']+)'", message)
    if option:
        options = sorted(p.stem for p in (folder("conf") / option[1]).glob("*.yaml"))
        near = difflib.get_close_matches(option[2], options, n=3, cutoff=0.5)
        guess = f"did you mean {' or '.join(near)}? " if near else ""
        return SettingsError(what, hint=f"{guess}conf/{option[1]}/ has {', '.join(options)}")
    told = [line for line in lines[1:] if not line.startswith(("Set the env", "Config search"))]
    return SettingsError(
        what, hint="; ".join(told)[:400] or "see conf/ for groups and their options"
    )


@contextmanager
def _alone(file: Path) -> Iterator[Path]:
    """A folder that holds the sweep file and its groups, and nothing else.

    Hydra takes every folder beside the primary config for a group: a `store/` there would turn the
    key `store` into one, and `store=elsewhere` into an error.
    """
    groups = [group for group in folder("conf").iterdir() if group.is_dir()]
    with TemporaryDirectory(prefix="anneal-") as made:
        place = Path(made)
        (place / file.name).symlink_to(file)
        for group in groups:
            beside = file.parent / group.name
            if beside.is_dir() and any(beside.glob("*.yaml")):
                (place / group.name).symlink_to(beside)
        yield place


def _named(group: Any, word: str, file: Path) -> list[dict[str, Any]]:
    """`{name: {...}}` -> `[{name, ...}]`: the key is the name."""
    if group is None:
        return []
    if not isinstance(group, dict) or not all(isinstance(v, dict) for v in group.values()):
        raise SettingsError(
            f"sweep {file}: `{word}` must map names to settings, got {group!r}"[:300],
            hint=f"pick from conf/{word.partition('.')[0]}/ in the defaults, or write "
            f"`{word}: {{NAME: {{...}}}}`",
        )
    return [{"name": str(name), **value} for name, value in group.items()]


def _explained(error: ValidationError, file: Path, plain: dict[str, Any]) -> SettingsError:
    """The first of pydantic's complaints, in our words, with near misses as the hint."""
    problems = error.errors(include_url=False)
    first = problems[0]
    where = ".".join(_words(first["loc"], plain))
    got = repr(first.get("input"))
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        near = difflib.get_close_matches(key, _fields(first["loc"]), n=3, cutoff=0.5)
        what = f"sweep {file}: unknown key `{where}` (got {got[:80]})"
        hint = f"did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else "delete it"
    elif first["type"] == "missing":
        what = f"sweep {file}: `{where}` is missing"
        slip = _alike(first["loc"][:-1], plain)
        hint = f"add it, or did you mean {slip}?" if slip else "add it"
    else:
        what = f"sweep {file}: `{where}`: {first['msg']} (got {got[:80]})"
        hint = "correct the value"
    more = f"; {len(problems) - 1} more problem(s) in this file" if len(problems) > 1 else ""
    return SettingsError(what, hint=hint + more)


def _words(location: tuple[int | str, ...], plain: Any) -> Iterator[str]:
    """A location as it is written: what stands in a list under a name is called by its name."""
    for part in location:
        try:
            plain = plain[part]
        except (KeyError, IndexError, TypeError):  # a tag of a union, or what is missing
            plain = None
        named = isinstance(part, int) and isinstance(plain, dict) and "name" in plain
        yield str(plain["name"] if named else part)


def _alike(location: tuple[int | str, ...], plain: Any) -> str:
    """A name beside the one where something is missing, that it may be a slip of."""
    for part in location:
        if isinstance(part, int) and isinstance(plain, list):
            names = [item.get("name", "") for item in plain if item is not plain[part]]
            near = difflib.get_close_matches(plain[part].get("name", ""), names, n=1, cutoff=0.7)
            return f"`{near[0]}`" if near else ""
        plain = plain.get(part) if isinstance(plain, dict) else None
    return ""


def _fields(location: tuple[int | str, ...]) -> list[str]:
    """Names that could have stood where an unknown key stands."""
    kinds = [Sweep]
    for part in location[:-1]:
        inside = [kind.model_fields[part].annotation for kind in kinds if part in kind.model_fields]
        if inside:  # otherwise an index or the tag of a union: it names no field
            kinds = [model for annotation in inside for model in _models(annotation)]
    return sorted({name for kind in kinds for name in kind.model_fields})


def _models(annotation: Any) -> list[Any]:
    """Pydantic models in a type, wherever they stand in it."""
    if hasattr(annotation, "model_fields"):
        return [annotation]
    return [model for inner in getattr(annotation, "__args__", ()) for model in _models(inner)]


def _override(word: str) -> str:
    """`key=value` sets a key whether the composed file has it or not: pydantic knows the names."""
    key = word.partition("=")[0]
    groups = {group.name for group in folder("conf").iterdir() if group.is_dir()}
    if not key or key[0] in "+~" or "@" in key or key in groups:
        return word
    return f"++{word}"
