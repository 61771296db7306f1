"""The back-tests' figures: drawn from what rows carry, and only where it is there."""

from itertools import product

import numpy as np
import pandas as pd

from analysis.backtest_figures import FIGURES, KEPT, draw, write
from analysis.backtest_points import coverage_points, decision_points, means, within
from analysis.rows import drawn_tables, row


def small_tables():
    """A few rows of every table that a figure takes, all of them made up."""
    x = np.geomspace(1.0, 9.0, 6)
    pairs = {"predicted": 1 / x, "measured": 1.01 / x}
    held = np.arange(6) > 3
    cases = list(product(("effective", "qqt"), (16.0, 64.0)))
    laws = {"ours": np.array([0.9, 1.0]), "heaviest form": np.array([0.5, 0.7])}
    truth = [
        row("t", "?", "", "", drawn=means(name, laws, family=family, factor=factor, what=what))
        for family, factor in cases
        for name, what in (("truth coverage", "of a new run"), ("truth regret", ""))
    ]
    budgets = product(("gadre, tokens", "gadre, compute"), (1e18, 1e20))
    choices = [row("g", "?", "", "", drawn=decision_points(d, b, 0.9, 0.8)) for d, b in budgets]
    held_out = row("a", "?", "", "", drawn=coverage_points("a: largest", [0.4, 0.8, 1.0], 9))
    interval = {"by": ["ours", "published"], "value": 1.0, "low": 0.9, "high": 1.1}
    gadre = pd.DataFrame({"flops": 1e18 * x, "loss": 1 / x, "multiple": [20, 320, 640] * 2})
    probe = {"tokens": 1e4 * x, "bpb": 1 / x, "source": ["stdlib", "raw"] * 3}
    return drawn_tables([*truth, *choices, held_out]) | {
        "chinchilla": pd.DataFrame(pairs | {"flops": 1e20 * x, "held": held}),
        "chinchilla parameters": pd.concat(
            pd.DataFrame(interval).assign(parameter=p) for p in ("E", "alpha", "beta")
        ),
        "gadre lines": gadre,
        "gadre runs": gadre.assign(seen=~held),
        "porian": pd.DataFrame(
            {"setup": list("abcdef"), "published": x, "akima": 0.0, "law": 0.1}
            | {"error": 0.01, "naive": 0.02}
        ),
        "datablations": pd.DataFrame(
            pairs | {"source": "c4", "n_params": 2.81e9, "epochs": x}
        ).assign(law="annealed_overfit", limit=4),
        "learning_curves": pd.DataFrame(
            {"curve": [f"IC|{t}_5|m" for t in ("bird", "inet")], "law": 0.01, "last value": 0.02}
        ),
        "steplaw": pd.DataFrame(pairs | {"held": held}),
        "steplaw exponents": pd.DataFrame(
            {"exponent": ["lr in N"], "ours": -0.7, "published": -0.7, "plain": -0.8}
        ),
        "dclm": pd.DataFrame(pairs | {"link": ["1b to 7b", "400m to 1b"] * 3}),
        "regmix": pd.DataFrame(pairs | {"size": ["1M", "60M", "1B"] * 2}),
        "bimix": pd.DataFrame(
            {"dataset": ["pile", "slimpajama"], "domain": "arxiv", "law": 0.01}
            | {"mean of the other mixtures": 0.02}
        ),
        "probe lines": pd.DataFrame(probe).assign(low=lambda t: t.bpb, high=lambda t: t.bpb),
        "probe runs": pd.DataFrame(probe | {"design": ["natural", "matched", "target"] * 2}),
    }


def test_every_figure_is_drawn_with_its_words_and_no_variable_left(tmp_path):
    figures = draw(small_tables())
    assert figures.keys() == FIGURES.keys()
    assert set(KEPT) <= FIGURES.keys()
    write(figures, tmp_path)
    for name, figure in FIGURES.items():
        text = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
        assert text.startswith("<svg") and text.rstrip().endswith("</svg>")
        assert figure.title in text.replace("&#39;", "'")
        assert "var(--" not in text
        assert "undefined" not in text
        assert "NaN" not in text


def test_figures_whose_tables_are_missing_are_left_out():
    tables = small_tables()
    del tables["gadre runs"]
    assert FIGURES.keys() - draw(tables).keys() == {"gadre_overtraining"}
    assert draw({}) == {}


def test_tables_of_one_name_are_put_below_each_other():
    rows = [
        row("a", "?", "", "", drawn=coverage_points(name, [0.5, 0.8, 0.95], 4)) for name in "ab"
    ]
    found = drawn_tables([*rows, row("a", "nothing to draw", "", "")])
    assert found.keys() == {"coverage"}
    assert list(found["coverage"].name) == ["a"] * 3 + ["b"] * 3


def test_an_interval_holds_its_own_share_of_the_draws():
    rng = np.random.default_rng(0)
    runs = rng.standard_normal((4000, 1)) + np.zeros((1, 500))
    inside = within(runs, rng.standard_normal(500)).mean(axis=1)
    np.testing.assert_allclose(inside, (0.5, 0.8, 0.95), atol=0.05)
