# %% [markdown]
# How right are laws and allocations where the truth is known? One table over simulated worlds.
#
#     python -m analysis.backtest_truth [worlds of each kind]
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
from collections.abc import Sequence

import numpy as np

from analysis import worlds
from analysis.backtest_points import means
from analysis.rows import Row, row, show
from analysis.settled import FACTORS, TRUE_FORM, Seen, study
from analysis.worlds import Family, Place
from anneal.laws.points import Floats

FAMILIES: tuple[Family, ...] = ("effective", "qqt")
PLACES: tuple[Place, ...] = ("inside", "beyond", "absent")
WANTED = (0.85, 0.95)
"""Coverage of the 90% interval."""


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
            row(
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
                row(
                    name,
                    f"coverage of the 90% interval {what} at {factor:g}x the largest run",
                    _covers(values["ours"]),
                    others,
                    _wanted(values["ours"]),
                    drawn=means(
                        "truth coverage",
                        values,
                        family=seen[0].truth.family,
                        what=what,
                        factor=factor,
                    ),
                )
            )
    for index, factor in asked:
        parts = []
        for law in seen[0].curve:
            off = 100 * _at(seen, "error", law, index).mean()
            wide = 100 * np.median(_at(seen, "width", law, index))
            parts.append(f"{law} {off:.2f}% / {wide:.1f}%")
        question = f"mean error of the curve / median width of its interval at {factor:g}x"
        rows.append(row(name, question, parts[0], "; ".join(parts[1:]), None))
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
                row(name, f"crossover {place} the ladder {question}", text, others, share >= 0.85)
            )
    if absent:
        parts = {}
        for law in absent[0].crossing:
            called = sum(not s.crossing[law].found for s in absent)
            sure = sum(s.crossing[law].probability >= 0.9 for s in absent)
            parts[law] = f"{called} of {len(absent)} (sure and wrong: {sure})", called
        rows.append(
            row(
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
        same = {"family": seen[0].truth.family, "factor": seen[0].extrapolation}
        drawn = means("truth regret", {"ours": ours, other: theirs}, **same)
        rows.append(
            row(
                name,
                f"regret against the oracle, score (reference: {other})",
                text,
                f"{_mean(theirs, 4)}, 95th percentile {np.quantile(theirs, 0.95):.4f}; "
                f"better than ours in {int((theirs < ours - 1e-6).sum())} of {len(seen)}",
                bool(ours.mean() <= theirs.mean()),
                drawn=drawn,
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
        row(
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


def rows(each: int = 4) -> list[Row]:
    """The whole back-test."""
    return table(all_worlds(each))


# %%
if __name__ == "__main__":
    start = time.process_time()
    show(rows(int(sys.argv[1]) if len(sys.argv) > 1 else 4))
    print(f"\n{time.process_time() - start:.0f} s of one core", file=sys.stderr)
