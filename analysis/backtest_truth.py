# %% [markdown]
# How right are laws and allocations where the truth is known? One table over simulated worlds.
#
#     PYTHONPATH=. python analysis/backtest_truth.py [worlds of each kind]
#
# Worlds: two families, crossovers inside the ladder / beyond it / absent, the real budget 16 or 64
# times the largest run (`analysis.worlds`). Everything that is judged comes out of `settle`.
#
# Columns: `ours` is the average of forms that decides (`laws.blend`); `reference` is what a simpler
# way gives on the same worlds, named in the question. Means are over worlds, +- one standard error
# of that mean: curves of one world share a floor and a repetition rule, so worlds are counted, not
# curves.

# %%
from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from analysis import worlds
from analysis.worlds import EPOCHS, LABELS, LADDER, NOISE, Family, Place, World
from anneal.allocation import Problem, Supply, allocate
from anneal.laws import (
    Blend,
    Crossing,
    Ensemble,
    HoldOut,
    Law,
    Points,
    band,
    blend,
    bootstrap,
    crossover,
    fit,
    hold_out,
    noise_floor,
    outcomes,
    predict,
)
from anneal.laws.points import Floats

FORMS: tuple[str, ...] = tuple(
    yaml.safe_load((Path(__file__).parent.parent / "conf/law/default.yaml").read_text())["forms"]
)
"""The forms that a sweep averages."""
TRUE_FORM = "shifted_power_repeated"
"""What `effective` worlds are made of."""
DRAWS = 200
FACTORS = (1.0, 4.0, 16.0, 64.0)
"""Budgets asked for, times the largest run."""
FAMILIES: tuple[Family, ...] = ("effective", "qqt")
PLACES: tuple[Place, ...] = ("inside", "beyond", "absent")
WANTED = (0.85, 0.95)
"""Coverage of the 90% interval."""

Row = dict[str, object]


# %% [markdown]
# ## One world, settled and judged


# %%
def settle(
    points: Points,
    rng: np.random.Generator,
    *,
    judge: bool = False,
    forms: Sequence[str] = FORMS,
) -> tuple[Blend, HoldOut | None]:
    """Everything that is done to a table before it is believed.

    `judge` asks the held-out budget as well. It costs twice the average itself and changes nothing
    in the law, only whether it is offered, so it is asked of some worlds alone.
    """
    judged = hold_out(forms, points, rng=rng, draws=100, repeats=True) if judge else None
    return blend(forms, points, rng=rng, draws=DRAWS, repeats=True), judged


@dataclass
class Seen:
    """What one world showed. Arrays over FACTORS are NaN beyond the world's real budget.

    Args:
        curve, run: share of the sources whose true curve, or new run, is inside the 90% interval,
            by law (`ours`, `heaviest form`, `true form`).
        error: mean absolute log error of the median curve.
        width: median relative width of the curve's interval.
        crossing: of the planted pair.
        regret: in score against the oracle, by allocation.
        parameters: recovery by the true form: name to (inside, |error|); `effective` worlds only.
        judged: of the held-out largest budget, where it was asked for.
    """

    truth: World
    extrapolation: float
    curve: dict[str, Floats] = field(default_factory=dict)
    run: dict[str, Floats] = field(default_factory=dict)
    error: dict[str, Floats] = field(default_factory=dict)
    width: dict[str, Floats] = field(default_factory=dict)
    crossing: dict[str, Crossing] = field(default_factory=dict)
    regret: dict[str, float] = field(default_factory=dict)
    parameters: dict[str, tuple[float, float]] = field(default_factory=dict)
    judged: HoldOut | None = None


def study(
    truth: World,
    rng: np.random.Generator,
    *,
    judge: bool = False,
    forms: Sequence[str] = FORMS,
) -> Seen:
    """Make the runs of a world, settle them, and set the answers beside the truth."""
    points = worlds.runs(truth, rng)
    law, judged = settle(points, rng, judge=judge, forms=forms)
    seen = Seen(truth, truth.real / LADDER[-1], judged=judged)
    heaviest = bootstrap(law.fit, points, draws=DRAWS, rng=rng)
    laws: dict[str, Law] = {"ours": law, "heaviest form": heaviest}
    if truth.family == "effective":
        true = bootstrap(fit(TRUE_FORM, points, rng=rng), points, draws=DRAWS, rng=rng)
        laws["true form"] = true
        seen.parameters = recovered(truth, true)
    for name, each in laws.items():
        covered(seen, name, each, rng)
        seen.crossing[name] = crossover(
            each,
            0,
            1,
            low=LADDER[0],
            high=truth.limit,
            unique=(float(truth.pool[0]), float(truth.pool[1])),
            noise=noise_floor(points).sd,
        )
    seen.regret = regrets(truth, points, law, rng)
    return seen


def covered(seen: Seen, name: str, law: Law, rng: np.random.Generator) -> None:
    """Coverage, error and width of the curves and of new runs, at the real budget's repetition."""
    truth = seen.truth
    group = np.arange(len(LABELS))
    measures: dict[str, list[float]] = {"curve": [], "run": [], "error": [], "width": []}
    for factor in FACTORS:
        x = LADDER[-1] * factor
        if x > truth.real * (1 + 1e-9):
            for values in measures.values():
                values.append(np.nan)
            continue
        tokens, pool = np.full(group.size, x), worlds.asked(truth, x)
        clean = truth.score(group, tokens, pool)
        draws = predict(law, group, tokens, pool)
        low, high = band(draws)
        measures["curve"].append(float(np.mean((low <= clean) & (clean <= high))))
        measures["error"].append(float(np.abs(np.log(np.median(draws, axis=0) / clean)).mean()))
        measures["width"].append(float(np.median((high - low) / clean)))
        low, high = band(outcomes(law, group, tokens, pool, rng=rng))
        new = clean * np.exp(NOISE * rng.standard_normal(group.size))
        measures["run"].append(float(np.mean((low <= new) & (new <= high))))
    for key, values in measures.items():
        getattr(seen, key)[name] = np.array(values)


def recovered(truth: World, law: Ensemble) -> dict[str, tuple[float, float]]:
    """Whether the 90% intervals of the true form's parameters hold the planted ones, and by how
    much the medians are off (floor: score; the others: natural logarithm)."""
    planted = {"floor": np.array([truth.floor]), "r_star": truth.worth[:1]}
    planted["exponent"], planted["scale"] = truth.exponent, truth.scale
    found = law.parameters()
    out = {}
    for kind, values in planted.items():
        names = [kind] if kind in found else [f"{kind}[{label}]" for label in LABELS]
        draws = np.stack([found[name] for name in names], axis=1)
        low, high = band(draws)
        middle = np.median(draws, axis=0)
        off = middle - values if kind == "floor" else np.log(middle / values)
        out[kind] = float(np.mean((low <= values) & (values <= high))), float(np.abs(off).mean())
    return out


def problem_of(truth: World, points: Points, law: Law) -> Problem:
    """The allocation's question about a world, costs aside."""
    supplies = tuple(
        Supply(name, int(pool), max_epochs=EPOCHS)
        for name, pool in zip(LABELS, truth.pool, strict=True)
    )
    return Problem(
        supplies, law, budget=truth.real, noise=noise_floor(points).sd, control=LABELS[-1]
    )


def regrets(truth: World, points: Points, law: Law, rng: np.random.Generator) -> dict[str, float]:
    """True score minus the oracle's: of our allocation and of what needs no law.

    Picks buy one source up to the budget or its cap: the largest budget's best by its matched and
    by its natural runs (where a source has none, the matched ones are its natural ones).
    """
    answer = allocate(problem_of(truth, points, law), rng=rng, explained=False)
    bought = {"ours": np.array([float(row.tokens) for row in answer.rows])}
    m = len(LABELS)
    # natural proportions of what exists; what never runs out counts as twenty real budgets
    exists = np.minimum(truth.pool[:-1], 20 * truth.real)
    bought["proportional"] = np.append(exists / exists.sum() * truth.real, 0.0)
    bought["proportional"] = np.minimum(bought["proportional"], truth.caps)
    bought["uniform"] = _capped(np.append(np.ones(m - 1), 0.0), truth)
    top = points.tokens == points.largest
    for name, choose in (("matched", np.min), ("natural", np.max)):
        scores = []
        for group in range(m - 1):
            own = top & (points.group == group)
            level = choose(points.unique[own])
            scores.append(points.score[own & (points.unique == level)].mean())
        bought[f"single-scale pick, {name} runs"] = _capped(
            np.eye(m)[int(np.argmin(scores))], truth
        )
    best, least = worlds.oracle(truth)
    found = truth.mixture(np.stack([*bought.values(), best]))
    least = min(least, float(found.min()))  # the oracle's grid is dense, not continuous
    return {name: float(score - least) for name, score in zip(bought, found, strict=False)}


def _capped(direction: Floats, truth: World) -> Floats:
    """The real budget along a direction; what a cap leaves over goes to the uncapped members."""
    tokens = np.zeros_like(direction)
    for _ in range(direction.size):
        open_ = (direction > 0) & (tokens < truth.caps)
        rest = truth.real - tokens.sum()
        if not open_.any() or rest < 1:
            break
        tokens = np.minimum(tokens + rest * direction * open_ / direction[open_].sum(), truth.caps)
    return tokens


# %% [markdown]
# ## The table


# %%
def all_worlds(each: int, *, seed: int = 7, judged: int = 1) -> list[Seen]:
    """`each` worlds of every kind, studied; the largest budget is held out in `judged` of them."""
    out = []
    kinds = [(f, p, e) for f in FAMILIES for p in PLACES for e in (16.0, 64.0)]
    for number, (family, place, extrapolation) in enumerate(kinds):
        for repeat in range(each):
            rng = np.random.default_rng([seed, number, repeat])
            truth = worlds.world(rng, family, place, extrapolation=extrapolation)
            out.append(study(truth, rng, judge=repeat < judged and extrapolation == 16.0))
    return out


def table(seen: Sequence[Seen]) -> list[Row]:
    """Rows {dataset, question, ours, reference, holds} of everything seen."""
    rows = []
    for family in FAMILIES:
        own = [s for s in seen if s.truth.family == family]
        if not own:
            continue
        name = f"simulated, {family}, {len(own)} worlds"
        if family == "effective":
            rows += _recovery_rows(name, own)
        rows += _coverage_rows(name, own)
        rows += _crossing_rows(name, own)
        for extrapolation in sorted({s.extrapolation for s in own}):
            some = [s for s in own if s.extrapolation == extrapolation and s.regret]
            if some:
                rows += _regret_rows(f"{name} (those at {extrapolation:g}x)", some)
        rows += _judged_rows(name, own)
    return rows


def _recovery_rows(name: str, seen: Sequence[Seen]) -> list[Row]:
    rows = []
    for kind in seen[0].parameters:
        inside = np.array([s.parameters[kind][0] for s in seen])
        off = np.median([s.parameters[kind][1] for s in seen])
        unit = "score" if kind == "floor" else "log"
        rows.append(
            _row(
                name,
                f"{kind}: 90% interval of `{TRUE_FORM}` holds the planted value "
                f"(reference: median error of the median, {unit})",
                _covers(inside),
                f"{off:.3f}",
                _wanted(inside),
            )
        )
    return rows


def _coverage_rows(name: str, seen: Sequence[Seen]) -> list[Row]:
    rows = []
    asked = [(i, f) for i, f in enumerate(FACTORS) if _at(seen, "curve", "ours", i).size]
    for key, what in (("curve", "of the curve"), ("run", "of a new run")):
        for index, factor in asked:
            values = {law: _at(seen, key, law, index) for law in seen[0].curve}
            others = "; ".join(f"{law} {_mean(v)}" for law, v in values.items() if law != "ours")
            rows.append(
                _row(
                    name,
                    f"coverage of the 90% interval {what} at {factor:g}x the largest run",
                    _covers(values["ours"]),
                    others,
                    _wanted(values["ours"]),
                )
            )
    for index, factor in asked:
        parts = []
        for law in seen[0].curve:
            off = 100 * _at(seen, "error", law, index).mean()
            wide = 100 * np.median(_at(seen, "width", law, index))
            parts.append(f"{law} {off:.2f}% / {wide:.1f}%")
        question = f"mean error of the curve / median width of its interval at {factor:g}x"
        rows.append(_row(name, question, parts[0], "; ".join(parts[1:]), None))
    return rows


def _crossing_rows(name: str, seen: Sequence[Seen]) -> list[Row]:
    rows = []
    absent = [s for s in seen if s.truth.place == "absent"]
    for place in PLACES:
        some = [s for s in seen if s.truth.place == place]
        if not some or place == "absent":
            continue
        by_law = {law: _crossing(some, law) for law in some[0].crossing}
        for index, question in enumerate(("is found", "interval holds it where it is found")):
            parts = {law: found[index] for law, found in by_law.items()}
            others = "; ".join(f"{law} {text}" for law, (text, _) in parts.items() if law != "ours")
            text, share = parts["ours"]
            rows.append(
                _row(name, f"crossover {place} the ladder {question}", text, others, share >= 0.85)
            )
    if absent:
        parts = {}
        for law in absent[0].crossing:
            called = sum(not s.crossing[law].found for s in absent)
            sure = sum(s.crossing[law].probability >= 0.9 for s in absent)
            parts[law] = f"{called} of {len(absent)} (sure and wrong: {sure})", called
        rows.append(
            _row(
                name,
                "no crossover is called no crossover",
                parts["ours"][0],
                "; ".join(f"{law} {text}" for law, (text, _) in parts.items() if law != "ours"),
                parts["ours"][1] == len(absent),
            )
        )
    return rows


def _crossing(seen: Sequence[Seen], law: str) -> tuple[tuple[str, float], tuple[str, float]]:
    found = [s for s in seen if s.crossing[law].found]
    held = 0
    for s in found:
        at, planted = s.crossing[law].at, s.truth.crossing
        assert at is not None and planted is not None
        held += at[1] <= planted <= at[2]
    wrong = sum(s.crossing[law].probability <= 0.1 for s in seen)
    shares = len(found) / len(seen), held / max(len(found), 1)
    text = f"{len(found)} of {len(seen)} (sure and wrong: {wrong})"
    return (text, shares[0]), (f"{held} of {len(found)}", shares[1])


def _regret_rows(name: str, seen: Sequence[Seen]) -> list[Row]:
    rows = []
    ours = np.array([s.regret["ours"] for s in seen])
    text = f"{_mean(ours, 4)}, 95th percentile {np.quantile(ours, 0.95):.4f}"
    for other in seen[0].regret:
        if other == "ours":
            continue
        theirs = np.array([s.regret[other] for s in seen])
        rows.append(
            _row(
                name,
                f"regret against the oracle, score (reference: {other})",
                text,
                f"{_mean(theirs, 4)}, 95th percentile {np.quantile(theirs, 0.95):.4f}; "
                f"better than ours in {int((theirs < ours - 1e-6).sum())} of {len(seen)}",
                bool(ours.mean() <= theirs.mean()),
            )
        )
    return rows


def _judged_rows(name: str, seen: Sequence[Seen]) -> list[Row]:
    judged = [s.judged for s in seen if s.judged is not None]
    if not judged:
        return []
    ours = [next(r for r in j.rows if r.chosen).mae for j in judged]
    last = [next(r for r in j.rows if r.approach == "last budget").mae for j in judged]
    beaten = sum(bool(j.beaten_by) for j in judged)
    return [
        _row(
            name,
            f"held-out largest budget, mean absolute error in {len(judged)} worlds (reference: "
            "the last budget's score)",
            f"{np.mean(ours):.4f}; a baseline beats it in {beaten}",
            f"{np.mean(last):.4f}",
            bool(np.mean(ours) < np.mean(last)),
        )
    ]


def _at(seen: Sequence[Seen], key: str, law: str, index: int) -> Floats:
    values = np.array([getattr(s, key)[law][index] for s in seen])
    return np.asarray(values[np.isfinite(values)])


def _mean(values: Floats, digits: int = 2) -> str:
    error = values.std(ddof=1) / np.sqrt(values.size) if values.size > 1 else np.nan
    return f"{values.mean():.{digits}f} +- {error:.{digits}f}"


def _covers(values: Floats) -> str:
    middle = round(float(values.mean()), 2)
    word = " (too narrow)" if middle < WANTED[0] else " (wider than asked)"
    return _mean(values) + ("" if _wanted(values) else word)


def _wanted(values: Floats) -> bool:
    return bool(WANTED[0] <= round(float(values.mean()), 2) <= WANTED[1])


def _row(dataset: str, question: str, ours: str, reference: str, holds: bool | None) -> Row:
    return {
        "dataset": dataset,
        "question": question,
        "ours": ours,
        "reference": reference,
        "holds": holds,
    }


def rows(each: int = 4) -> list[Row]:
    """The whole back-test."""
    return table(all_worlds(each))


def show(found: Sequence[Row], write: Callable[[str], object] = print) -> None:
    """Print rows as a Markdown table; `holds` is empty where nothing was asked."""
    columns = ["dataset", "question", "ours", "reference", "holds"]
    write("| " + " | ".join(columns) + " |")
    write("|" + "---|" * len(columns))
    words = {True: "yes", False: "**no**", None: ""}
    for row in found:
        cells = [str(row[c]) for c in columns[:-1]] + [words[row["holds"]]]  # type: ignore[index]
        write("| " + " | ".join(cells) + " |")


# %%
if __name__ == "__main__":
    start = time.process_time()
    show(rows(int(sys.argv[1]) if len(sys.argv) > 1 else 4))
    print(f"\n{time.process_time() - start:.0f} s of one core", file=sys.stderr)
