"""Several forms at once: averaged by how they predicted, with what no form knows added on top.

One form's bootstrap knows the noise of the runs, not the shape of the curve: fitted with a wrong
shape, its 90% interval held the truth 16 times beyond the data in half of our simulated worlds
(`uncertainty`). Two things mend that, and both come from the same back-test.

**Rolling origin.** Each form is fitted to the smallest budgets alone, from three of them up to all
but the largest, and asked for every larger budget. With budgets b_1 < ... < b_n that gives errors
at one doubling, at two, and so on, of predictions that were real predictions.

**Weights.** A form counts by w ~ mse^(-c/2), the likelihood of its c budgets predicted (all runs of
one budget and origin err together, so they count once) with the error variance profiled out. No
form is dropped for being second: forms that predict alike count alike, and where they part beyond
the data the interval widens (stacking's purpose; Yao 1704.02030).

**Drift.** What is left is that all forms may be wrong together. The log score of group i may leave
the average by d_i per doubling beyond the largest budget, d_i = common + own. Both variances are
what the rolling errors of the average have beyond what was to be expected of them: run noise, the
uncertainty of each form's parameters (to first order) and the spread between forms, all of which
the draws have anyway. They are scaled inverse chi-square posteriors whose prior counts for
`PRIOR_CELLS` observations. A common drift moves all sources alike and so leaves their order; an own
drift does not. Each draw takes its SDs from the posterior, so few budgets give heavy tails.

Measured coverage of the 90% interval of the curve (6 groups, 5 budgets, 3 seeds at one, 0.6%
noise, 160 draws, 12 worlds x 6 curves a row, standard errors 2 to 7 points):

    worlds and forms                                  inside   largest   4x     16x beyond
    shifted power; four forms                         92%      86%       88%    85%
    shifted power; `power` alone, a wrong shape       89%      90%       90%    89%
    a fast and a slow part; four forms, all wrong     97%      93%       92%    96%
    repeated pools, R* about 10 (8 worlds); 15 forms  94%      98%       94%    90%
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import block_diag

from anneal.errors import LawError
from anneal.laws.fits import SMALLEST_NOISE, Fit, fit, predict
from anneal.laws.forms import FORMS, Form, Frame, Where, evaluate, prior
from anneal.laws.points import Floats, Points
from anneal.laws.uncertainty import Ensemble, bootstrap, noise_floor

COMMON_SD = 0.003
"""Log score per doubling, all groups together (assumed, see the module's text)."""
OWN_SD = 0.002
"""Log score per doubling, one group against the others (assumed)."""
PRIOR_CELLS = 2.0
"""Observations that the assumed SDs count for."""
FEWEST_BUDGETS = 3
"""A form is asked to predict only from this many budgets on."""
NEGLIGIBLE = 0.02
"""Weight below which a form is left out: it would get a draw or none."""


@dataclass(frozen=True, eq=False)
class Rolled:
    """What one form, or the average of several, said about budgets that it had not seen.

    Args:
        origin: (k,) largest budget fitted to, tokens.
        row: (k,) row of the table that was predicted.
        doublings: (k,) log2 of the row's budget over the origin.
        error: (k,) log predicted minus log measured.
        expected: (k, k) covariance of the errors that parameters (and other forms) explain; blocks
            of one origin, no run noise.
        message: why there are none.
    """

    origin: Floats
    row: Floats
    doublings: Floats
    error: Floats
    expected: Floats
    message: str = ""

    @property
    def cells(self) -> int:
        """Budgets predicted, an origin's each counted."""
        return len(set(zip(self.origin.tolist(), self.doublings.tolist(), strict=True)))

    @property
    def mse(self) -> float:
        """Mean squared error, every predicted budget counting alike; infinite where none was."""
        if not self.error.size:
            return float("inf")
        return float(np.mean([(e**2).mean() for e in _by_cell(self, self.error)]))


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
    """

    members: tuple[Ensemble, ...]
    weights: tuple[float, ...]
    drift: Floats
    rolls: tuple[Rolled, ...]
    rolled: Rolled
    common_sd: float
    own_sd: float

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
    weights = weigh(rolls)
    kept = sorted((n for n in names if weights[n] >= NEGLIGIBLE), key=lambda n: -weights[n])
    total = sum(weights[n] for n in kept)
    shares = [weights[n] / total for n in kept]
    members = tuple(
        bootstrap(usable[n], points, draws=max(2, round(draws * w)), rng=rng)
        for n, w in zip(kept, shares, strict=True)
    )
    rolled = _averaged([rolls[n] for n in kept], shares)
    drift, common, own = _drift(rolled, points, sum(m.draws for m in members), rng)
    parts = tuple(rolls[n] for n in kept)
    return Blend(members, tuple(shares), drift, parts, rolled, common, own)


def rolling(form: str, points: Points, *, rng: np.random.Generator) -> Rolled:
    """Predict every budget from those below it, from three budgets on."""
    ladder = _ladder(points)
    parts: list[tuple[Floats, Floats, Floats, Floats]] = []
    blocks: list[Floats] = []
    message = f"{ladder.size} budgets: too few to leave one out"
    for origin in ladder[FEWEST_BUDGETS - 1 : -1]:
        seen = points.tokens <= origin * (1 + 1e-9)
        law = fit(form, points.rows(seen), rng=rng, starts=24)
        if law.outcome != "ok":
            message = law.message or law.outcome
            continue
        row = np.flatnonzero(~seen)
        expected = predict(law, points.group[row], points.tokens[row], points.unique[row])
        error = np.log(expected) - np.log(points.score[row])
        doublings = np.log2(points.tokens[row] / origin)
        parts.append((np.full(row.size, origin), row.astype(np.float64), doublings, error))
        blocks.append(_spread(law, points.rows(seen), points.rows(~seen)))
    if not parts:
        none = np.zeros(0)
        return Rolled(none, none, none, none, np.zeros((0, 0)), message)
    origins, rows, doublings, error = (np.concatenate(c) for c in zip(*parts, strict=True))
    return Rolled(origins, rows, doublings, error, np.asarray(block_diag(*blocks)))


def _spread(law: Fit, seen: Points, later: Points) -> Floats:
    """(k, k) covariance of predicted log scores that the parameters' uncertainty makes, to first
    order: J (H + Q)^-1 J', with the priors' precision Q and bounded parameters held."""
    assumed = prior(law.form, law.frame)
    free = (law.theta > assumed.low) & (law.theta < assumed.high)
    slopes = []
    for rows in (seen, later):
        score, slope = evaluate(law.form, law.frame, law.thetas, at=rows)
        slopes.append((slope[0] / score[0][:, None])[:, free])
    here, there = slopes
    noise = max(law.residual_sd, SMALLEST_NOISE)
    known = here.T @ here / noise**2 + assumed.precision[np.ix_(free, free)]
    return np.asarray(there @ np.linalg.solve(known, there.T))


def weigh(rolls: dict[str, Rolled]) -> dict[str, float]:
    """Weights of forms, summing to 1: mse^(-c/2), c the budgets predicted; equal without any."""
    cells = max(r.cells for r in rolls.values())
    if not cells:
        return dict.fromkeys(rolls, 1.0 / len(rolls))
    log = {
        name: -0.5 * cells * np.log(max(r.mse, 1e-12)) if r.cells == cells else -np.inf
        for name, r in rolls.items()
    }
    top = max(log.values())
    raw = {name: float(np.exp(value - top)) for name, value in log.items()}
    return {name: value / sum(raw.values()) for name, value in raw.items()}


def _ladder(points: Points) -> Floats:
    """Distinct budgets, ascending; budgets within 5% of one another are one (whole steps)."""
    ladder: list[float] = []
    for budget in np.unique(points.tokens):
        if ladder and budget <= ladder[-1] * 1.05:
            ladder[-1] = float(budget)
        else:
            ladder.append(float(budget))
    return np.array(ladder)


def _averaged(rolls: Sequence[Rolled], weights: Sequence[float]) -> Rolled:
    """Errors of the weighted mean of the forms' predictions, where all of them made one."""
    full = [(r, w) for r, w in zip(rolls, weights, strict=True) if r.error.size]
    if not full:
        return rolls[0]
    first = max((r for r, _ in full), key=lambda r: r.error.size)
    same = [(r, w) for r, w in full if r.error.size == first.error.size]
    total = sum(w for _, w in same)
    error = np.asarray(sum(w * r.error for r, w in same) / total)
    together = first.origin[:, None] == first.origin[None, :]
    expected = np.zeros_like(first.expected)
    for rolled, weight in same:
        apart = rolled.error - error
        expected += weight / total * (rolled.expected + np.outer(apart, apart) * together)
    return replace(first, error=error, expected=expected)


def _by_cell(rolled: Rolled, values: Floats) -> list[Floats]:
    """`values` split by (origin, budget)."""
    keys = np.column_stack([rolled.origin, rolled.doublings])
    _, codes = np.unique(keys, axis=0, return_inverse=True)
    codes = codes.reshape(-1)
    return [values[codes == code] for code in range(codes.max() + 1)]


def _drift(
    rolled: Rolled, points: Points, draws: int, rng: np.random.Generator
) -> tuple[Floats, float, float]:
    """(draws, m) drift, and the posterior scales of its common and own parts."""
    common_sum, common_count, own_sum, own_count = 0.0, 0.0, 0.0, 0.0
    if rolled.error.size:
        groups = points.group[rolled.row.astype(np.int64)]
        expected = rolled.expected + np.eye(groups.size) * _relative_noise(points) ** 2
        for rows in _by_cell(rolled, np.arange(groups.size, dtype=np.float64)):
            at = rows.astype(np.int64)
            span = float(rolled.doublings[at].mean())
            names = np.unique(groups[at])
            mean = (groups[at] == names[:, None]) / (groups[at] == names[:, None]).sum(
                axis=1, keepdims=True
            )
            own, known = mean @ rolled.error[at], mean @ expected[np.ix_(at, at)] @ mean.T
            # of m correlated errors: variance of their mean, and mean of their sample variance
            shared = float(known.mean())
            common_sum += (float(own.mean()) ** 2 - shared) / span**2
            common_count += 1.0
            if own.size > 1:
                spread = float(np.trace(known)) - own.size * shared
                own_sum += (float(((own - own.mean()) ** 2).sum()) - spread) / span**2
                own_count += own.size - 1
    common, own_sd = (
        np.sqrt((PRIOR_CELLS * assumed**2 + max(total, 0.0)) / (PRIOR_CELLS + count))
        for assumed, total, count in (
            (COMMON_SD, common_sum, common_count),
            (OWN_SD, own_sum, own_count),
        )
    )
    drift = np.zeros((draws, len(points.labels)))
    for sd, degrees, width in (
        (common, PRIOR_CELLS + common_count, 1),
        (own_sd, PRIOR_CELLS + own_count, drift.shape[1]),
    ):
        scale = sd * np.sqrt(degrees / rng.chisquare(degrees, (draws, 1)))
        drift = drift + scale * rng.standard_normal((draws, width))
    return drift, float(common), float(own_sd)


def _relative_noise(points: Points) -> float:
    try:
        return noise_floor(points).relative
    except LawError:
        return 0.0
