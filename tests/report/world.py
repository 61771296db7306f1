"""The planted world of the example: its sources, budgets, scores, money, runs and curves."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from anneal.report.law_rows import CurveLine, CurvePoint, Interval

FLOOR = 1.32
SOURCES: dict[str, tuple[str, float, float, int, float]] = {
    # kind, scale, exponent, unique tokens, USD per million tokens
    "stdlib": ("high_quality", 18.0, 0.250, 2_100_000, 0.0),
    "packages": ("general", 9.8, 0.187, 41_238_016, 0.02),
    "packages_filtered": ("filtered", 12.4, 0.211, 12_450_000, 0.11),
    "exercises": ("synthetic", 4.6, 0.14, 8_300_000, 0.64),
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


def line(source: str, value: Callable[[float], float], half: Callable[[float], float]) -> CurveLine:
    tokens = [BUDGETS[0] * (REAL * 1.5 / BUDGETS[0]) ** (i / 40) for i in range(41)]
    return CurveLine(
        source=source,
        tokens=tuple(tokens),
        flops=tuple(FLOPS_PER_TOKEN * 2 * t for t in tokens),
        total_flops=tuple(
            FLOPS_PER_TOKEN * 2 * t + 8e5 * min(t, SOURCES[source][3]) for t in tokens
        ),
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
