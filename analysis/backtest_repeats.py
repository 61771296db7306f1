"""Backtests on repeated data and schedules: datablations.

48 curves of validation loss: 3 sizes, 2 corpora, 8 pools of text each, 1 to 44 epochs. A curve is a
run label and a pool: the label alone names eight of them. The schedule is not in the table but in
the paper (2305.16264, appendix S, read in its text): 1% of the tokens of linear warm-up to 2e-4,
cosine to 2e-5, batches of 512 windows of 2048 tokens (1024 above 5B parameters). So these curves
are also a test of the learning-rate laws, which before were tested on planted curves only.

The first 5% of a run, five times the warm-up, is left out of fits: an assumption, and one that
matters for the ends after 5 epochs and more, from 4 (2% left out: 2.4%, 10%: 4.3%, 5%: 2.0%).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.backtest_rows import Row, Table, read, row
from anneal.laws.catalogue import SURFACES
from anneal.laws.schedule_laws import annealing_areas, annealing_drops
from anneal.laws.surface_fits import SurfaceFit, fit_surface

NAME = "datablations"
PUBLISHED = {
    "A": np.exp(6.255414),
    "B": np.exp(7.3049974),
    "E": np.exp(0.6254804),
    "alpha": 0.3526596,
    "beta": 0.3526596,
    "R_D": 15.387756,
    "R_N": 5.309743,
}
SKIPPED = 0.05
POINTS = 60
"""Log-spaced stretches of a curve, each the mean of its rows."""
BY_SCHEDULE = ("power_tokens", "tissue", "multi_power")
BY_POOL = ("chinchilla", "effective_data", "datablations", "annealed_effective", "annealed_overfit")
DRAWN = ("annealed_overfit", "effective_data")
Curve = tuple[Table, Table]
"""Points along a curve, and its end: the mean of its last 2%, one row."""


def datablations() -> Iterator[Row]:
    table = read(NAME, "loss_curves.csv").rename(columns={"d_unique_tokens": "u_tokens"})
    keys = ["source", "n_params", "u_tokens"]
    curves = [_curve(g) for _, g in table.groupby(keys)]
    points = sum(len(c[0]) for c in curves)
    ours = f"{len(curves)} curves, {points} points (log-spaced, mean of their neighbours)"
    yield row(NAME, "table", ours, "learning rates from 2305.16264, appendix S")
    for share in (0.3, 0.5, 0.7):
        yield _by_schedule([c for c in curves if c[1].epochs.iloc[0] < 4.5], share)
    for limit in (4, 7):
        yield from _by_pool(curves, limit)
    for limit in (4, 12):
        yield _by_itself([c for c in curves if c[1].epochs.iloc[0] > 40], limit)
    yield _published([c[1] for c in curves if c[1].source.iloc[0] == "c4"])


def _curve(run: Table) -> Curve:
    source, size = str(run.source.iloc[0]), float(run.n_params.iloc[0])
    run = run.groupby("d_tokens", as_index=False)[["n_params", "u_tokens", "loss"]].mean()
    total = float(run.d_tokens.max())
    edges = np.geomspace(run.d_tokens.min(), total * 1.0001, POINTS + 1)
    thin = run.groupby(np.digitize(run.d_tokens, edges)).mean()
    end = run[run.d_tokens > 0.98 * total].mean().to_frame().T.assign(d_tokens=total)
    return _scheduled(thin, total, size, source), _scheduled(end, total, size, source)


def _scheduled(part: Table, total: float, size: float, source: str) -> Table:
    """The columns of the laws; rates relative to the peak, s1 in 1e9 tokens at the peak."""
    batch = 2048.0 * (512 if size < 5e9 else 1024)
    steps = round(total / batch)
    warmup = max(steps // 100, 1)
    step = np.arange(1, steps + 1)
    cosine = 0.1 + 0.45 * (1 + np.cos(np.pi * (step - warmup) / (steps - warmup)))
    rate = np.where(step <= warmup, step / warmup, cosine)
    at = np.clip(np.round(part.d_tokens.to_numpy() / batch).astype(int), 1, steps)
    areas = annealing_areas(rate, at, warmup=warmup)
    drops = annealing_drops(rate, at, warmup=warmup, nodes=64)
    wide = {k: list(drops[k]) for k in ("drop", "rate", "since")}
    epochs, progress = part.d_tokens / part.u_tokens, part.d_tokens / total
    s1 = areas["s1"] * batch / 1e9
    known = dict(source=source, epochs=epochs, progress=progress, s1=s1, s2=areas["s2"])
    return part.assign(**known, **wide)


def _inputs(name: str, table: Table) -> dict[str, np.ndarray]:
    return {
        c.name: np.stack(table[c.name].to_list()) if c.wide else table[c.name].to_numpy(float)
        for c in SURFACES[name].inputs
    }


def _fit(name: str, table: Table) -> SurfaceFit:
    rng, loss = np.random.default_rng(0), table.loss.to_numpy(float)
    return fit_surface(SURFACES[name], _inputs(name, table), loss, rng=rng, starts=24)


def _errors(found: SurfaceFit, ends: Table) -> list[float]:
    """Predicted over measured minus one; infinite where the law could not be fitted."""
    if not found.usable:
        return [np.inf] * len(ends)
    curve = found.curve(_inputs(found.surface.name, ends))
    return list(curve / ends.loss.to_numpy(float) - 1)


def _mean(errors: list[float]) -> str:
    known = np.abs([e for e in errors if np.isfinite(e)])
    lost = len(errors) - known.size
    return f"{known.mean():.2%}" + (f" ({lost} unfitted)" if lost else "")


def _words(errors: dict[str, list[float]]) -> str:
    return ", ".join(f"{name} {_mean(found)}" for name, found in errors.items())


def _by_schedule(curves: list[Curve], share: float) -> Row:
    """The end of a run from its own beginning, on text that is hardly repeated."""
    errors: dict[str, list[float]] = {law: [] for law in BY_SCHEDULE}
    last = []
    for thin, end in curves:
        seen = thin[(thin.progress > SKIPPED) & (thin.progress <= share)]
        last.append(float(seen.loss.iloc[-1] / end.loss.iloc[0] - 1))
        for law in BY_SCHEDULE:
            errors[law] += _errors(_fit(law, seen), end)
    plain = min(np.mean(np.abs(errors["power_tokens"])), np.mean(np.abs(last)))
    return row(
        NAME,
        f"ends of {len(curves)} runs of 1 to 4 epochs from their first {share:.0%}, each by itself",
        _words({law: errors[law] for law in BY_SCHEDULE[1:]}),
        f"{BY_SCHEDULE[0]} {_mean(errors[BY_SCHEDULE[0]])}, last value {_mean(last)}",
        bool(np.mean(np.abs(errors["tissue"])) < plain),
    )


def _by_pool(curves: list[Curve], limit: int) -> Iterator[Row]:
    """Ends after many epochs from all that is seen in the first `limit`, corpus by corpus."""
    errors: dict[str, list[float]] = {law: [] for law in BY_POOL}
    last, new, epochs, drawn = [], [], [], []
    for source in ("c4", "oscar"):
        own = [c for c in curves if c[1].source.iloc[0] == source]
        seen = pd.concat([t[(t.progress > SKIPPED) & (t.epochs <= limit)] for t, _ in own])
        once = {e.n_params.iloc[0]: e.loss.iloc[0] for _, e in own if e.epochs.iloc[0] < 1.05}
        held = [(t, e) for t, e in own if e.epochs.iloc[0] > 1.05 * limit]
        ends = pd.concat([e for _, e in held])
        epochs += list(ends.epochs)
        last += [t[t.epochs <= limit].loss.iloc[-1] / e.loss.iloc[0] - 1 for t, e in held]
        new += [once[e.n_params.iloc[0]] / e.loss.iloc[0] - 1 for _, e in held]
        for law in BY_POOL:
            found = _fit(law, seen)
            errors[law] += _errors(found, ends)
            if law in DRAWN and found.usable:
                whole = pd.concat([t for t, e in held if e.epochs.iloc[0] > 40])
                drawn.append(_whole(found, whole[whole.progress > SKIPPED], limit))
    most = np.array(epochs) > 40
    baselines = {"last value": last, "the run on new text": new}
    cases = (
        (f"{int((~most).sum())} runs of at most 14 epochs", ~most),
        (f"{int(most.sum())} runs of 44 epochs", most),
        (f"all these {most.size} runs", np.ones(most.size, dtype=bool)),
    )
    for name, rows in cases:

        def part(found: dict[str, list[float]], rows: np.ndarray = rows) -> dict[str, list[float]]:
            return {k: list(np.array(v)[rows]) for k, v in found.items()}

        mine, others = part(errors)["annealed_overfit"], part(baselines)
        yield row(
            NAME,
            f"ends of {name} from what all runs show in their first {limit} epochs",
            _words(part(errors)),
            _words(others),
            bool(all(np.mean(np.abs(mine)) < np.mean(np.abs(v)) for v in others.values())),
            drawn={"datablations": pd.concat(drawn)} if name.startswith("44") and drawn else None,
        )


def _whole(found: SurfaceFit, runs: Table, limit: int) -> Table:
    """What a figure draws: runs of 44 epochs, and the law of the first `limit` epochs of all."""
    curve = found.curve(_inputs(found.surface.name, runs))
    kept = runs[["source", "n_params", "epochs", "loss"]].rename(columns={"loss": "measured"})
    return kept.assign(predicted=curve, law=found.surface.name, limit=limit)


def _by_itself(curves: list[Curve], limit: int) -> Row:
    """A run of 44 epochs from its own first epochs: laws that need no other run."""
    errors: dict[str, list[float]] = {"qqt": [], "tissue": []}
    last = []
    for thin, end in curves:
        seen = thin[(thin.progress > 0.01) & (thin.epochs <= limit)]
        last.append(float(seen.loss.iloc[-1] / end.loss.iloc[0] - 1))
        for law in errors:
            errors[law] += _errors(_fit(law, seen), end)
    best = min(np.mean(np.abs(v)) for v in errors.values())
    return row(
        NAME,
        f"ends of {len(curves)} runs of 44 epochs from their own first {limit}, each by itself",
        _words(errors),
        f"last value {_mean(last)}",
        bool(best < np.mean(np.abs(last))),
    )


def _published(ends: list[Table]) -> Row:
    surface, where = SURFACES["datablations"], pd.concat(ends)
    columns = _inputs("datablations", where)
    values = np.array([[PUBLISHED[n] for n in surface.names(columns)]])
    off = np.abs(surface.law(values, columns)[0][0] / where.loss.to_numpy(float) - 1)
    parts = ((1, 4.5), (4.5, 20), (20, 50))
    text = ", ".join(
        f"{low:g} to {high:g} epochs {off[where.epochs.between(low - 0.5, high)].mean():.2%}"
        for low, high in parts
    )
    return row(NAME, "error of the published law at the ends of the C4 runs", text, "not published")
