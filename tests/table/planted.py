"""Tables of runs whose law is known: written by the tests, read by the program."""

from __future__ import annotations

import csv

import numpy as np

BASE, FLOOR, NOISE = 3.0, 1.5, 0.004
BUDGETS = (1e7, 2e7, 4e7, 8e7, 16e7)
LAWS = {  # exponent, scale in tokens: `slow` overtakes `quick` at 30M, and `web` never leads
    "quick": (0.10, 1e5),
    "slow": (0.22, 2.296e6),
    "web": (0.10, 1e6),
}


def truth(source: str, tokens: float) -> float:
    exponent, scale = LAWS[source]
    return FLOOR + (BASE - FLOOR) * (1 + tokens / scale) ** -exponent


def overtakes(first: str, second: str) -> float:
    grid = np.geomspace(1e6, 1e9, 20001)
    gap = np.array([truth(first, x) - truth(second, x) for x in grid])
    return float(grid[np.flatnonzero(np.diff(np.sign(gap)))[0]])


def rows(*, seeds=2, sources=tuple(LAWS), budgets=BUDGETS, noise=NOISE, seed=0) -> list[dict]:
    """One row a run and one of the base, as a person would keep them."""
    rng = np.random.default_rng(seed)
    out = [{"Source": "base", "Tokens": "0", "Seed": "", "Score": str(BASE)}]
    for source in sources:
        for tokens in budgets:
            for k in range(seeds):
                score = truth(source, tokens) * np.exp(noise * rng.standard_normal())
                out.append(
                    {
                        "Source": source,
                        "Tokens": f"{int(tokens):,}",
                        "Seed": str(k),
                        "Score": f"{score:.5f}",
                    }
                )
    return out


def write(path, table) -> str:
    columns = list(dict.fromkeys(name for row in table for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(table)
    return str(path)
