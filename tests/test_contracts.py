"""Contracts of the house: imports, configs, the README, types and style."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from anneal import settings
from anneal.__main__ import _parser
from anneal.errors import SettingsError
from tests.conftest import REPOSITORY

HEAVY = ("torch", "transformers", "deepspeed", "vllm", "wandb", "ray", "optuna")


def run(*words: str, **more) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*words], cwd=REPOSITORY, capture_output=True, text=True, check=False, **more
    )


def test_imports_run_downwards():
    done = run(str(Path(sys.executable).parent / "lint-imports"), "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("tool", [("ruff", "check", "."), ("ruff", "format", "--check", ".")])
def test_style(tool):
    done = run(str(Path(sys.executable).parent / tool[0]), *tool[1:])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.integration
def test_types():
    done = run(sys.executable, "-m", "mypy")
    assert done.returncode == 0, done.stdout + done.stderr


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted((REPOSITORY / "anneal").rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        found[".".join(parts)] = path
    return found


def test_only_training_curation_and_evaluation_import_torch_and_the_like():
    for name, path in modules().items():
        if name.startswith(("anneal.training", "anneal.curation", "anneal.evaluation")):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for found in names:
                assert found.split(".")[0] not in HEAVY[:4], f"{name} imports {found}"


@pytest.mark.integration
@pytest.mark.parametrize("verb", ["--help", "plan", "status", "pretrain --dry-run"])
def test_first_words_never_load_heavy_libraries(verb, tmp_path):
    """torch and the like stay out of the planner's process, by whatever way they might come in."""
    script = (
        "import sys\n"
        "from anneal.__main__ import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit:\n"
        "    pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\n"
    )
    words = [verb] if verb == "--help" else [*verb.split(), f"store={tmp_path}/store"]
    done = run(sys.executable, "-c", script, *words)
    assert done.stderr.splitlines()[-1] == "[]", done.stderr


def test_a_training_worker_needs_torch_transformers_pydantic_and_numpy_alone():
    """On a lean GPU image nothing else is installed."""
    data = ["pandas", "scipy", "sklearn", "rensa", "pyarrow", "fsspec", "zstandard", "datasets"]
    rest = ["hydra", "omegaconf", "yaml", "rich", "altair", "vl_convert", "jinja2", "psutil"]
    absent = [*data, *rest, "wandb", "optuna", "deepspeed"]
    script = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({absent!r}))\n"
        "import anneal.__main__, anneal.plan.protocol, anneal.training.worker\n"
        "import anneal.training.loop, anneal.training.workbench\n"
    )
    done = run(sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr


def test_every_option_of_every_group_composes():
    for group in sorted((REPOSITORY / "conf").iterdir()):
        if group.is_dir():
            for option in sorted(group.glob("*.yaml")):
                words = [f"{group.name}={option.stem}"]
                if group.name == "source":
                    continue  # sources are composed with what they are made from, below
                if option.stem == "checkpoint":
                    words.append("model.path=somewhere")
                if group.name == "target":
                    words = [f"target=[stdlib_heldout,{option.stem}]"]
                assert settings.load(None, words).name == "demo"


@pytest.mark.parametrize(
    "sweep", sorted((REPOSITORY / "sweeps").glob("*.yaml")), ids=lambda p: p.stem
)
def test_sweeps_compose_and_say_question_cost_and_command(sweep):
    ask = settings.load(sweep)
    assert ask.question
    header = [line for line in sweep.read_text().splitlines() if line.startswith("#")]
    for word in ("Question", "Cost", "Command"):
        assert any(word in line for line in header), f"{sweep.name} does not say its {word}"


def commands() -> list[str]:
    text = (REPOSITORY / "README.md").read_text()
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.splitlines() if language == "sh" else ():
            words = line.split("  #")[0].strip()
            if words.startswith("python -m anneal"):
                found.append(words)
    return found


def test_the_readme_has_commands():
    assert len(commands()) >= 5


@pytest.mark.parametrize("command", commands())
def test_commands_of_the_readme_parse(command):
    words = shlex.split(command)[3:]
    if "--help" in words:
        return
    parsed = _parser().parse_args(words)
    if hasattr(parsed, "words"):
        files = [w for w in parsed.words if "=" not in w]
        overrides = [w for w in parsed.words if "=" in w]
        if files and not (REPOSITORY / files[0]).exists():
            return  # a file of the reader's own
        assert settings.load(REPOSITORY / files[0] if files else None, overrides).question


def test_the_readme_tells_every_verb_and_every_file():
    text = (REPOSITORY / "README.md").read_text()
    verbs = _parser()._subparsers._group_actions[0].choices
    for verb in verbs:
        assert f"`{verb}" in text, f"the README does not explain `{verb}`"
    for name, path in modules().items():
        if path.name != "__init__.py":
            assert path.name in text, f"the README's tree misses {name}"


@pytest.mark.parametrize(
    ("words", "what", "hint"),
    [
        (["budget.seedz=5"], "unknown key `budget.seedz`", "did you mean `seeds`"),
        (["+sead=5"], "unknown key `sead`", "did you mean `seed`"),
        (["source=[stdlib,libdts]"], "libdts", "stdlib"),
        (["budget.seeds=many"], "`budget.seeds`", ""),
        (["source.stdlib.cost.usd_fixed=.nan"], "usd_fixed", ""),
        (["source.stdlib.cost.usd_per_token=-1"], "usd_per_token", ""),
        (["phase.replay_share=1.5"], "replay_share", ""),
        (["replay.stdlib.kind=general"], "replay", ""),
        (["source=["], "no viable alternative", "override"),
    ],
)
def test_bad_words_are_one_clear_error(words, what, hint):
    with pytest.raises(SettingsError) as caught:
        settings.load(None, words)
    assert what in str(caught.value)
    assert hint in caught.value.hint
    assert caught.value.hint


def test_a_missing_sweep_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"nothing\.yaml: no such file"):
        settings.load(tmp_path / "nothing.yaml")


def test_sweep_files_work_from_any_folder(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "defaults:\n  - anneal\n  - source@replay: general\n  - source: [stdlib]\n"
        "  - target: [stdlib_heldout]\n  - _self_\n"
        "question: mine?\nprices: {usd_per_hour: 1, flops_per_second: 1e12}\n"
        "tokenizer: {sources: [general, stdlib]}\n"
    )
    ask = settings.load(tmp_path / "mine.yaml", ["budget.seeds=7"])
    assert (ask.name, ask.question, ask.budget.seeds) == ("mine", "mine?", 7)
    assert [s.name for s in ask.source] == ["stdlib"]
