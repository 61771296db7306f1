"""A full run to render: three phases, invented numbers that look like those of a real one."""

from __future__ import annotations

import json
import math
import random
from itertools import accumulate
from typing import Any

from anneal.plan.predictions import Calibration, Held
from anneal.report.law_rows import Interval
from anneal.report.pretrained import (
    AuditRow,
    Evaluation,
    Foretold,
    LossPoint,
    PhaseRow,
    Pretrained,
    SpentRow,
)

from .example import HOSTILE

PHASES = {
    # tokens, learning rate, source -> tokens
    "general": (1_200_128, "constant at 0.003, warm-up 2%", {"general": 1_200_128}),
    "high-quality": (
        1_957_888,
        "linear from 0.003 to 0, warm-up 5%",
        {"stdlib": 935_168, "packages_filtered": 532_992, "general": 489_728},
    ),
    "synthetic-enhanced": (
        838_656,
        "linear from 0.003 to 0, warm-up 5%",
        {"exercises": 629_376, "general": 209_280},
    ),
}
REWARMED = "the law's runs decay once; this one has re-warmed 1 time by then"
TURNS = "the law's runs mix their sources evenly; this one takes them in turn"


def foretold() -> tuple[Foretold, ...]:
    rows = []
    ends = list(accumulate(tokens for tokens, _, _ in PHASES.values()))
    said = {
        # value, half of the interval, measured
        ("general", "score"): (3.0353, 0.0412, 3.0353),
        ("general", "prose_heldout"): (2.2131, 0.0223, 2.2131),
        ("high-quality", "score"): (1.8122, 0.0611, 1.8391),
        ("high-quality", "prose_heldout"): (2.2402, 0.0301, 2.2513),
        ("synthetic-enhanced", "score"): (1.7411, 0.0702, 1.8320),
        ("synthetic-enhanced", "prose_heldout"): (2.2551, 0.0330, 2.2602),
    }
    for (phase, score), (value, half, measured) in said.items():
        index = list(PHASES).index(phase)
        rows.append(
            Foretold(
                phase=phase,
                index=index,
                tokens=ends[index],
                score=score,
                predicted=Interval(value=value, low=value - half, high=value + half),
                measured=measured,
                inside=abs(measured - value) <= half,
                error=measured - value,
                counted=index > 0,
                known=index == 0,
                broken=(REWARMED, TURNS) if index == 2 else (),
                basis="the sweep's base, measured; interval of the difference of two runs"
                if index == 0
                else f"the law of `{score}` at 1,467,648 source tokens since the base, under 400 "
                "draws with the noise of one run",
                extrapolation=1.0 if index == 0 else 11.2 if index == 1 else 16.0,
                made="2026-01-01T09:30:00+00:00",
                address=f"{random.Random(phase + score).getrandbits(80):020x}",
            )
        )
    return tuple(rows)


def phases() -> tuple[PhaseRow, ...]:
    rows = []
    for index, (name, (tokens, schedule, _)) in enumerate(PHASES.items()):
        scores = {row.score: row.measured for row in foretold() if row.index == index}
        rows.append(
            PhaseRow(
                phase=name,
                index=index,
                asked=tokens,
                tokens=tokens,
                steps_asked=tokens // 1024,
                steps=tokens // 1024,
                batch=8,
                sequence=128,
                schedule=schedule,
                learning_rate=(3e-3, 1.6e-6, 3.7e-6)[index],
                loss=(4.02, 2.61, 2.14)[index],
                scores={k: v for k, v in scores.items() if v is not None},
                seconds=(61.2, 104.9, 44.7)[index],
                finished=f"2026-01-01T09:3{3 + 2 * index}:10+00:00",
                boundary=f"{random.Random(name).getrandbits(80):020x}",
                verified=True,
                weights=f"{random.Random(name + 'w').getrandbits(256):064x}",
            )
        )
    return tuple(rows)


def audit() -> tuple[AuditRow, ...]:
    return tuple(
        AuditRow(
            phase=phase,
            source=source,
            asked=tokens,
            laid_out=tokens,
            realised=tokens,
            unique=min(tokens, 372_736) if source == "stdlib" else tokens,
            difference=0,
        )
        for phase, (_, _, sources) in PHASES.items()
        for source, tokens in sources.items()
    )


def losses() -> tuple[LossPoint, ...]:
    rng, out = random.Random(1), []
    level = 7.8
    for index, (tokens, _, _) in enumerate(PHASES.values()):
        before = sum(list(t for t, _, _ in PHASES.values())[:index])
        floor = (3.95, 2.5, 2.1)[index]
        for i in range(1, 121):
            value = floor + (level - floor) * math.exp(-i / 18)
            out.append(
                LossPoint(tokens=before + tokens * i // 120, loss=value + rng.gauss(0, 0.05))
            )
        level = floor + 0.4
    return tuple(out)


def evaluations() -> tuple[Evaluation, ...]:
    out = []
    shown = {"score": (5.2, 3.03, 1.84, 1.83), "prose_heldout": (4.6, 2.21, 2.25, 2.26)}
    begin = 0
    for index, (tokens, _, _) in enumerate(PHASES.values()):
        for part in (0.25, 0.5, 0.75, 1.0):
            scores = {
                name: values[index + 1]
                + (values[index] - values[index + 1]) * math.exp(-5 * part) * (part < 1)
                for name, values in shown.items()
            }
            scores["stdlib_heldout"] = scores["score"]
            out.append(Evaluation(tokens=begin + round(tokens * part), phase=index, scores=scores))
        begin += tokens
    return tuple(out)


def calibration() -> Calibration:
    return Calibration(
        n=13,
        inside=10,
        runs=3,
        low=0.55,
        high=0.9,
        levels=(Held(level=0.9, n=13, inside=10, low=0.55, high=0.9),),
        mean_error=0.0312,
        mean_width=0.1083,
        broken=6,
        oldest="2025-11-02T08:00:00+00:00",
        newest="2026-01-01T09:30:00+00:00",
    )


def pretrained(**more: Any) -> Pretrained:
    tokens = sum(t for t, _, _ in PHASES.values())
    given: dict[str, Any] = {
        "name": "demo",
        "sweep": "demo",
        "question": "Which supply of Python code should a small general model be annealed on?",
        "made": "2026-01-01T09:41:00+00:00",
        "run": "0123456789abcdef0123",
        "state": "finished",
        "parameters": 1_312_000,
        "start": "scratch",
        "engine": "deepspeed, ZeRO 1",
        "processes": 2,
        "device": "cpu x86_64 x1",
        "precision": "float32",
        "tokens_per_second": 18_950.0,
        "mfu": 0.412,
        "attempts": 2,
        "resumed": 1,
        "phases": phases(),
        "foretold": foretold(),
        "audit": audit(),
        "spent": (
            SpentRow(what="tokens", asked=tokens, spent=tokens),
            SpentRow(what="steps", asked=tokens // 1024, spent=tokens // 1024),
            SpentRow(what="FLOPs", asked=3.1e13, spent=3.1e13, note="6 x parameters x tokens"),
            SpentRow(
                what="device-hours",
                asked=0.0873,
                spent=0.1169,
                note="asked: FLOPs / 1e+11 a second; spent: wall-clock x 2 with scoring",
            ),
            SpentRow(what="USD", asked=0.0035, spent=0.0047, note="0.04 USD a device-hour"),
        ),
        "evaluations": evaluations(),
        "losses": losses(),
        "guard_limits": {"prose_heldout": 2.31},
        "calibration": calibration(),
        "allocation": {"stdlib": 0.446, "packages_filtered": 0.254, "exercises": 0.3},
        "warnings": (),
        "reproduce": {
            "command": "python -m anneal pretrain",
            "run": "0123456789abcdef0123",
            "code": "0123456789ab",
            "versions": "python 3.11.9 torch 2.13.0",
        },
    }
    return Pretrained(**(given | more))


def aborted() -> Pretrained:
    """Ended in its second phase by a guard; nothing was predicted of one score."""
    rows = []
    for row in foretold():
        gone = {"measured": None, "inside": None, "error": None, "counted": False}
        if row.index and row.score != "score":
            gone |= {"predicted": None, "reason": "this run does not score `prose_heldout`"}
            gone |= {"broken": (), "basis": "", "extrapolation": None, "made": "", "address": ""}
        rows.append(row.model_copy(update=gone) if row.index else row)
    never = {"tokens": None, "steps": None, "learning_rate": None, "loss": None, "scores": {}}
    never |= {"seconds": None, "finished": "", "boundary": "", "verified": None, "weights": ""}
    first, *others = phases()
    return pretrained(
        state="aborted",
        aborted="guard `prose_heldout` 2.3511 above its limit 2.3100 at 2,100,224 tokens",
        phases=(first, *(row.model_copy(update=never) for row in others)),
        foretold=tuple(rows),
        audit=tuple(
            a
            if a.phase == "general"
            else a.model_copy(update={"realised": None, "unique": None, "difference": None})
            for a in audit()
        ),
        calibration=None,
        mfu=None,
        warnings=("the decision's sources were tokenised again",),
    )


def lopsided() -> Pretrained:
    """Phases as unlike as 500 to 50 to 5."""
    sizes = (500_000_000_000, 50_000_000_000, 5_000_000_000)
    ends = list(accumulate(sizes))

    def moved(tokens: int) -> int:
        begins = [0, *accumulate(t for t, _, _ in PHASES.values())]
        index = min(sum(tokens > b for b in begins) - 1, 2)
        part = (tokens - begins[index]) / (begins[index + 1] - begins[index])
        return round(ends[index] - sizes[index] * (1 - part))

    def at(rows: Any) -> tuple[Any, ...]:
        return tuple(r.model_copy(update={"tokens": moved(r.tokens)}) for r in rows)

    return pretrained(
        phases=tuple(
            p.model_copy(update={"asked": s, "tokens": s})
            for p, s in zip(phases(), sizes, strict=True)
        ),
        foretold=at(foretold()),
        losses=at(losses()),
        evaluations=at(evaluations()),
    )


def hostile() -> Pretrained:
    """Names that are really HTML and Markdown, everywhere a name can stand."""
    text = pretrained().model_dump_json()
    for name in ("stdlib_heldout", "stdlib", "high-quality", "prose_heldout"):
        text = text.replace(f'"{name}"', json.dumps(HOSTILE))
    return Pretrained.model_validate_json(text)
