"""A realistic decision to render: five sources, six budgets, invented numbers with a known form.

Scores follow floor + scale * effective_tokens ** -exponent plus seeded noise, so the figures look
like those of a real sweep. `decision()` is complete; keyword arguments replace its fields.
"""

from __future__ import annotations

import json
import math
import random
from typing import Any

from anneal.report.decision import (
    AllocationRow,
    Beats,
    BindingLimit,
    Crossover,
    CurveLine,
    CurvePoint,
    Decision,
    EffectRow,
    Evidence,
    FitRow,
    HoldOutRow,
    Interval,
    MixtureCheck,
    NoiseRow,
    RankRow,
    Registration,
    Sensitivity,
    SourceFit,
    SourceRow,
)

FLOOR = 1.32
SOURCES: dict[str, tuple[str, float, float, int, float]] = {
    # kind, scale, exponent, unique tokens, USD per million tokens
    "stdlib": ("high_quality", 18.0, 0.250, 2_100_000, 0.0),
    "packages": ("general", 9.8, 0.187, 41_238_016, 0.02),
    "packages_filtered": ("filtered", 12.4, 0.211, 12_450_000, 0.11),
    "exercises": ("synthetic", 10.9, 0.195, 8_300_000, 0.64),
    "general": ("general", 7.4, 0.152, 19_700_000, 0.01),
}
BUDGETS = (131_072, 262_144, 524_288, 1_048_576, 2_097_152, 4_194_304)
REAL = 32_768_000
FLOPS_PER_TOKEN = 6 * 1.6e6


def around(value: float, half: float) -> Interval:
    return Interval(value=value, low=value - half, high=value + half)


def score(source: str, tokens: float) -> float:
    _, scale, exponent, unique, _ = SOURCES[source]
    excess = max(0.0, tokens / unique - 1)
    effective = min(tokens, unique) + unique * 15.4 * (1 - math.exp(-excess / 15.4)) * (excess > 0)
    return FLOOR + scale * effective**-exponent


def money(source: str, tokens: float) -> float:
    return SOURCES[source][4] * min(tokens, SOURCES[source][3]) / 1e6 + 2.1e-7 * tokens


def points(rng: random.Random) -> tuple[CurvePoint, ...]:
    rows = []
    for source in SOURCES:
        for budget in BUDGETS:
            for repetition in ("matched", "natural"):
                if repetition == "natural" and budget not in BUDGETS[-2:]:
                    continue
                for seed in range(3 if budget == BUDGETS[2] else 1):
                    fitted = score(source, budget)
                    largest = budget == BUDGETS[-1]
                    rows.append(
                        CurvePoint(
                            source=source,
                            run=f"{rng.getrandbits(80):020x}",
                            tokens=budget,
                            unique=min(budget, SOURCES[source][3]),
                            flops=FLOPS_PER_TOKEN * 2 * budget,
                            total_flops=FLOPS_PER_TOKEN * 2 * budget + 8e5 * budget,
                            usd=money(source, budget),
                            score=fitted + rng.gauss(0, 0.006) - 0.01 * (repetition == "natural"),
                            seed=seed,
                            repetition=repetition,
                            predicted=fitted,
                            held_out_prediction=around(fitted + 0.004, 0.018) if largest else None,
                            largest=largest,
                        )
                    )
    return tuple(rows)


def line(source: str, value: Any, half: Any) -> CurveLine:
    tokens = [BUDGETS[0] * (REAL * 1.5 / BUDGETS[0]) ** (i / 40) for i in range(41)]
    return CurveLine(
        source=source,
        tokens=tuple(tokens),
        flops=tuple(FLOPS_PER_TOKEN * 2 * t for t in tokens),
        total_flops=tuple(FLOPS_PER_TOKEN * 2 * t + 8e5 * min(t, SOURCES[source][3]) for t in tokens),
        usd=tuple(money(source, t) for t in tokens),
        score=tuple(value(t) for t in tokens),
        low=tuple(value(t) - half(t) for t in tokens),
        high=tuple(value(t) + half(t) for t in tokens),
    )


def curves() -> tuple[CurveLine, ...]:
    def half(tokens: float) -> float:
        return 0.004 + 0.008 * abs(math.log(tokens / 1e6)) ** 1.3

    return tuple(line(s, lambda t, s=s: score(s, t), half) for s in SOURCES)


def marginal(per_usd: bool) -> tuple[CurveLine, ...]:
    def slope(source: str, tokens: float) -> float:
        gain = (score(source, tokens) - score(source, tokens * 1.01)) / (tokens * 0.01)
        if not per_usd:
            return gain * 1e6
        return gain * tokens * 0.01 / (money(source, tokens * 1.01) - money(source, tokens))

    return tuple(
        line(s, lambda t, s=s: slope(s, t), lambda t, s=s: 0.25 * slope(s, t)) for s in SOURCES
    )


def sources() -> tuple[SourceRow, ...]:
    return tuple(
        SourceRow(
            name=name,
            kind=kind,
            tokens=tokens,
            documents=tokens // 1450,
            dropped={"near duplicate": tokens // 30_000, "overlaps a target": 41},
            licence="PSF-2.0" if name == "stdlib" else "mixed, permissive",
            usd_fixed=0.4 if kind == "synthetic" else 0.0,
            usd_per_million_tokens=usd,
            flops_per_token=8e5 if kind == "filtered" else 0.0,
            seconds_per_million_tokens=14.2,
            max_epochs=16.0,
            notes={"annotator": "hashed n-grams v1", "ROC-AUC": 0.94} if kind == "filtered" else {},
        )
        for name, (kind, _, _, tokens, usd) in SOURCES.items()
    )


def effects(rng: random.Random) -> tuple[EffectRow, ...]:
    rows = []
    for target, sign in (("stdlib-heldout", 1.0), ("prose-heldout", -0.12)):
        for source in SOURCES:
            if source == "general":
                continue
            for budget in BUDGETS:
                lift = sign * (score("general", budget) - score(source, budget))
                rows.append(
                    EffectRow(
                        source=source,
                        target=target,
                        budget=budget,
                        repetition="matched",
                        epochs=1.0 if source != "stdlib" else 15.6,
                        lift=around(lift + rng.gauss(0, 0.004), 0.013),
                        pairs=3 if budget == BUDGETS[2] else 1,
                        per_billion_tokens=lift / budget * 1e9,
                        per_usd=lift / money(source, budget) if source != "stdlib" else None,
                        significant=abs(lift) > 0.013,
                    )
                )
    return tuple(rows)


def ranks() -> tuple[RankRow, ...]:
    rows = []
    for budget in BUDGETS:
        order = sorted(SOURCES, key=lambda s: score(s, budget))
        rows.append(
            RankRow(
                budget=budget,
                ranking=tuple(order),
                scores=tuple(score(s, budget) for s in order),
                pick=order[0],
                agrees=order[0] == "stdlib",
                regret=around(0.021 if order[0] != "stdlib" else 0.0094, 0.0061),
            )
        )
    return tuple(rows)


def fit() -> FitRow:
    return FitRow(
        form="power_shared_floor",
        formula="score = E + A_s * D'^-a_s",
        reason="smallest held-out error of three forms (0.0061 bpb against 0.0083 and 0.0140)",
        shared={"E": around(1.324, 0.021), "R*": around(15.4, 4.2)},
        sources=tuple(
            SourceFit(
                source=name,
                parameters={"A": around(scale, 1.1), "a": around(exponent, 0.011)},
                at_real_budget=around(score(name, REAL), 0.021),
                probability_best={"stdlib": 0.71, "packages_filtered": 0.21}.get(name, 0.027),
            )
            for name, (_, scale, exponent, _, _) in SOURCES.items()
        ),
        converged=True,
        agreeing_starts=19,
        starts=24,
        on_bounds=(),
        residual_sd=0.0058,
        draws=400,
        failed_draws=3,
        bounded_draws=11,
        method="bootstrap by run within cells, 90% percentile intervals, 400 draws",
    )


def allocation() -> tuple[AllocationRow, ...]:
    rows = (
        ("stdlib", 0.481, 0.352, 0.625, 1.0),
        ("packages_filtered", 0.334, 0.195, 0.452, None),
        ("exercises", 0.124, 0.0, 0.231, 0.62),
        ("packages", 0.061, 0.0, 0.148, None),
        ("general", 0.0, 0.0, 0.021, None),
    )
    out = []
    for name, share, low, high, cap in rows:
        tokens, unique = round(share * REAL), SOURCES[name][3]
        out.append(
            AllocationRow(
                source=name,
                share=share,
                share_low=low,
                share_high=high,
                share_cap=cap,
                tokens=tokens,
                unique_tokens=min(tokens, unique),
                epochs=tokens / unique,
                epochs_cap=16.0,
                usd=money(name, tokens) if tokens else 0.0,
                flops=FLOPS_PER_TOKEN * tokens,
                acquisition_flops=8e5 * min(tokens, unique),
                available=unique,
            )
        )
    return tuple(out)


def beats() -> tuple[Beats, ...]:
    mix = {"packages": 0.49, "general": 0.24, "packages_filtered": 0.15, "exercises": 0.12}
    return (
        Beats(name="natural proportions", shares=mix, probability=0.964, gain=around(0.0312, 0.0151), tie=False),
        Beats(name="uniform", shares=dict.fromkeys(SOURCES, 0.2), probability=0.913, gain=around(0.0188, 0.0135), tie=False),
        Beats(name="runner-up", shares={"stdlib": 0.6, "packages_filtered": 0.4}, probability=0.627, gain=around(0.0021, 0.0064), tie=True),
        Beats(name="single-scale pick", shares={"packages_filtered": 1.0}, probability=0.884, gain=around(0.0213, 0.0171), tie=False),
        Beats(name="replay only", shares={"general": 1.0}, probability=0.998, gain=around(0.117, 0.0222), tie=False),
    )  # fmt: skip


def evidence() -> Evidence:
    return Evidence(
        planned=62, finished=62, reused=14, failed={}, missing=(), excluded=(), flops=2.9e15,
        acquisition_flops=4.1e13, seconds=1620.0, usd=0.19, share_of_real_budget=0.083,
    )  # fmt: skip


def noise() -> tuple[NoiseRow, ...]:
    return (
        NoiseRow(target="stdlib-heldout", guard=False, seeds=3, degrees=12, sd=around(0.0058, 0.0017), signal=0.0412, snr=7.1, kept=True, reason="signal above twice the noise"),
        NoiseRow(target="prose-heldout", guard=True, seeds=3, degrees=12, sd=around(0.0041, 0.0012), signal=0.0103, snr=2.5, kept=True, reason="guard"),
    )  # fmt: skip


def crossovers() -> tuple[Crossover, ...]:
    low, high = float(BUDGETS[0]), float(REAL)
    return (
        Crossover(first="stdlib", second="packages_filtered", axis="tokens", found=True,
                  at=Interval(value=6.1e5, low=3.8e5, high=1.1e6), probability=0.92, low=low, high=high),
        Crossover(first="packages_filtered", second="packages", axis="usd", found=False,
                  at=None, probability=0.04, low=0.01, high=2.6),
        Crossover(first="exercises", second="packages", axis="total_flops", found=True,
                  at=Interval(value=4.4e13, low=1.2e13, high=9.9e13), probability=0.61, low=2e12, high=6e14),
    )  # fmt: skip


def hold_out() -> tuple[HoldOutRow, ...]:
    return tuple(
        HoldOutRow(approach=a, mae=m, rank_correlation=r, top1_regret=t, coverage=c, chosen=k)
        for a, m, r, t, c, k in (
            ("power_shared_floor", 0.0061, 0.9, 0.0, 0.87, True),
            ("power", 0.0083, 0.9, 0.0, 0.8, False),
            ("last budget", 0.0342, 0.7, 0.0113, None, False),
            ("mean", 0.0561, None, 0.0288, None, False),
        )
    )


def decision(**replaced: Any) -> Decision:
    """The complete example; `replaced` fields win."""
    rng = random.Random(7)
    fields: dict[str, Any] = {
        "sweep": "demo",
        "question": "Which supply of Python code should a small general model be annealed on, "
        "to write standard-library-like Python?",
        "made": "2025-06-01T12:30:05+00:00",
        "verdict": "adopt with hold-out",
        "reason": "stdlib leads at the real budget and is worth its epochs; half of the draws "
        "would trade some of it for packages_filtered",
        "score": around(1.584, 0.019),
        "base_score": 2.213,
        "expected_regret": 0.0034,
        "regret_95": 0.0121,
        "probability_best": 0.71,
        "probability_guard": 0.97,
        "guards": {"prose-heldout": around(1.912, 0.011)},
        "guard_limits": {"prose-heldout": 1.944},
        "beats": beats(),
        "law_pick": "stdlib",
        "real_tokens": REAL,
        "real_usd": 2.4,
        "real_flops": FLOPS_PER_TOKEN * 2 * REAL,
        "axis": "tokens",
        "replay_share": 0.5,
        "extrapolation": REAL / BUDGETS[-1],
        "extrapolation_note": "7.8 times the largest budget tried: the law is trusted to 10 times",
        "parameters": 1_600_000,
        "partial": False,
        "registration": Registration(
            metric="bits per byte on stdlib-heldout", threshold="2 seed SD", budget="32.8M tokens",
            stop="the plan as laid out, no early stop", address="5f0d3c9a1b7e42d8c6aa",
            date="2025-06-01T11:58:41+00:00",
        ),
        "sources": sources(),
        "evidence": evidence(),
        "noise": noise(),
        "effects": effects(rng),
        "ranks": ranks(),
        "rank_stability": 0.84,
        "points": points(rng),
        "curves": curves(),
        "fit": fit(),
        "crossovers": crossovers(),
        "hold_out": hold_out(),
        "mixture_checks": (
            MixtureCheck(budget=BUDGETS[3], predicted=around(1.951, 0.021), measured=1.946),
        ),
        "allocation": allocation(),
        "binding": (
            BindingLimit(limit="stdlib epochs 16", value=0.0041, unit="million tokens",
                         shadow_price="one more million tokens of stdlib is worth 0.0041 bpb"),
        ),
        "sensitivity": (
            Sensitivity(change="epochs cap 8", shares={"packages_filtered": 0.52, "stdlib": 0.48}, score=1.589, flips=True),
            Sensitivity(change="budget +50%", shares={"stdlib": 0.51, "packages_filtered": 0.49}, score=1.561, flips=False),
        ),
        "marginal": marginal(False),
        "marginal_per_usd": marginal(True),
        "repetition": "matched at every budget, natural at the two largest",
        "warnings": ("exercises: 41 documents overlapped a target and were removed",),
        "statements": {
            "interval coverage on simulated truth": "88% of 90% intervals, 400 simulated sweeps",
            "comparisons": "48 source-control pairs, Holm correction",
        },
        "reproduce": {
            "command": "python -m anneal sweep sweeps/demo.yaml",
            "sweep address": "5f0d3c9a1b7e42d8c6aa",
            "code": "00f988d1c2",
            "torch": "2.11.0",
            "seeds": "0 1 2",
        },
    }  # fmt: skip
    return Decision(**(fields | replaced))


def partial() -> Decision:
    """The same sweep with four runs missing."""
    return decision(
        partial=True,
        verdict="run more",
        reason="four runs are missing, two of them at the largest budget",
        evidence=evidence().model_copy(
            update={
                "finished": 58,
                "failed": {"non_finite": 1, "out_of_memory": 1},
                "missing": (
                    "exercises 4.2M seed 0: non-finite loss at step 117",
                    "packages 4.2M seed 0: out of memory",
                    "general 2.1M seed 0: not started",
                    "general 4.2M seed 0: not started",
                ),
                "excluded": ("stdlib 131k seed 2: final loss 4 SD off",),
            }
        ),
    )


HOSTILE = "<img src=x onerror=alert(1)></script>|`**b**`"


def hostile() -> Decision:
    """The example with a source whose name tries to be HTML, Markdown and script."""
    text = decision().model_dump_json().replace('"stdlib"', json.dumps(HOSTILE))
    return Decision.model_validate_json(text)
