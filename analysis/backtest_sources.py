# %% [markdown]
# Which source? Laws against single-scale ranking on published runs.
#
#     python -m analysis.backtest_sources [FOLDER of the published runs]
#
# Each table is cut into problems: the same sources at a ladder of budgets, one target. The largest
# budget is held out; from the runs up to each smaller budget the law (an average of forms) and the
# ranking at that budget alone are asked which source is better at the largest.
#
#     gadre, tokens    3 corpora, one model size, 5 to 640 tokens per parameter  (2403.08540)
#     gadre, compute   3 corpora, 20 tokens per parameter, 11M to 6.9B parameters
#     dclm_database    corpora with runs at 400M, 1.4B and 7B, error = 1 - CORE   (2406.11794)
#     c4 + python      9 mixtures of C4 and Python, checkpoints of one training   (2305.16264)
#     repetition_probe a scarce good source against a plentiful one, by every form
#
# No table but the probe repeats tokens or has the base's score, so the forms are those without
# either, and a budget is what the table's runs differ in: tokens, or FLOPs. Pairs closer than the
# noise at the largest budget have no right order and are left out and counted; where no run was
# repeated the noise is the residual SD of the law `power` over the whole ladder, which a misfit
# enlarges. A law is sure of a pair that 90% of its draws order alike.
# What a table's rows share (three corpora, eight evaluation sets of the same models, checkpoints of
# the same training) makes the effective number of pairs much smaller than their count.

# %%
from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.backtest_points import LEVELS, coverage_points, decision_points, probe_curves
from analysis.rows import Row, row, show
from analysis.settled import FORMS as SWEEP_FORMS
from analysis.source_tables import Problem, dclm, gadre, mixtures
from anneal.errors import LawError
from anneal.laws import (
    FORMS,
    Blend,
    Law,
    Points,
    band,
    blend,
    bootstrap,
    fit,
    noise_floor,
    outcomes,
    predict,
)
from anneal.laws.decisions import (
    AtBudget,
    accuracy_by_budget,
    budgets,
    count_pairs,
    expected_ranks,
    over_draws,
    regret,
    spearman,
)
from anneal.laws.decisions import accuracy as pair_accuracy
from anneal.laws.points import Floats, Ints

PLAIN = ("power", "power_one_exponent", "pure_power")
"""Forms for tables without repetition and without the base's score."""
SHARED_FORM = "power_one_exponent"
"""One floor and one exponent: sources differ by a factor, so their order hardly extrapolates."""
DRAWS = 400
SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "runs"


# %% [markdown]
# ## One problem, asked from every budget


# %%
@dataclass(frozen=True, eq=False)
class Asked:
    """What the law from the runs up to a budget, and that budget alone, said of the largest.

    Args:
        budget: the largest one seen.
        law: (draws, k) predicted curves of the sources at the largest budget; None where no form
            could be fitted.
        single: ranking at this budget.
        still: (k,) expected ranks with the drift of the average left out: drift is symmetric, so
            it should not move an order, and with few draws it does.
        shared: (k,) the same by `SHARED_FORM` alone, the form with the fewest parameters.
        guess: (k,) scores at this budget.
        truth: (k,) mean measured scores at the largest.
        noise: below which a pair is a tie, score.
        inside: by level, share of the held-out runs inside the interval of a new run.
        error: mean absolute log error of the median curve; and of this budget's own scores.
    """

    problem: Problem
    budget: float
    law: Floats | None
    still: Floats | None
    shared: Floats | None
    single: AtBudget
    guess: Floats
    truth: Floats
    noise: float
    inside: dict[float, float]
    error: tuple[float, float]


def ask(problem: Problem, rng: np.random.Generator) -> list[Asked]:
    """Every budget but the largest, smallest first."""
    points, held = problem.points, problem.held
    noise = noise_of(points, rng)
    test = points.rows(held)
    k = len(points.labels)
    truth = _means(test.score, test.group, k)
    singles = accuracy_by_budget(
        points.rows(~held), (test.score, test.group), rng=rng, noise=noise, draws=300
    )
    out = []
    for single in singles:
        seen = points.rows(points.tokens <= single.budget * 1.05)
        here = np.abs(seen.tokens / single.budget - 1) <= 0.05
        if np.unique(seen.group[here]).size < k:
            continue
        guess = _means(seen.score[here], seen.group[here], k)
        law, still, shared, inside, off = None, None, None, {}, float("nan")
        found = _settled(seen, rng)
        if found is not None:
            where = np.full(k, float(np.exp(np.log(test.tokens).mean())))
            law = predict(found, np.arange(k), where)
            calm = replace(found, drift=np.zeros_like(found.drift))
            still = expected_ranks(predict(calm, np.arange(k), where))
            simple = fit(SHARED_FORM, seen, rng=rng)
            shared = predict(simple, np.arange(k), where) if simple.usable else None
            new = outcomes(found, test.group, test.tokens, test.tokens, rng=rng)
            for level in LEVELS:
                low, high = band(new, level=level)
                inside[level] = float(np.mean((low <= test.score) & (test.score <= high)))
            off = float(np.abs(np.log(np.median(law, axis=0) / truth)).mean())
        errors = off, float(np.abs(np.log(guess / truth)).mean())
        said = law, still, shared, single, guess, truth
        out.append(Asked(problem, single.budget, *said, noise, inside, errors))
    return out


def _settled(points: Points, rng: np.random.Generator) -> Blend | None:
    """The average of forms; None where the budgets are too few for any form, as the table says."""
    try:
        return blend(PLAIN, points, rng=rng, draws=DRAWS)
    except LawError:
        return None


def noise_of(points: Points, rng: np.random.Generator) -> float:
    """Score: between repeated runs, else the residuals of a power law over the whole ladder."""
    try:
        return noise_floor(points).sd
    except LawError:
        return fit("power", points, rng=rng).residual_sd * float(points.score.min())


def _means(score: Floats, group: Ints, k: int) -> Floats:
    return np.array([score[group == g].mean() for g in range(k)])


# %% [markdown]
# ## The table


# %%
def choice_rows(problems: Sequence[Problem], *, seed: int = 3) -> list[Row]:
    """Decision accuracy from every budget, and coverage at the held-out largest."""
    rng = np.random.default_rng(seed)
    asked = [a for problem in problems for a in ask(problem, rng)]
    rows = []
    dataset = problems[0].dataset
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    largest = {p.unit.format(p.points.largest) for p in problems}
    name = (
        f"{dataset}, {count} of {len(problems[0].points.labels)} sources, largest "
        f"{' or '.join(sorted(largest))}"
    )
    for budget in budgets(np.array([a.budget for a in asked])):
        some = [a for a in asked if abs(a.budget / budget - 1) <= 0.05]
        question = (
            f"sources at the largest budget from runs up to "
            f"{some[0].problem.unit.format(budget)} (reference: ranking at that budget alone)"
        )
        rows.append(_choice(name, question, some))
    rows += _coverage(name, asked)
    return rows


def _choice(name: str, question: str, some: Sequence[Asked]) -> Row:
    single = [a.single.pairs for a in some]
    decided, tied = sum(p.decided for p in single), sum(p.tied for p in single)
    right = sum(p.right for p in single)
    reference = (
        f"{right:g} of {decided} pairs ({right / max(decided, 1):.0%}), "
        f"{_costs(some, [a.guess for a in some])}"
    )
    if len(some) == 1 and some[0].single.accuracy is not None:
        e = some[0].single.accuracy
        reference += f", 90% over runs {e.low:.0%} to {e.high:.0%}"
    if any(a.law is None for a in some):
        share = right / max(decided, 1)
        drawn = decision_points(some[0].problem.dataset, some[0].budget, None, share)
        return row(name, question, "no law: too few budgets", reference, None, drawn=drawn)
    laws = [a.law for a in some if a.law is not None]
    order = [a.still for a in some if a.still is not None]
    counted = [
        count_pairs(ranks, a.truth, noise=a.noise) for ranks, a in zip(order, some, strict=True)
    ]
    ours = sum(p.right for p in counted)
    sure = [_sure(law, a) for law, a in zip(laws, some, strict=True)]
    text = (
        f"{ours:g} of {decided} pairs ({ours / max(decided, 1):.0%}; {tied} ties left out), "
        f"sure of {sum(n for n, _ in sure)} and right in {sum(r for _, r in sure)} of them, "
        f"{_costs(some, order)}"
    )
    for words, guesses in (
        ("by mean scores", [a.law.mean(axis=0) for a in some if a.law is not None]),
        (f"by `{SHARED_FORM}` alone", [a.shared for a in some]),
    ):
        other = [
            count_pairs(guess, a.truth, noise=a.noise).right
            for guess, a in zip(guesses, some, strict=True)
            if guess is not None
        ]
        if len(other) == len(some):
            reference += f"; {words} {sum(other):g}"
    if len(some) == 1 and decided:
        e = over_draws(partial(pair_accuracy, noise=some[0].noise), laws[0], some[0].truth)
        text += f", 90% over draws {e.low:.0%} to {e.high:.0%}"
    errors = np.array([a.error for a in some]).mean(axis=0)
    text += f"; error of the score {errors[0]:.1%}"
    reference += f"; error of the score {errors[1]:.1%}"
    shares = ours / max(decided, 1), right / max(decided, 1)
    drawn = decision_points(some[0].problem.dataset, some[0].budget, *shares)
    return row(name, question, text, reference, ours >= right, drawn=drawn)


def _sure(law: Floats, a: Asked) -> tuple[int, int]:
    """Pairs with a right order that 90% of the draws order alike, and those ordered rightly."""
    first, second = np.triu_indices(a.truth.size, 1)
    gap = a.truth[first] - a.truth[second]
    ahead = np.mean(law[:, first] < law[:, second], axis=0)
    told = (np.abs(gap) > a.noise) & (np.maximum(ahead, 1 - ahead) >= 0.9)
    return int(told.sum()), int((told & ((ahead > 0.5) == (gap < 0))).sum())


def _costs(some: Sequence[Asked], guesses: Sequence[Floats]) -> str:
    """Mean regret of the first choice, as a share of the best score, and mean rank correlation."""
    pairs = list(zip(guesses, some, strict=True))
    lost = np.mean([regret(g, a.truth)[0] / a.truth.min() for g, a in pairs])
    ranks = np.array([spearman(g, a.truth)[0] for g, a in pairs])
    ranks = ranks[np.isfinite(ranks)]
    rank = f", Spearman {ranks.mean():.2f}" if ranks.size else ""
    return f"regret {lost:.2%}{rank}"


def _coverage(name: str, asked: Sequence[Asked]) -> list[Row]:
    """Of new runs at the largest budget, from all smaller ones and from half of the ladder."""
    rows = []
    for far in (False, True):
        some = []
        for problem in dict.fromkeys(a.problem for a in asked):
            own = [a for a in asked if a.problem is problem and a.inside]
            if not own or (far and len(own) < 2):
                continue
            some.append(own[0] if far else own[-1])
        if not some:
            continue
        factor = float(np.median([a.problem.points.largest / a.budget for a in some]))
        count = sum(int(a.problem.held.sum()) for a in some)
        weights = [a.problem.held.sum() for a in some]
        shares = {
            q: float(np.average([a.inside[q] for a in some], weights=weights)) for q in LEVELS
        }
        text = ", ".join(f"{q:.0%}: {s:.0%}" for q, s in shares.items())
        where = "the fewest budgets" if far else "all smaller budgets"
        question = (
            f"held-out largest runs inside 50/80/95% intervals, from {where}, {factor:,.0f}x "
            "beyond them (asked: within 10 points)"
        )
        good = all(abs(s - q) <= 0.1 for q, s in shares.items())
        short = f"{asked[0].problem.dataset}: {factor:,.0f}x beyond the runs"
        drawn = coverage_points(short, list(shares.values()), count)
        rows.append(row(name, question, text, f"{count} runs", good, drawn=drawn))
    return rows


# %% [markdown]
# ## The probe: 800k tokens, 60k unique ones of the better source


# %%
def probe_rows(folder: Path, *, seed: int = 0) -> list[Row]:
    """Sign and 90% interval of stdlib - raw at the target, by every form and by the average."""
    table = pd.read_csv(folder / "repetition_probe" / "runs.csv")
    target = table[table["design"] == "target"].set_index("source")
    truth = float(target.loc["stdlib", "bpb"] - target.loc["raw", "bpb"])
    rows = []
    both = probe_points(table, ("natural", "matched"))
    for name in FORMS:
        rng = np.random.default_rng(seed)
        law = fit(name, both, rng=rng)
        question = f"stdlib - raw at 800k by `{name}`, natural + matched runs up to 400k"
        if law.outcome != "ok":
            text = f"{law.outcome}: {law.message}"
            rows.append(row("repetition_probe", question, text, f"{truth:+.4f}", None))
            continue
        draws = bootstrap(law, both, draws=DRAWS, rng=rng)
        misfit = f"; misfit {law.residual_sd * both.score.mean():.3f}"
        rows.append(_gap_row(question, draws, target, truth, misfit))
    for designs in (("natural", "matched"), ("natural",), ("matched",)):
        rng = np.random.default_rng(seed)
        points = probe_points(table, designs)
        average = blend(SWEEP_FORMS, points, rng=rng, draws=DRAWS, repeats=True)
        top = ", ".join(f"{n} {w:.0%}" for n, w in list(average.named_weights.items())[:3])
        question = f"stdlib - raw at 800k by the average of a sweep, {' + '.join(designs)} runs"
        found = _gap_row(question, average, target, truth, f"; {top}")
        if designs == ("natural", "matched"):
            found["drawn"] = probe_curves(table, average, float(points.tokens.min()))
        rows.append(found)
    for design in ("natural", "matched"):
        own = table[(table["design"] == design) | (table["source"] == "raw")]
        gaps = own[own["d_tokens"] <= 400_000].pivot_table(
            index="d_tokens", columns="source", values="bpb"
        )
        found = (gaps["stdlib"] - gaps["raw"]).dropna()
        text = ", ".join(f"{x / 1e3:.0f}k {gap:+.3f}" for x, gap in found.items())
        rows.append(
            row(
                "repetition_probe",
                f"stdlib - raw at every single budget, {design} pools",
                text,
                f"{truth:+.4f}",
                bool((found > 0).all()),
            )
        )
    return rows


def probe_points(table: pd.DataFrame, designs: Sequence[str]) -> Points:
    """Runs of these designs; `raw` is run naturally alone, and is in every one of them."""
    labels = ("stdlib", "raw")
    own = table[table["design"].isin(designs)]
    if "natural" not in designs:
        natural = (table["design"] == "natural") & (table["source"] == "raw")
        own = pd.concat([own, table[natural]])
    return Points(
        labels,
        own["source"].map(labels.index).to_numpy(np.int64),
        own["d_tokens"].to_numpy(np.float64),
        own["d_unique_tokens"].to_numpy(np.float64),
        own["bpb"].to_numpy(np.float64),
        np.zeros(len(own), dtype=np.int64),
        anchor=float(table.loc[table["design"] == "none", "bpb"].iloc[0]),
    )


def _gap_row(question: str, law: Law, target: pd.DataFrame, truth: float, more: str) -> Row:
    tokens, pools = (
        target.loc[["stdlib", "raw"], c].to_numpy(np.float64)
        for c in ("d_tokens", "d_unique_tokens")
    )
    curves = predict(law, [0, 1], tokens, pools)
    gap = curves[:, 0] - curves[:, 1]
    low, high = band(gap)
    middle, sure = float(np.median(gap)), float(np.mean(gap > 0))
    text = f"{middle:+.3f} [{low:+.3f}, {high:+.3f}], P(raw better) {sure:.0%}{more}"
    right = middle > 0 and low <= truth <= high
    return row("repetition_probe", question, text, f"{truth:+.4f}", bool(right))


def rows(folder: Path = SHARED) -> list[Row]:
    """The whole back-test."""
    corpora = gadre(folder)
    out = probe_rows(folder)
    for problems in (
        [p for p in corpora if p.dataset == "gadre, tokens"],
        [p for p in corpora if p.dataset == "gadre, compute"],
        dclm(folder),
        mixtures(folder),
    ):
        out += choice_rows(problems)
    return out


# %%
if __name__ == "__main__":
    start = time.process_time()
    show(rows(Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED))
    print(f"\n{time.process_time() - start:.0f} s of one core", file=sys.stderr)
