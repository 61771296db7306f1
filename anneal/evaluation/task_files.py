"""Task files: lm-eval's YAML, checked so that nothing but data on this disk is read.

A file is a task. Its data are local files (`dataset_path: json` and the like, `dataset_kwargs:
{data_files: ...}`), named relative to the YAML. What would run code (`!function`, `class`,
`unsafe_code`, metrics from a hub) or fetch something is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from anneal.errors import SourceError

DATASETS = ("json", "csv", "parquet", "text")
"""Builders of `datasets` that read plain files."""
CODE = ("class", "unsafe_code", "custom_dataset")
HINT = "see lm-eval's task guide; data must be local files, and code in tasks is never run"


def task_configs(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Configurations of all tasks in `paths` (YAML files, or folders of them), ready for lm-eval.

    Raises:
        SourceError: a file that cannot be used; the message names it.
    """
    configs: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path in _files(paths):
        config = _config(path, ())
        name = config.get("task")
        if not isinstance(name, str) or "group" in config:
            raise SourceError(
                f"task {path}: `task` must be a name; groups are not taken",
                hint="give the files of the tasks themselves",
            )
        if name in configs:
            raise SourceError(
                f"task {path}: `{name}` is in {configs[name][0]} already", hint="rename one of them"
            )
        configs[name] = (path, _checked(config, path))
    return [config for _, config in configs.values()]


def _files(paths: Sequence[Path]) -> Iterable[Path]:
    for path in paths:
        if path.is_dir():
            found = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
            if not found:
                raise SourceError(f"tasks {path}: no .yaml in this folder", hint=HINT)
            # a file that starts with an underscore is there to be included
            yield from (file for file in found if not file.name.startswith("_"))
        elif path.is_file():
            yield path
        else:
            raise SourceError(f"tasks {path}: no such file or folder", hint=HINT)


def _config(path: Path, within: tuple[Path, ...]) -> dict[str, Any]:
    """What a file says, over what the files that it includes say."""
    if path.resolve() in within:
        raise SourceError(f"task {path}: it includes itself", hint=HINT)
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.constructor.ConstructorError as error:
        raise SourceError(f"task {path}: {error.problem}", hint=HINT) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise SourceError(f"task {path}: not YAML ({said})", hint=HINT) from None
    except OSError as error:
        raise SourceError(f"task {path}: {error.strerror}", hint=HINT) from None
    if not isinstance(config, dict):
        raise SourceError(f"task {path}: not a mapping of keys", hint=HINT)
    included = config.pop("include", [])
    merged: dict[str, Any] = {}
    for name in included if isinstance(included, list) else [included]:
        merged |= _config(path.parent / str(name), (*within, path.resolve()))
    return merged | config


def _checked(config: dict[str, Any], path: Path) -> dict[str, Any]:
    name = config["task"]

    def refuse(what: str) -> SourceError:
        return SourceError(f"task `{name}` ({path}): {what}", hint=HINT)

    for key in CODE:
        if config.get(key):
            raise refuse(f"`{key}` would run code")
    for metric in config.get("metric_list") or ():
        if isinstance(metric, dict) and metric.get("hf_evaluate"):
            raise refuse("`hf_evaluate` would fetch a metric")
    if config.get("dataset_path") not in DATASETS:
        raise refuse(
            f"dataset_path {config.get('dataset_path')!r} is not one of {', '.join(DATASETS)}"
        )
    options = config.get("dataset_kwargs")
    if not isinstance(options, dict) or set(options) - {"data_files", "field"}:
        raise refuse("`dataset_kwargs` must have `data_files`, and may have `field`")
    files = options.get("data_files")
    if not files:
        raise refuse("no `data_files`")
    splits = files if isinstance(files, dict) else {"train": files}
    found: dict[str, list[str]] = {}
    for split, names in splits.items():
        found[str(split)] = []
        for one in names if isinstance(names, list) else [names]:
            file = path.parent / str(one)
            if not file.is_file():
                raise refuse(f"data file {one} is not there (looked in {path.parent})")
            found[str(split)].append(str(file.absolute()))
    return config | {"dataset_kwargs": options | {"data_files": found}}
