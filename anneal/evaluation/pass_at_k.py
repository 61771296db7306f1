"""pass@k: the chance that at least one of k completions passes the tests.

Drawing k completions and looking once is noisy. With n >= k completions of a problem, c of which
passed, the mean over all ways of choosing k of them is (arXiv 2107.03374, equation 1)

    1 - C(n - c, k) / C(n, k)  =  1 - prod over i in n-c+1 .. n of (1 - k / i)

It is exact and unbiased for independent completions. A score is its mean over problems; problems
differ far more than completions of one do, so the interval draws problems again, each with all its
completions (a cluster bootstrap). Where every problem came out alike, drawing again cannot tell
what a further problem would do, and Wilson's interval over the problems stands instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anneal.errors import SettingsError
from anneal.evaluation.values import LEVEL, Measure

DRAWS = 2000


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that k of n completions, drawn without putting back, hold one of the c that passed.

    Raises:
        SettingsError: k is not between 1 and n.
    """
    if not 1 <= k <= n:
        raise SettingsError(
            f"pass@{k} of {n} completions of a problem", hint="k must be from 1 to --samples"
        )
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def over_problems(counts: Sequence[tuple[int, int]], k: int, *, seed: int = 0) -> Measure:
    """Mean pass@k over problems with its interval.

    Args:
        counts: completions and how many of them passed, of each problem.
        k: as in `pass_at_k`.
        seed: of the bootstrap.

    Raises:
        SettingsError: k is more than some problem has completions.
    """
    values = np.array([pass_at_k(n, c, k) for n, c in counts])
    if (values == 0).all() or (values == 1).all():
        return binomial(int(values.sum()), len(values))
    return bootstrap_mean(values, seed=seed)


def bootstrap_mean(values: np.ndarray, *, seed: int = 0) -> Measure:
    """Mean of (items,) with the percentile interval of its bootstrap; no interval for one item."""
    return bootstrap_ratio(values, np.ones(len(values)), seed=seed)


def bootstrap_ratio(above: np.ndarray, below: np.ndarray, *, seed: int = 0) -> Measure:
    """Sum of `above` over sum of `below`, (items,) each; items are drawn again together."""
    value = float(above.sum() / below.sum())
    if len(above) < 2:
        return Measure(value=value, n=len(above))
    rng = np.random.default_rng(seed)
    drawn = np.empty(DRAWS)
    for at in range(DRAWS):  # one by one: items may be many
        chosen = rng.integers(len(above), size=len(above))
        drawn[at] = above[chosen].sum() / below[chosen].sum()
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Measure(
        value=value,
        stderr=float(drawn.std(ddof=1)),
        low=float(low),
        high=float(high),
        interval="bootstrap",
        n=len(above),
    )


def binomial(right: int, n: int) -> Measure:
    """Share of n items that are right, with Wilson's interval (Brown et al. 2001, equation 4)."""
    from scipy.stats import norm

    share = right / n
    z = float(norm.ppf((1 + LEVEL) / 2))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return Measure(
        value=share,
        stderr=(share * (1 - share) / n) ** 0.5,
        low=max(0.0, middle - half),
        high=min(1.0, middle + half),
        interval="binomial",
        n=n,
    )
