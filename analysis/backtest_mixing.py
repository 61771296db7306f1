# %% [markdown]
# Do intervals of a mixture's score hold, where the rule for mixtures is right and where it is not?
#
#     python -m analysis.backtest_mixing [worlds of each kind]
#
# Worlds of `analysis.worlds` at 16 times the largest run, whose mixtures keep the rule exactly,
# and the same worlds with complements: a mixture's score is multiplied by
#
#     grows   exp(-c M log(1 + D / D0))      levels   exp(-2 c M (1 - exp(-D / D0)))
#     pairs   as `grows`, each pair of sources with a c of its own (log-normal, SD 0.5 of the log)
#
# M = 1 - sum of squared shares, D source tokens, c in 0.01 to 0.04 (the demo sweep: about 0.02),
# D0 from a quarter of the smallest budget to the largest. The uniform mix is run at every budget,
# three times at the middle one. Asked: the score at the real budget of the recommended allocation
# and of the uniform mix, by the rule alone and corrected (`anneal.allocation.mixing`).

# %%
from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from analysis import worlds
from analysis.settled import problem_of, settle
from analysis.worlds import EPOCHS, LADDER, NOISE, World
from anneal.allocation import allocate, mixture_score
from anneal.allocation.mixing import learn, mixedness
from anneal.laws import Law, band
from anneal.laws.points import Floats

KINDS = ("holds", "grows", "levels", "pairs")
SEEDS = np.array([1, 1, 3, 1, 1])
SOURCES = 4


def complements(kind: str, rng: np.random.Generator) -> Callable[[Floats], Floats]:
    """What multiplies the rule's score of mixtures (c, m), as a function of them."""
    c, d0 = rng.uniform(0.01, 0.04), np.exp(rng.uniform(np.log(LADDER[0] / 4), np.log(LADDER[-1])))
    own = np.exp(0.5 * rng.standard_normal((SOURCES + 1, SOURCES + 1)) - 0.125)
    own = np.triu(own, 1) + np.triu(own, 1).T

    def factor(tokens: Floats) -> Floats:
        total = tokens.sum(axis=1)
        share = tokens / total[:, None]
        mixed = np.einsum("ci,ij,cj->c", share, own, share) if kind == "pairs" else None
        much = mixedness(tokens) if mixed is None else mixed
        grown = 2 * -np.expm1(-total / d0) if kind == "levels" else np.log1p(total / d0)
        return np.exp(-c * much * grown) if kind != "holds" else np.ones(total.size)

    return factor


def uniform_runs(truth: World, law: Law) -> tuple[Floats, Floats, Floats]:
    """Tokens (b, m), true scores by the rule (b,) and the law's (draws, b) of the uniform mix."""
    tokens = np.zeros((len(LADDER), SOURCES + 1))
    tokens[:, :SOURCES] = np.array(LADDER)[:, None] / SOURCES
    clean, told = [], []
    for x, row in zip(LADDER, tokens, strict=True):
        pool = np.maximum(truth.pool * min(1.0, x / truth.real), row / EPOCHS)
        pool = np.where(pool >= np.minimum(row, truth.pool), truth.pool, pool)
        clean.append(replace(truth, pool=pool).mixture(row[None, :])[0])
        told.append(mixture_score(law, row[None, :], pool)[:, 0])
    return tokens, np.array(clean), np.stack(told, axis=1)


def study(truth: World, rng: np.random.Generator) -> dict[tuple[str, str], list[float]]:
    """By kind and mixture: its part of the error; then, of the rule alone and of the corrected
    score, whether the interval holds, its relative width, the log error of the mean."""
    points = worlds.runs(truth, rng)
    law, _ = settle(points, rng)
    answer = allocate(problem_of(truth, points, law), rng=rng, explained=False)
    ours = np.array([float(row.tokens) for row in answer.rows])
    even = np.minimum(np.append(np.full(SOURCES, truth.real / SOURCES), 0.0), truth.caps)
    asked = np.stack([ours, even])
    clean, plain = truth.mixture(asked), mixture_score(law, asked, truth.pool)
    tokens, ran, told = uniform_runs(truth, law)
    out: dict[tuple[str, str], list[float]] = {}
    for kind in KINDS:
        factor = complements(kind, rng)
        noise = NOISE * rng.standard_normal(len(LADDER)) / SEEDS**0.5
        error = learn(
            told,
            ran * factor(tokens) * np.exp(noise),
            SEEDS,
            tokens.sum(axis=1),
            noise=law.noise,
            sources=SOURCES,
            ladder=(LADDER[0], LADDER[-1]),
            rng=rng,
        )
        true, better = clean * factor(asked), plain * error.factor(asked)
        for i, name in enumerate(("recommended", "uniform")):
            row = [float(error.part(asked)[i])]
            for scores in (plain[:, i], better[:, i]):
                low, high = band(scores)
                off = float(np.log(scores.mean() / true[i]))
                row += [float(low <= true[i] <= high), float(high - low) / true[i], off]
            out[kind, name] = row
    return out


# %%
def main(each: int) -> None:
    seen = []
    for number, (family, place) in enumerate(
        (f, p) for f in ("effective", "qqt") for p in ("inside", "beyond", "absent")
    ):
        for repeat in range(each):
            rng = np.random.default_rng([29, number, repeat])
            seen.append(study(worlds.world(rng, family, place), rng))
            print(f"{len(seen)} of {6 * each}", file=sys.stderr, flush=True)
    print(f"{len(seen)} worlds; 90% intervals that hold the true score, rule alone -> corrected")
    for key in seen[0]:
        rows = np.array([one[key] for one in seen])
        held, held_now = rows[:, 1].sum(), rows[:, 4].sum()
        ratio = np.mean(rows[:, 5] / rows[:, 2])
        rms, rms_now = np.sqrt((rows[:, 3] ** 2).mean()), np.sqrt((rows[:, 6] ** 2).mean())
        print(
            f"{key[0]:<7}{key[1]:<12} part {rows[:, 0].mean():.2f}: holds {held:.0f} -> "
            f"{held_now:.0f}; mean width {rows[:, 2].mean():.1%} -> {rows[:, 5].mean():.1%} "
            f"(ratio {ratio:.2f}); mean error {rows[:, 3].mean():+.2%} -> "
            f"{rows[:, 6].mean():+.2%}, RMS {rms:.2%} -> {rms_now:.2%}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
