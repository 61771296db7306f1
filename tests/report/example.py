"""A realistic decision to render: five sources, six budgets, invented numbers with a known form.

Scores follow floor + scale * effective_tokens ** -exponent plus seeded noise, so the figures look
like those of a real sweep. `decision()` is complete; keyword arguments replace its fields.
"""

from __future__ import annotations

import json
import random
from typing import Any

from anneal.report.decision import (
    AllocationRow,
    Beats,
    BindingLimit,
    Decision,
    Evidence,
    NextBest,
    NextRun,
    NoiseRow,
    Registration,
    Sensitivity,
)
from anneal.report.law_rows import (
    Crossover,
    FitRow,
    FormRow,
    HoldOutRow,
    Interval,
    MixtureCheck,
    RuleError,
    SourceFit,
)

from .example_sources import effects, ranks, sources
from .world import (
    BUDGETS,
    FLOPS_PER_TOKEN,
    REAL,
    SOURCES,
    around,
    curves,
    marginal,
    money,
    points,
    score,
)


def fit() -> FitRow:
    return FitRow(
        form="power_shared_floor",
        formula="score = E + A_s * D'^-a_s",
        reason="smallest held-out error of three forms (0.0061 bpb against 0.0083 and 0.0140)",
        forms=(
            FormRow(
                form="power_shared_floor",
                formula="score = E + A_s * D'^-a_s",
                weight=0.62,
                error=0.0046,
                predicted=3,
            ),
            FormRow(
                form="pure_power",
                formula="score = A_s * D^-a_s",
                weight=0.38,
                error=None,
                predicted=0,
            ),
        ),
        drift="beyond 16,777,216 tokens the score may leave the curves by 0.80% (SD) a doubling",
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
    rows = (
        ("natural proportions", mix, 0.964, 0.0312, 0.0151),
        ("uniform", dict.fromkeys(SOURCES, 0.2), 0.913, 0.0188, 0.0135),
        ("runner-up", {"stdlib": 0.6, "packages_filtered": 0.4}, 0.627, 0.0021, 0.0064),
        ("single-scale pick", {"packages_filtered": 1.0}, 0.884, 0.0213, 0.0171),
        ("replay only", {"general": 1.0}, 0.998, 0.117, 0.0222),
    )
    return tuple(
        Beats(name=n, shares=s, probability=p, gain=around(gain, half), tie=gain < 0.005)
        for n, s, p, gain, half in rows
    )


def evidence() -> Evidence:
    return Evidence(
        planned=62,
        finished=62,
        reused=14,
        failed={},
        missing=(),
        excluded=(),
        flops=2.9e15,
        acquisition_flops=4.1e13,
        seconds=1620.0,
        usd=0.19,
        share_of_real_budget=0.083,
    )


def noise() -> tuple[NoiseRow, ...]:
    rows = (
        ("stdlib-heldout", False, around(0.0058, 0.0017), 0.0412, 7.1, "above twice the noise"),
        ("prose-heldout", True, around(0.0041, 0.0012), 0.0103, 2.5, "guard"),
    )
    return tuple(
        NoiseRow(
            target=target,
            guard=guard,
            seeds=3,
            degrees=12,
            sd=sd,
            signal=signal,
            snr=snr,
            kept=True,
            reason=reason,
        )
        for target, guard, sd, signal, snr, reason in rows
    )


def crossovers() -> tuple[Crossover, ...]:
    tokens = Interval(value=2.5e5, low=1.6e5, high=4.1e5)
    flops = Interval(value=4.4e13, low=1.2e13, high=9.9e13)
    rows = (
        ("stdlib", "exercises", "tokens", tokens, 0.92, float(BUDGETS[0]), float(REAL)),
        ("packages_filtered", "packages", "usd", None, 0.04, 0.01, 2.6),
        ("exercises", "packages", "total_flops", flops, 0.61, 2e12, 6e14),
    )
    return tuple(
        Crossover(
            first=first,
            second=second,
            axis=axis,
            found=at is not None,
            at=at,
            probability=probability,
            low=low,
            high=high,
        )
        for first, second, axis, at, probability, low, high in rows
    )


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
            metric="bits per byte on stdlib-heldout",
            threshold="2 seed SD",
            budget="32.8M tokens",
            stop="the plan as laid out, no early stop",
            address="5f0d3c9a1b7e42d8c6aa",
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
        "rule_errors": (
            RuleError(
                score="score",
                budgets=(BUDGETS[3],),
                runs=(1,),
                off=(-0.0026,),
                slope=around(-0.001, 0.008),
                lasts=0.61,
                part=0.66,
                change=around(-0.003, 0.02),
                rule=around(1.589, 0.017),
                corrected=around(1.584, 0.019),
            ),
        ),
        "allocation": allocation(),
        "binding": (
            BindingLimit(
                limit="stdlib epochs 16",
                value=0.0041,
                unit="million tokens",
                shadow_price="one more million tokens of stdlib is worth 0.0041 bpb",
            ),
        ),
        "sensitivity": (
            Sensitivity(
                change="epochs cap 8",
                shares={"packages_filtered": 0.52, "stdlib": 0.48},
                score=1.589,
                flips=True,
            ),
            Sensitivity(
                change="budget +50%",
                shares={"stdlib": 0.51, "packages_filtered": 0.49},
                score=1.561,
                flips=False,
            ),
        ),
        "next_best": NextBest(
            rows=tuple(
                NextRun(
                    source=source,
                    tokens=8_388_608,
                    unique=2_100_000,
                    flops=1.1e14,
                    usd=0.31,
                    hours=0.31,
                    gain=around(gain, 0.0004),
                    per_price=gain / 0.31,
                    changes=0.22,
                    worthwhile=gain > 0.001,
                )
                for source, gain in (("stdlib", 0.0016), ("packages_filtered", 0.0012))
            ),
            stop=False,
            reason="expected regret is 0.0084; the best single run takes 19% of it away",
            regret=0.0084,
            price="device-hour",
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
    }
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
