"""Backtests on curves and scales: datablations, learning_curves, dclm_database."""

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
    relative,
    row,
)
from anneal.errors import LawError
from anneal.laws.catalogue import SURFACES
from anneal.laws.surface_fits import SurfaceFit

# %%
PUBLISHED_DATABLATIONS = {
    "A": np.exp(6.255414),
    "B": np.exp(7.3049974),
    "E": np.exp(0.6254804),
    "alpha": 0.3526596,
    "beta": 0.3526596,
    "R_D": 15.387756,
    "R_N": 5.309743,
}


def datablations() -> Iterator[Row]:
    """From the first epochs of each corpus's three runs, the ends of the runs (44 epochs)."""
    name = "datablations"
    curves = read(name, "loss_curves.csv").rename(columns={"d_unique_tokens": "u_tokens"})
    curves = curves[curves.u_tokens < curves.d_tokens.groupby(curves.run).transform("max")]
    curves = curves.assign(epochs=curves.d_tokens / curves.u_tokens)
    tables = [_thinned(g) for _, g in curves.groupby("run")]
    thin = pd.concat(tables)
    yield row(
        name,
        "table",
        f"{thin.run.nunique()} runs, {len(thin)} points (log-spaced, mean of their neighbours)",
        "which losses, and the learning rates, are not in the table",
    )
    names = ("chinchilla", "effective_data", "datablations")
    for limit in (4, 12):
        seen = (thin.epochs <= limit) & (thin.epochs > 0.1)
        ends = thin[thin.epochs > 0.9 * thin.epochs.groupby(thin.run).transform("max")]
        errors: dict[str, list[float]] = {n: [] for n in (*names, "qqt by run", "last value")}
        kinds = []
        for _, group in thin[seen].groupby("source"):
            goal = ends[ends.source == group.source.iloc[0]]
            last = group.sort_values("d_tokens").groupby("run").loss.last()
            errors["last value"] += list(np.abs(last[goal.run].to_numpy() / goal.loss - 1))
            for run, own in group[group.epochs > 0.1].groupby("run"):
                end = goal[goal.run == run]
                errors["qqt by run"] += list(np.abs(relative(fit("qqt", own, "loss"), end, "loss")))
            for law in names:
                found = fit(law, group, "loss")
                if found.usable:
                    errors[law] += list(np.abs(relative(found, goal, "loss")))
                if law == "effective_data":
                    kinds.append(f"{found.parameters.get('R_D', np.nan):.3g}")
        text = ", ".join(
            f"{k} {100 * np.mean(v):.2f}%" for k, v in errors.items() if "last" not in k
        )
        yield row(
            name,
            f"loss at the runs' ends (44 epochs) from their first {limit} epochs",
            f"{text}; R_D {' and '.join(kinds)}",
            f"last value {100 * np.mean(errors['last value']):.2f}% (measured here)",
            bool(np.mean(errors["effective_data"]) < np.mean(errors["last value"])),
        )
    ends = ends[ends.source == "c4"]
    surface = SURFACES["datablations"]
    where = columns("datablations", ends)
    values = np.array([[PUBLISHED_DATABLATIONS[n] for n in surface.names(where)]])
    off = surface.law(values, where)[0][0] / ends.loss.to_numpy(float) - 1
    text = f"{100 * np.mean(np.abs(off)):.2f}%"
    yield row(name, "error of the published law at the C4 ends", text, "no published figure")
    yield from _datablations_between(thin)


def _thinned(run: Table, count: int = 60) -> Table:
    """One point for each of `count` log-spaced stretches of a run: the mean of its rows."""
    edges = np.geomspace(run.d_tokens.min(), run.d_tokens.max() * 1.0001, count + 1)
    part = run.groupby(np.digitize(run.d_tokens, edges))
    means = part[["n_params", "d_tokens", "u_tokens", "epochs", "loss"]].mean()
    return means.assign(run=run.run.iloc[0], source=run.source.iloc[0])


def _datablations_between(thin: Table) -> Iterator[Row]:
    """The largest model's whole curve from the two smaller ones."""
    errors: dict[str, list[float]] = {"qqt": []}
    naive = []
    for _, group in thin[thin.epochs > 0.1].groupby("source"):
        largest = group.n_params.max()
        small, large = group[group.n_params < largest], group[group.n_params == largest]
        for law in errors:
            found = fit(law, small, "loss")
            if found.usable:
                errors[law] += list(np.abs(relative(found, large, "loss")))
        near = small[small.n_params == small.n_params.max()].sort_values("d_tokens")
        same = np.interp(np.log(large.d_tokens), np.log(near.d_tokens), near.loss)
        naive += list(np.abs(same / large.loss - 1))
    text = ", ".join(f"{k} {100 * np.mean(v):.2f}%" for k, v in errors.items())
    best = min(np.mean(v) for v in errors.values())
    yield row(
        "datablations",
        "8.7B curve from 2.8B and 4.2B (laws in N need three sizes)",
        text,
        f"the 4.2B curve itself {100 * np.mean(naive):.2f}% (measured here)",
        bool(best < np.mean(naive)),
    )


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
    parts, noisy, undrifted = [], [], 0
    for (_, train, test), found in zip(splits, fits, strict=True):
        block = np.arange(len(train)) // 3  # neighbours share their error
        options = dict(cluster=block, draws=80)
        law = found[chosen]
        ensemble = draws(law, train, "loss", "residual", starts=1, **options)
        try:
            drift = drifts(law.surface.name, train, "loss", ("d_tokens",), shares=(0.7,), **options)
        except LawError:  # no early part of this curve bends enough to be fitted
            drift, undrifted = None, undrifted + 1
        parts.append(inside(ensemble, test.tail(1), "loss", drift))
        noisy.append(inside(ensemble, test.tail(1), "loss"))
    yield from _model_decisions(
        [(*split, found[chosen]) for split, found in zip(splits, fits, strict=True)]
    )
    question = f"last point of each curve ({undrifted} without drift)"
    yield coverage_row(name, question, parts, noisy)


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
