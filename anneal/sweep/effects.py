"""What the runs say before any law: noise, effects against the control, and single-scale ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from anneal.errors import LawError
from anneal.laws import Noise, Points, noise_floor
from anneal.plan.runs import CONTROL, UNIFORM
from anneal.report.decision import EffectRow, NoiseRow
from anneal.report.law_rows import Interval
from anneal.sweep.evidence import THRESHOLD, Evidence

if TYPE_CHECKING:
    import pandas as pd

AIM = "score"
"""Column of the aggregate score: the weighted mean of the targets that are not guards, bpb."""


def with_score(table: pd.DataFrame, evidence: Evidence) -> pd.DataFrame:
    """The ledger's table with the aggregate score as one more column."""
    aims = [t for t in evidence.design.targets if not t.guard]
    total = sum(t.weight for t in aims)
    score = sum(table[f"bpb {t.name}"] * (t.weight / total) for t in aims)
    return table.assign(**{AIM: score})


def main_repetition(evidence: Evidence) -> str:
    """The repetition that every budget has: what single-scale ranks and effects compare."""
    return "natural" if evidence.ask.budget.repetition == "natural" else "matched"


def points_of(table: pd.DataFrame, labels: Sequence[str], column: str) -> Points:
    """Results of the arms `labels` as points for the laws, the base as their anchor."""
    rows = table[table["source"].isin(labels) & (table["arm"] != "base")]
    base = table.loc[table["arm"] == "base", column]
    codes = {label: code for code, label in enumerate(labels)}
    return Points(
        labels=tuple(labels),
        group=np.array([codes[s] for s in rows["source"]], np.int64),
        tokens=rows["source_tokens"].to_numpy(float),
        unique=np.minimum(np.array(rows["unique_tokens"]), np.array(rows["source_tokens"])),
        score=np.array(rows[column], float),
        seed=rows["seed"].to_numpy(np.int64),
        anchor=float(base.iloc[0]) if len(base) else None,
    )


@dataclass(frozen=True)
class Paired:
    """Noise of a difference between two arms of one seed.

    Args:
        sd: pooled SD of the paired differences from their cell's mean, bits per byte.
        degrees: degrees of freedom; 0 where nothing was repeated.
    """

    sd: float
    degrees: int

    def half_width(self, pairs: int, alpha: float) -> float:
        """Half the two-sided interval of a mean of `pairs` differences."""
        quantile = float(stats.t.ppf(1 - alpha / 2, max(self.degrees, 1)))
        return quantile * self.sd / float(np.sqrt(pairs))


def noise_rows(table: pd.DataFrame, evidence: Evidence, labels: Sequence[str]) -> list[NoiseRow]:
    """Noise floor of every target, from runs that differ in their seed alone."""
    rows = []
    for target in evidence.design.targets:
        column = f"bpb {target.name}"
        points = points_of(table, [*labels, UNIFORM], column)
        try:
            noise = noise_floor(points, level=evidence.ask.law.level)
        except LawError:
            continue
        signal = _signal(table, evidence, labels, column)
        snr = signal / noise.sd if noise.sd else 0.0
        kept = target.guard or snr >= 1.0
        rows.append(
            NoiseRow(
                target=target.name,
                guard=target.guard,
                seeds=evidence.ask.budget.seeds,
                degrees=noise.degrees,
                sd=_sd(noise),
                signal=signal,
                snr=snr,
                kept=kept,
                reason="guard"
                if target.guard
                else "signal above noise"
                if kept
                else "noise above the differences between arms; the score still has it",
            )
        )
    return rows


def _sd(noise: Noise) -> Interval:
    return Interval(value=noise.sd, low=noise.low, high=noise.high, level=noise.level)


def _signal(table: pd.DataFrame, evidence: Evidence, labels: Sequence[str], column: str) -> float:
    """SD between the arms' means at the largest repeated budget."""
    budget = evidence.ask.budget.ladder[evidence.ask.budget.middle]
    rows = table[
        (table["budget"] == budget)
        & (table["repetition"] == main_repetition(evidence))
        & table["source"].isin(labels)
    ]
    means = rows.groupby("source")[column].mean()
    return float(np.std(np.array(means, float), ddof=1)) if len(means) > 1 else 0.0


def pairs_of(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Every run beside the control of its budget and seed: control minus run, in `lift`."""
    control = table.loc[table["source"] == CONTROL, ["budget", "seed", column]]
    others = table[~table["arm"].isin(["control", "base"])]
    joined = others.merge(control, on=["budget", "seed"], suffixes=("", " control"))
    return joined.assign(lift=joined[f"{column} control"] - joined[column])


def paired_noise(pairs: pd.DataFrame) -> Paired:
    """Pooled noise of paired differences."""
    groups = pairs.groupby(["source", "budget", "repetition"])["lift"]
    degrees = int((groups.size() - 1).sum())
    if not degrees:
        return Paired(0.0, 0)
    squares = float(((pairs["lift"] - groups.transform("mean")) ** 2).sum())
    return Paired((squares / degrees) ** 0.5, degrees)


def effect_rows(table: pd.DataFrame, evidence: Evidence) -> list[EffectRow]:
    """Each source against its matched control, at every budget, for every target.

    Intervals take the pooled paired noise; significance is corrected for the number of rows of a
    target (Bonferroni).
    """
    rows: list[EffectRow] = []
    for target in evidence.design.targets:
        pairs = pairs_of(table, f"bpb {target.name}")
        pairs = pairs[pairs["source"] != UNIFORM]
        noise = paired_noise(pairs_of(table, f"bpb {target.name}"))
        cells = pairs.groupby(["source", "budget", "repetition"], sort=True)
        for _, cell in cells:
            rows.append(_effect(evidence, target.name, cell, noise, len(cells)))
    return rows


def _effect(
    evidence: Evidence,
    target: str,
    cell: pd.DataFrame,
    noise: Paired,
    comparisons: int,
) -> EffectRow:
    level = evidence.ask.law.level
    lift, count = float(cell["lift"].mean()), len(cell)
    half = noise.half_width(count, 1 - level)
    strict = noise.half_width(count, (1 - level) / comparisons)
    prices = evidence.design.prices
    usd = float((cell["acquisition_usd"] + cell["flops"] * prices.usd_per_flop).mean())
    return EffectRow(
        source=str(cell["source"].iloc[0]),
        target=target,
        budget=int(cell["budget"].iloc[0]),
        repetition="matched" if cell["repetition"].iloc[0] == "matched" else "natural",
        epochs=float(cell["epochs"].mean()),
        lift=Interval(value=lift, low=lift - half, high=lift + half, level=level),
        pairs=count,
        per_billion_tokens=lift / float(cell["source_tokens"].mean()) * 1e9,
        per_usd=lift / usd if usd > 0 else None,
        significant=noise.degrees > 0
        and abs(lift) > max(strict, THRESHOLD * noise.sd / count**0.5),
    )


def single_scale(
    table: pd.DataFrame, evidence: Evidence, sources: Sequence[str]
) -> dict[int, list[tuple[str, float]]]:
    """Sources ranked by their mean score at each single budget, best first."""
    rows = table[(table["repetition"] == main_repetition(evidence)) & table["source"].isin(sources)]
    out: dict[int, list[tuple[str, float]]] = {}
    for budget in sorted({int(b) for b in rows["budget"]}):
        # the same seeds for every arm: a seed that one arm lacks would tilt the comparison
        cell = rows[rows["budget"] == budget].pivot_table(
            index="seed", columns="source", values=AIM
        )
        means = cell.dropna().mean() if len(cell.dropna()) else cell.mean()
        out[budget] = sorted(((str(s), float(v)) for s, v in means.items()), key=lambda p: p[1])
    return out


def rank_stability(ranks: dict[int, list[tuple[str, float]]]) -> float | None:
    """Mean Spearman correlation between the rankings of neighbouring budgets."""
    orders = [[name for name, _ in ranking] for ranking in ranks.values()]
    found = []
    for before, after in pairwise(orders):
        shared = [n for n in before if n in after]
        if len(shared) > 2:
            first, second = ([order.index(n) for n in shared] for order in (before, after))
            found.append(float(stats.spearmanr(first, second).statistic))
    return sum(found) / len(found) if found else None
