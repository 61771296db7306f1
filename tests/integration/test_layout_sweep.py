"""A small sweep whose sources are laid out in every way and whose price rises."""

import os
import subprocess
import sys

import pytest

from anneal.report.decision import Decision
from anneal.sources.values import Manifest
from anneal.store import Store, read_value
from tests.conftest import REPOSITORY
from tests.integration.corpus import make

pytestmark = pytest.mark.integration

TIERS = "[[20000, 0], [1, 1.0e-6]]"
LAYOUTS = {
    "tools": "{packing: best_fit, sequence: ${phase.sequence}, fim_rate: 0.5}",
    "nets": "{order: language_repository, boundary: repository}",
}


def test_a_sweep_over_layouts_trains_decides_and_is_not_done_twice(tmp_path):
    sweep = make(tmp_path)
    words = [f"source.{name}.layout={layout}" for name, layout in LAYOUTS.items()]
    words += [f"source.tools.cost={{usd_tiers: {TIERS}}}", "budget.real={usd: 0.05, tokens: null}"]

    def anneal(verb: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "anneal", verb, sweep.name, *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    anneal("sweep")
    store = Store(tmp_path / "store")
    decision = read_value(store.sweep("small") / "report" / "decision.json", Decision)
    tools = next(row for row in decision.allocation if row.source == "tools")
    assert sum(row.usd for row in decision.allocation) == pytest.approx(decision.real_usd)
    assert 0.05 * (1 - 1e-3) <= decision.real_usd <= 0.05 * (1 + 1e-9)
    # besides the tiers there is training, and the seconds that curation was measured to take
    assert tools.unique_tokens <= 20_000 + 0.05 / 1e-6
    assert tools.usd >= max(0, tools.unique_tokens - 20_000) * 1e-6
    found = [read_value(path, Manifest) for path in (store.root / "tokens").glob("*/manifest.json")]
    padding = {m.name: m.padding for m in found}
    assert padding["tools"] > 0
    assert padding["nets"] == padding["prose"] == padding["aim"] == 0
    told = anneal("plan")
    assert " 0 to run" in told
    assert " for 20,000, 1 beyond; " in told
    assert " padding on top" in told
