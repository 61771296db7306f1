"""Backtests on curves and scales: learning_curves, dclm_database."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pandas as pd

from analysis.backtest_rows import (
    Row,
    Table,
    agreements,
    columns,
    coverage_row,
    draws,
    drifts,
    fit,
    inside,
    predicted,
    read,
    realised,
    row,
)
from anneal.errors import LawError
from anneal.laws.surface_fits import SurfaceFit

# %%
CURVES = ("power_tokens", "shifted_tokens", "bounded_tokens")


def learning_curves() -> Iterator[Row]:
    """Error of image classifiers against examples seen; the benchmark's own split."""
    name = "learning_curves (IC)"
    points = read("learning_curves_alabdulmohsin", "points.csv")
    points = points.rename(columns={"d_examples": "d_tokens"})
    errors: dict[str, list[float]] = {n: [] for n in (*CURVES, "last value")}
    rolled: dict[str, list[float]] = {n: [] for n in CURVES}
    splits, fits = [], []
    for curve, whole in points.sort_values("d_tokens").groupby("curve_id"):
        train, test = whole[whole.is_train == 1], whole[whole.is_train == 0]
        if len(test) == 0:
            continue
        splits.append((str(curve), train, test))
        fits.append({law: _usable(law, train, starts=12) for law in CURVES})
        for law, found in fits[-1].items():
            errors[law].append(_rmse(found.curve(columns(found.surface.name, test)), test))
            rolled[law].append(_rolled(law, train))
        errors["last value"].append(_rmse(np.full(len(test), train.loss.iloc[-1]), test))
    chosen = min(CURVES, key=lambda law: np.mean(rolled[law]))
    mean = {k: float(np.mean(v)) for k, v in errors.items()}
    text = ", ".join(f"{k} {v:.4f}" for k, v in mean.items() if k != "last value")
    yield row(
        name,
        f"mean RMSE of extrapolation, {len(splits)} curves",
        f"{mean[chosen]:.4f} by {chosen}, chosen on the last third of the training points ({text})",
        f"0.0193 (plain M2 refit); last value {mean['last value']:.4f} (measured here)",
        mean[chosen] <= 0.0193,
        drawn={
            "learning_curves": pd.DataFrame(
                {
                    "curve": [curve for curve, _, _ in splits],
                    "law": errors[chosen],
                    "last value": errors["last value"],
                    "chosen": chosen,
                }
            )
        },
    )
    parts, noisy, wrong, undrifted = [], [], [], 0
    for (_, train, test), found in zip(splits, fits, strict=True):
        block = np.arange(len(train)) // 3  # neighbours share their error
        options = dict(cluster=block, draws=80)
        law = found[chosen]
        ensemble = draws(law, train, "loss", "residual", starts=1, **options)
        try:
            by = ("learning_curves", law.surface.name, train, "loss", ("d_tokens",))
            drift = drifts(*by, shares=(0.7,), **options)
            wrong.append(realised(law, drift, test.tail(1), "loss"))
        except LawError:  # no early part of this curve bends enough to be fitted
            drift, undrifted = None, undrifted + 1
        parts.append(inside(ensemble, test.tail(1), "loss", drift))
        noisy.append(inside(ensemble, test.tail(1), "loss"))
    yield from _model_decisions(
        [(*split, found[chosen]) for split, found in zip(splits, fits, strict=True)]
    )
    question = f"last point of each curve ({undrifted} without drift)"
    yield coverage_row(name, question, parts, noisy, wrong)


def _usable(law: str, train: Table, starts: int) -> SurfaceFit:
    """A law, or the plain power law where the curve does not carry it."""
    found = fit(law, train, "loss", starts=starts)
    return found if found.usable else fit("power_tokens", train, "loss", starts=starts)


def _rolled(law: str, train: Table) -> float:
    """RMSE over the last third (in log examples) of a fit to what precedes it."""
    late = np.log(train.d_tokens) > np.quantile(np.log(train.d_tokens), 2 / 3)
    early = _usable(law, train[~late], starts=12)
    return _rmse(early.curve(columns(law, train[late])), train[late])


def _rmse(predicted: np.ndarray, table: Table) -> float:
    return float(np.sqrt(np.mean((predicted - table.loss.to_numpy(float)) ** 2)))


def _model_decisions(models: list[tuple[str, Table, Table, SurfaceFit]]) -> Iterator[Row]:
    """Which of two models is better on a task at the largest size both were seen at."""
    right: dict[str, list[bool]] = {"law": [], "last": []}
    for one, other in combinations(models, 2):
        (a, train_a, test_a, fit_a), (b, train_b, test_b, fit_b) = one, other
        if a.split("|")[1] != b.split("|")[1]:
            continue
        at = min(test_a.d_tokens.max(), test_b.d_tokens.max())
        spot = {"d_tokens": np.array([float(at)])}
        truth = [np.interp(at, t.d_tokens, t.loss) for t in (test_a, test_b)]
        ours = [fit_a.curve(spot)[0], fit_b.curve(spot)[0]]
        both = min(train_a.d_tokens.max(), train_b.d_tokens.max())
        last = [np.interp(both, t.d_tokens, t.loss) for t in (train_a, train_b)]
        right["law"].append((ours[0] < ours[1]) == (truth[0] < truth[1]))
        right["last"].append((last[0] < last[1]) == (truth[0] < truth[1]))
    yield row(
        "learning_curves (IC)",
        f"decision accuracy, {len(right['law'])} pairs of models on one task",
        f"law {np.mean(right['law']):.1%}",
        f"last shared training size {np.mean(right['last']):.1%} (single-scale ranking)",
        bool(np.mean(right["law"]) >= np.mean(right["last"])),
    )


# %%
def dclm_database() -> Iterator[Row]:
    """CORE error of a corpus at 7B from its error at 1B: a link, since two scales are no curve."""
    name = "dclm_database"
    models = read(name, "models.csv").dropna(subset=["core_centered_acc"])
    table = models.groupby(["source", "scale"]).core_centered_acc.mean().unstack()
    for low, high, reference in (("1b-1x", "7b-1x", 0.77), ("400m-1x", "1b-1x", 0.71)):
        both = table[[low, high]].dropna()
        single = agreements(both[low].to_numpy(), both[high].to_numpy())
        n_sources, accuracy = len(both), float(np.mean(single))
        question = f"{low} to {high}: decision accuracy over {n_sources} shared corpora"
        yield row(
            name,
            question,
            f"law: none ({_two_scales(both, low, high)}); single-scale {accuracy:.3f}",
            f"{reference} (plain)",
            round(accuracy, 2) >= reference,
        )
        link = pd.DataFrame({"loss": 1 - both[low], "error": 1 - both[high]}).reset_index()
        off, naive, parts, drawn = [], [], [], []
        for held in range(len(link)):
            train, test = link.drop(index=held), link.iloc[[held]]
            found = fit("shifted_power", train, "error", starts=24)
            if not found.usable:
                continue
            off.append(abs(found.curve(columns("shifted_power", test))[0] - test.error.iloc[0]))
            naive.append(abs(train.error.mean() - test.error.iloc[0]))
            drawn.append(predicted(found, test, "error", link=f"{low} to {high}"))
            ensemble = draws(found, train, "error", "residual", draws=200, starts=1)
            parts.append(inside(ensemble, test, "error"))
        yield row(
            name,
            f"{low} to {high}: CORE error of a corpus left out, shifted-power link",
            f"{np.mean(off):.4f}",
            f"{np.mean(naive):.4f} (mean of the others, measured here)",
            bool(np.mean(off) < np.mean(naive)),
            drawn={"dclm": pd.concat(drawn)},
        )
        yield coverage_row(name, f"{low} to {high}, each corpus left out", parts)


def _two_scales(both: Table, low: str, high: str) -> str:
    """What the fit of one corpus's own curve says."""
    two = pd.DataFrame({"flops": [1.0, 10.0], "error": 1 - both[[low, high]].iloc[0].to_numpy()})
    found = fit("power_compute", two, "error")
    assert not found.usable
    return found.outcome
