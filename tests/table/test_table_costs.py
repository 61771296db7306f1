"""The file of costs: what it may say, and one clear error for everything else."""

import json

import numpy as np
import pytest
import yaml

from anneal.__main__ import main
from anneal.errors import TableError
from anneal.table.allocate import decision_budget
from anneal.table.costs import read_costs

from . import planted

GOOD = """
budget: {tokens: 1e8}
sources:
  quick: {available: 4e7, max_epochs: 2}
  slow: {available: 1e9, usd_per_billion_tokens: 40, licence: research}
  web: {available: 1e10}
"""
PRICED = GOOD + "parameters: 1e9\nusd_per_hour: 2\nflops_per_second: 1e14\n"


def costs_of(tmp_path, content):
    path = tmp_path / "costs.yaml"
    path.write_text(content, encoding="utf-8")
    return read_costs(path)


def test_numbers_with_units_in_their_names(tmp_path):
    costs = costs_of(tmp_path, PRICED)
    assert costs.sources["slow"].usd_each == pytest.approx(40e-9)
    assert costs.sources["quick"].cap == 80_000_000
    assert costs.flops_each == 6e9
    assert costs.usd_each == pytest.approx(6e9 / 1e14 / 3600 * 2)
    assert (costs.budget.axis, costs.budget.amount) == ("tokens", 1e8)


def test_the_budget_in_usd_buys_what_one_source_alone_would(tmp_path):
    costs = costs_of(tmp_path, PRICED.replace("{tokens: 1e8}", "{usd: 10}"))
    assert decision_budget(costs) == pytest.approx(10 / costs.usd_each)  # web is free to acquire
    slow = costs.model_copy(update={"sources": {"slow": costs.sources["slow"]}})
    assert decision_budget(slow) == pytest.approx(10 / (costs.usd_each + 40e-9))


def test_a_budget_in_usd_buys_up_a_rising_price(tmp_path):
    tiers = "usd_tiers: [[1e6, 0], [2e6, 1e-6], [1, 5e-6]]"
    content = PRICED.replace("{tokens: 1e8}", "{usd: 30}").replace("licence:", f"{tiers}, licence:")
    costs = costs_of(tmp_path, content)
    alone = costs.model_copy(update={"sources": {"slow": costs.sources["slow"]}})
    bought = decision_budget(alone)
    paid = 40e-9 * bought + 1e-6 * 2e6 + 5e-6 * (bought - 3e6) + costs.usd_each * bought
    assert paid == pytest.approx(30)


BAD = {
    "no YAML": ("budget: {tokens: 1e8", "while parsing", "example"),
    "a list": ("- 1\n", "no mapping", "help"),
    "unknown key": (GOOD.replace("available: 4e7", "availible: 4e7"), "availible", "`available`"),
    "unknown key on top": (GOOD + "buget: 1\n", "unknown key `buget`", "did you mean `budget`"),
    "a key twice": (GOOD + "  web: {available: 2}\n", "the key `web` stands twice", ""),
    "a name that is no text": (GOOD + "  no: {available: 2}\n", "quote it", ""),
    "missing": (GOOD.replace("available: 1e10", ""), "`sources.web.available` is missing", "add"),
    "no budget": (GOOD.replace("budget: {tokens: 1e8}", ""), "`budget` is missing", "add"),
    "negative": (GOOD.replace("40", "-40"), "usd_per_billion_tokens", "correct"),
    "NaN": (GOOD.replace("40", ".nan"), "usd_per_billion_tokens", "correct"),
    "text": (GOOD.replace("40", "cheap"), "usd_per_billion_tokens", "correct"),
    "a falling price": (
        GOOD.replace("licence:", "usd_tiers: [[1e6, 2e-6], [1e6, 1e-6]], licence:"),
        "`sources.slow.usd_tiers`: usd_tiers must rise: tier 2 at 1e-06 USD a token is cheaper "
        "than tier 1 at 2e-06",
        "correct",
    ),
    "no tokens in a tier": (
        GOOD.replace("licence:", "usd_tiers: [[0, 2e-6]], licence:"),
        "usd_tiers",
        "correct",
    ),
    "two prices": (GOOD.replace("licence:", "usd_per_token: 1, licence:"), "not both", "correct"),
    "two budgets": (GOOD.replace("tokens: 1e8", "tokens: 1e8, usd: 3"), "exactly one", "correct"),
    "another currency in a key": (
        GOOD.replace("available: 1e10", "available: 1e10, eur_fixed: 3"),
        "`sources.web.eur_fixed`: costs in eur and usd (`sources.slow.usd_per_billion_tokens`)",
        "US dollars",
    ),
    "another currency in a value": (
        GOOD.replace("40", "'40 GBP'"),
        "`sources.slow.usd_per_billion_tokens`: costs in gbp",
        "US dollars",
    ),
    "no price of training": (GOOD.replace("tokens: 1e8", "usd: 100"), "price of training", ""),
    "half a price": (GOOD + "usd_per_hour: 2\n", "price training together: give both", ""),
    "current": (GOOD + "current: {web: 0.7}\n", "shares that sum to 1", ""),
    "a prior without its limit": (GOOD + "prior: {web: 1}\n", "give both", "correct"),
    "a prior limit alone": (GOOD + "prior_limit: 0.1\n", "give both", "correct"),
    "a prior that misses a source": (
        GOOD + "prior: {web: 0.5, slow: 0.5}\nprior_limit: 0.1\n",
        "every source that may be bought a share above 0 (quick, slow, web)",
        "correct",
    ),
    "too few least tokens": (GOOD + "least_tokens: 0\n", "least_tokens", "correct"),
    "unknown licence": (GOOD + "exclude_licences: [secret]\n", "no source has the licence", ""),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_costs_are_one_error(case, tmp_path):
    content, what, hint = BAD[case]
    with pytest.raises(TableError) as caught:
        costs_of(tmp_path, content)
    assert what in caught.value.what, caught.value.what
    assert "\n" not in caught.value.what
    assert hint in caught.value.hint


def test_a_licence_may_be_named_like_a_currency(tmp_path):
    assert costs_of(tmp_path, GOOD.replace("research", "EUR-Lex")).licences == ("EUR-Lex",)


@pytest.mark.integration
def test_the_split_stays_near_the_prior_and_the_fewest_tokens_are_a_limit(tmp_path, capsys):
    table = planted.write(tmp_path / "runs.csv", planted.rows(seeds=1))
    near = "prior: {quick: 0.2, slow: 0.2, web: 0.6}\nprior_limit: 0.05\n"
    costs, out = tmp_path / "costs.yaml", tmp_path / "out.json"
    words = ["allocate", table, "--costs", str(costs), "--json", str(out), "--draws", "50"]
    costs.write_text(GOOD + near)
    assert main(words) == 0
    rows = json.loads(out.read_text())["rows"]
    share = {row["source"]: row["share"] for row in rows}
    prior = {"quick": 0.2, "slow": 0.2, "web": 0.6}
    nats = sum(v * np.log(v / prior[n]) for n, v in share.items() if v > 0)
    assert 0.045 < nats < 0.0501
    assert "prior within 0.05 nats" in capsys.readouterr().out
    costs.write_text(GOOD + "least_tokens: 2e8\n")
    assert main(words) == 2
    assert "at least 2e+08 tokens: 1e+08 tokens would do" in capsys.readouterr().err


COLLIDE = {
    "a source without costs": (
        lambda c: c["sources"].pop("web"),
        "no costs of source `web`",
        "sources.web",
    ),
    "a source without runs": (
        lambda c: c["sources"].update(sloww={"available": 5}),
        "`sloww` has no runs",
        "did you mean `slow`",
    ),
    "an unknown guard": (lambda c: c.update(guards={"prose": 0.1}), "`prose` is no guard", ""),
    "an unknown current": (
        lambda c: c.update(current={"book": 1}),
        "`book` is not among the sources",
        "known are quick, slow, web",
    ),
    "more tokens than the caps allow": (
        lambda c: c.update(budget={"tokens": 1e12}),
        "budget 1,000,000,000,000 tokens collides with what may be trained on, 44,080,000,000 "
        "(quick 40,000,000 x 2 epochs, slow 1,000,000,000 x 4 epochs, web 10,000,000,000 x 4 "
        "epochs): 955,920,000,000 short",
        "raise max_epochs",
    ),
    "licences that leave too little": (
        lambda c: (
            c.update(exclude_licences=["research"], budget={"tokens": 1e9}),
            c["sources"]["web"].update(available=1e8),
        ),
        "exclude_licences research): 520,000,000 short",
        "lower the budget",
    ),
    "licences that leave nothing": (
        lambda c: (
            [s.update(licence="x") for s in c["sources"].values()],
            c.update(exclude_licences=["x"]),
        ),
        "leaves no source",
        "another",
    ),
    "fixed costs above the budget": (
        lambda c: (
            [s.update(usd_fixed=500) for s in c["sources"].values()],
            c.update(budget={"usd": 100}, flops_per_trained=1, usd_per_hour=1, flops_per_second=1),
        ),
        "collides with fixed costs: the first token of the cheapest source",
        "usd_fixed",
    ),
}


@pytest.mark.parametrize("case", COLLIDE)
def test_what_collides_is_said_before_anything_is_fitted(case, tmp_path, capsys):
    change, what, hint = COLLIDE[case]
    plain = yaml.safe_load(GOOD)
    change(plain)
    (tmp_path / "costs.yaml").write_text(yaml.safe_dump(plain))
    table = planted.write(tmp_path / "runs.csv", planted.rows())
    assert main(["allocate", table, "--costs", str(tmp_path / "costs.yaml")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert what in err, err
    assert hint in err
