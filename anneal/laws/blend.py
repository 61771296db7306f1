"""Several forms at once: averaged by how they predicted, with what no form knows added on top.

One form's bootstrap knows the noise of the runs, not the shape of the curve: fitted with a wrong
shape, its 90% interval held the truth 16 times beyond the data in half of our simulated worlds
(`uncertainty`). Two things mend that.

**Weights.** Forms are averaged by what they said of budgets they had not seen, and by their
residuals at those they had (`rolling`). No form is dropped for being second: forms that predict
alike count alike, and where they part beyond the data the interval widens (stacking's purpose; Yao
1704.02030).

**Drift.** What is left is that all forms may be wrong together. The log score of group i may leave
the average by d_i per doubling beyond the largest budget, d_i = common + own. A common drift moves
all sources alike and so leaves their order; an own drift does not. Both variances have a scaled
inverse chi-square posterior: what is assumed, counting for `PRIOR_CELLS` rolled budgets, and what
the rolling errors of the average have beyond what was to be expected of them: run noise, the
uncertainty of each form's parameters (to first order) and the spread between forms, all of which
the draws have anyway. Each draw takes its SDs from it, so few budgets give heavy tails.

What is assumed depends on whether the noise is known. On 46 problems of published runs without
repeated seeds (`analysis.backtest_sources`), where misses may be noise or shape and nothing tells
which, 0.8% and 0.5% a doubling make 50 / 80 / 95% intervals of new runs right on average; there the
SD of a form's residuals said nothing of its drift. Repeated seeds say what noise is, and what is
left for drift is less. Measured coverage, simulated and published: `analysis/BACKTEST.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from anneal.errors import LawError
from anneal.laws.fits import Fit, fit
from anneal.laws.forms import FORMS, Form, Frame, Where
from anneal.laws.points import Floats, Points
from anneal.laws.rolling import Rolled, averaged, by_cell, noise_between_seeds, rolling, weigh
from anneal.laws.uncertainty import Ensemble, bootstrap

SEEDED = (0.001, 0.0007)
"""Common and own SD of the drift, log score per doubling, where repeated seeds tell the noise
(assumed)."""
UNSEEDED = (0.008, 0.005)
"""The same where nothing tells noise from shape (measured on published runs, see above)."""
PRIOR_CELLS = 8.0
"""Rolled budgets that the assumed SDs count for."""
SURE = 1.0
"""Standard errors by which rolled errors must exceed expectation to count as drift: their squares
scatter, and what is above expectation by chance would widen every interval."""
NEGLIGIBLE = 0.02
"""Weight below which a form is left out: it would get a draw or none."""


@dataclass(frozen=True, eq=False)
class Blend:
    """Forms averaged: draws of each in proportion to its weight, and the drift of every draw.

    Args:
        members: ensembles of the forms, the heaviest first; their draws, in this order, are ours.
        weights: of the members, summing to 1.
        drift: (draws, m) log score per doubling beyond the largest budget, by group.
        rolls: the members' own rolling predictions.
        rolled: errors of the average's.
        common_sd, own_sd: posterior scales of the drift, log score per doubling.
        assumed: what was assumed of the two.
    """

    members: tuple[Ensemble, ...]
    weights: tuple[float, ...]
    drift: Floats
    rolls: tuple[Rolled, ...]
    rolled: Rolled
    common_sd: float
    own_sd: float
    assumed: tuple[float, float]

    @property
    def fit(self) -> Fit:
        """The heaviest form at the data themselves."""
        return self.members[0].fit

    @property
    def form(self) -> Form:
        return self.fit.form

    @property
    def frame(self) -> Frame:
        return self.fit.frame

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the groups."""
        return self.fit.frame.labels

    @property
    def draws(self) -> int:
        """Draws of all members."""
        return int(self.drift.shape[0])

    @property
    def noise(self) -> Floats:
        """(draws,) relative noise SD that belongs to each draw."""
        return np.concatenate([m.noise for m in self.members])

    @property
    def failed(self) -> int:
        """Draws left out because their search did not settle."""
        return sum(m.failed for m in self.members)

    @property
    def bounded(self) -> int:
        """Draws with a parameter on a bound."""
        return sum(m.bounded for m in self.members)

    def code(self, label: str) -> int:
        """Code of a group by name; LawError where there is none."""
        return self.members[0].code(label)

    def curve(self, at: Where) -> Floats:
        """(draws, n) scores without run-to-run noise."""
        scores = np.concatenate([m.curve(at) for m in self.members])
        return np.asarray(scores * np.exp(self.drift[:, at.group] * self.doublings(at.tokens)))

    def doublings(self, tokens: Floats) -> Floats:
        """Doublings beyond the largest budget that was run; 0 within."""
        return np.asarray(np.log2(np.maximum(tokens / self.frame.high, 1.0)))

    def parameters(self) -> dict[str, Floats]:
        """(draws of the heaviest form,) of its every parameter by name."""
        return self.members[0].parameters()

    @property
    def named_weights(self) -> dict[str, float]:
        """Weights by the forms' names, the heaviest first."""
        names = [m.form.name for m in self.members]
        return dict(zip(names, self.weights, strict=True))

    def thinned(self, draws: int) -> Blend:
        """Every k-th draw of each member, at most `draws` in all and one each."""
        if draws >= self.draws:
            return self
        members, kept, before = [], [], 0
        for member in self.members:
            count = max(1, draws * member.draws // self.draws)
            keep = np.linspace(0, member.draws - 1, count).round().astype(np.int64)
            members.append(member.thinned(count))
            kept.append(before + keep[: members[-1].draws])
            before += member.draws
        return replace(self, members=tuple(members), drift=self.drift[np.concatenate(kept)])


Law = Ensemble | Blend
"""Curves with draws: of one form, or of several."""


def blend(
    forms: Sequence[str],
    points: Points,
    *,
    rng: np.random.Generator,
    draws: int = 400,
    repeats: bool = False,
) -> Blend:
    """Average `forms` by their rolling predictions, with draws and drift.

    Args:
        forms: names of `FORMS` that compete; those that cannot be fitted are left out.
        points: the table.
        draws: of the blend, shared among its members.
        repeats: whether the decision repeats tokens: then forms that do not price repetition count
            only where none that does can be fitted.

    Raises:
        LawError: no form can be fitted; the message is that of the first.
    """
    usable: dict[str, Fit] = {}
    refused: list[str] = []
    for name in forms:
        found = fit(name, points, rng=rng)
        if found.outcome == "ok":
            usable[name] = found
        else:
            refused.append(f"law `{name}`: {found.outcome}: {found.message}")
    if not usable:
        raise LawError(refused[0] if refused else "law: no forms to fit")
    pricing = [name for name in usable if FORMS[name].repeats]
    names = pricing if repeats and pricing else list(usable)
    rolls = {name: rolling(name, points, rng=rng) for name in names}
    weights = weigh(rolls, usable, points)
    kept = sorted((n for n in names if weights[n] >= NEGLIGIBLE), key=lambda n: -weights[n])
    total = sum(weights[n] for n in kept)
    shares = [weights[n] / total for n in kept]
    members = tuple(
        bootstrap(usable[n], points, draws=max(2, round(draws * w)), rng=rng)
        for n, w in zip(kept, shares, strict=True)
    )
    rolled = averaged([rolls[n] for n in kept], shares)
    noise = noise_between_seeds(points)
    assumed = UNSEEDED if noise is None else SEEDED
    scales = _drift_scales(rolled, points, noise or 0.0, assumed)
    drift = _drift((sum(m.draws for m in members), len(points.labels)), scales, rng)
    parts = tuple(rolls[n] for n in kept)
    sds = scales[0][0], scales[1][0]
    return Blend(members, tuple(shares), drift, parts, rolled, *sds, assumed)


def _drift_scales(
    rolled: Rolled, points: Points, noise: float, assumed: tuple[float, float]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Posterior scale and degrees of freedom of the common drift and of the own ones."""
    # by part: sum of squares beyond expectation, variance of what was expected, how many
    common, own = np.zeros(3), np.zeros(3)
    if rolled.error.size:
        groups = points.group[rolled.row.astype(np.int64)]
        expected = rolled.expected + np.eye(groups.size) * noise**2
        for rows in by_cell(rolled, np.arange(groups.size, dtype=np.float64)):
            at = rows.astype(np.int64)
            square = float(rolled.doublings[at].mean()) ** 2
            names = np.unique(groups[at])
            mean = (groups[at] == names[:, None]) / (groups[at] == names[:, None]).sum(
                axis=1, keepdims=True
            )
            apart, known = mean @ rolled.error[at], mean @ expected[np.ix_(at, at)] @ mean.T
            # of m correlated errors: variance of their mean, and mean of their sample variance
            shared, more = float(known.mean()), apart.size - 1
            common += (apart.mean() ** 2 - shared) / square, 2 * (shared / square) ** 2, 1
            if more:
                spread = float(np.trace(known)) - apart.size * shared
                squares = float(((apart - apart.mean()) ** 2).sum())
                own += (squares - spread) / square, 2 * (spread / square) ** 2 / more, more

    def posterior(sd: float, part: Floats) -> tuple[float, float]:
        beyond = max(float(part[0]) - SURE * float(np.sqrt(part[1])), 0.0)
        degrees = PRIOR_CELLS + float(part[2])
        return float(np.sqrt((PRIOR_CELLS * sd**2 + beyond) / degrees)), degrees

    return posterior(assumed[0], common), posterior(assumed[1], own)


def _drift(
    shape: tuple[int, int],
    scales: tuple[tuple[float, float], tuple[float, float]],
    rng: np.random.Generator,
) -> Floats:
    """(draws, m) drift, log score per doubling."""
    draws, groups = shape
    drift = np.zeros(shape)
    for (sd, degrees), width in zip(scales, (1, groups), strict=True):
        scale = sd * np.sqrt(degrees / rng.chisquare(degrees, (draws, 1)))
        drift = drift + scale * rng.standard_normal((draws, width))
    # its mean is chance alone, and would move the ranking of sources by a part of the drift's SD
    return np.asarray(drift - drift.mean(axis=0))
