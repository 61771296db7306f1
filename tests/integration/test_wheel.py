"""The wheel: what is installed from it finds its own conf, sweeps and templates."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(folder)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_carries_conf_sweeps_and_templates(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "anneal/conf/anneal.yaml" in names
    assert "anneal/conf/recipe/oss_instruct.j2" in names
    assert "anneal/sweeps/demo.yaml" in names
    assert "anneal/report/templates/index.html.j2" in names
    assert not any(name.startswith(("tests/", "analysis/")) for name in names)


def test_the_unpacked_wheel_plans_the_demo_from_any_folder(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-m", "anneal", "plan"],
        cwd=tmp_path / "site",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Which supply of Python code" in done.stdout
