"""The example's sources: what they are, their effects against the control, their ranks."""

from __future__ import annotations

import random

from anneal.report.decision import EffectRow, RankRow, SourceRow

from .world import BUDGETS, SOURCES, around, money, score


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
