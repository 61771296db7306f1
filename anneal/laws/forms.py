"""Functional forms: what a score may look like as a function of tokens.

Every falling form is one curve in an *effective* number of tokens D, with the floor E shared by all
groups, because the floor belongs to the model and the target, not to the source (METHODS 6.4):

    power          L = E + A_i D^-a_i                        (2001.08361, 2203.15556)
    shifted_power  L = E + (L0 - E) (1 + D / tau_i)^-a_i     (through the base L0 at D = 0)

`pure_` in front: no floor, E = 0; between budgets a few doublings apart a power law without one is
as good as one with it (2001.08361), and the two part beyond the data, which is worth knowing.
`_one_exponent` shares a_i over the groups: fewer parameters, and the curves of two sources then
cross at most through repetition. What a repeated token is worth is said by the ending:

    (none)      D = x: a repeated token is worth a new one
    _repeated   D = U + U R* (1 - exp(-(x/U - 1) / R*)) for x > U   (2305.16264, eq. 5)
    _scaled     the same with R* = R0 (U / U0)^-g: what an epoch is worth depends on the pool's size
                (ours; in runs/repetition_probe R* falls from about 30 to 5 as pools and runs grow
                16-fold together, since a young model gains from anything; g is 0 in 2305.16264)
    _overfit    D = x, and the score rises by P (x/U - 1) for x > U: an additive over-fitting
                penalty (the idea of 2605.01640, 2605.09189; the linear shape is ours)

x tokens trained, U unique tokens in the pool, U0 the repeated pools' geometric mean. R* (epochs), g
and P (score per excess epoch) are properties of model and training, so they are shared. They are
weakly regularised: log R* towards log 15.39 (2305.16264) with SD 1, g towards 0 with SD 0.5, P
towards 0 with SD 1% of the score; without repeated runs the answer is that prior, and its width,
not a point. The groups' log exponents scatter by SD 0.7 about
a common value, which itself has log SD 1.5 about 0.3: one weak pull, however many groups there are.

    log_linear     L = a_i + b_i log2(1 + x / x0), x0 the smallest budget: may rise, for guards.

Fitting happens in free parameters (logarithms, a logit for the floor) that are all of order one;
`named` turns them back into numbers with units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from anneal.errors import LawError
from anneal.laws.points import Floats, Ints, Points

R_STAR = 15.387756
"""Epochs; 2305.16264, published fit."""
R_STAR_SD = 1.0
"""SD of log R*: a factor of e either way. Measured elsewhere: 6.1 (our repetition probe)."""
TILT_SD = 0.5
"""Of g, the exponent by which R* depends on the pool (assumed)."""
EXPONENT, EXPONENT_SD, EXPONENT_SCATTER = 0.3, 1.5, 0.7
"""Centre, log SD of the common value, log SD of groups about it (assumed; published data exponents
lie in 0.1 to 0.6). Independent pulls of m groups would add up and bias the shared floor: measured,
coverage at 16x fell to 44% where all true exponents were 0.1."""
OVERFIT_SD = 0.01
"""Of P, as a share of the score per excess epoch (assumed)."""
FLAT = 1e-3
"""Free precision that only keeps normal matrices regular where the data say nothing."""


@dataclass(frozen=True)
class Form:
    """A row of the table `FORMS`.

    Identifiable when each group has at least as many distinct budgets as it has own parameters,
    one has more (the floor), and, for the endings, some runs repeat their pool.
    """

    name: str
    curve: Literal["power", "shifted_power", "log_linear"]
    one_exponent: bool = False
    repeats: Literal["", "repeated", "scaled", "overfit"] = ""
    floorless: bool = False

    @property
    def formula(self) -> str:
        """The formula, as a report prints it."""
        if self.curve == "log_linear":
            return "L = a_i + b_i log2(1 + x / x0)"
        exponent = "a" if self.one_exponent else "a_i"
        curve = (
            f"L = E + A_i D^-{exponent}"
            if self.curve == "power"
            else f"L = E + (L0 - E) (1 + D / tau_i)^-{exponent}"
        )
        ending = {
            "": "D = x",
            "repeated": "D = U + U R* (1 - exp(-(x/U - 1) / R*)) for x > U",
            "scaled": "D = U + U R (1 - exp(-(x/U - 1) / R)) for x > U, R = R* (U/U0)^-g",
            "overfit": "D = x",
        }[self.repeats]
        penalty = " + P max(0, x/U - 1)" if self.repeats == "overfit" else ""
        if self.floorless:
            curve = curve.replace("E + ", "").replace("(L0 - E)", "L0")
        return f"{curve}{penalty}, {ending}"

    @property
    def falls(self) -> bool:
        """Whether the curve is one of the falling forms, which have rates."""
        return self.curve != "log_linear"


_CURVES: tuple[Literal["power", "shifted_power"], ...] = ("power", "shifted_power")
_ENDINGS: tuple[Literal["", "repeated", "scaled", "overfit"], ...] = (
    *("", "repeated"),
    *("scaled", "overfit"),
)

FORMS: dict[str, Form] = {
    **{
        name: Form(name, curve, one, repeats)
        for curve in _CURVES
        for one in (False, True)
        for repeats in _ENDINGS
        for name in ["_".join(w for w in (curve, "one_exponent" if one else "", repeats) if w)]
    },
    **{
        f"pure_power_{repeats}".rstrip("_"): Form(
            f"pure_power_{repeats}".rstrip("_"), "power", False, repeats, floorless=True
        )
        for repeats in _ENDINGS
    },
    "log_linear": Form("log_linear", "log_linear"),
}
"""Every form by name; a new form is a new row."""


@dataclass(frozen=True)
class Frame:
    """What turns free parameters into numbers with units, taken from the table once.

    Args:
        labels: names of the m groups.
        anchor: score of the base; NaN-free: None where unknown.
        tokens: geometric mean of the budgets (power) or the smallest budget (log_linear).
        score: the smallest score, the unit of scores.
        ceiling: what the floor cannot exceed.
        low, high: smallest and largest budget, tokens.
        pool: geometric mean of the unique tokens of runs that repeat, of all where none does.
    """

    labels: tuple[str, ...]
    anchor: float | None
    tokens: float
    score: float
    ceiling: float
    low: float
    high: float
    pool: float

    @staticmethod
    def of(form: Form, points: Points) -> Frame:
        """The frame of a table, for one form.

        Raises:
            LawError: a form through the base, and the base was not scored.
        """
        if form.curve == "shifted_power" and points.anchor is None:
            raise LawError(
                f"law `{form.name}`: passes through the base, and the base has no score",
                hint="score the base as it is, or use a `power` form",
            )
        low, high = float(points.tokens.min()), points.largest
        score = float(points.score.min())
        # A floor may lie a little above the lowest score, which has noise in it.
        ceiling = 1.02 * score if points.anchor is None else min(1.02 * score, 0.98 * points.anchor)
        middle = float(np.exp(np.log(points.tokens).mean()))
        scale = low if form.curve == "log_linear" else middle
        again = points.tokens > points.unique * (1.0 + 1e-9)
        pools = points.unique[again] if again.any() else points.unique
        pool = float(np.exp(np.log(pools).mean()))
        return Frame(points.labels, points.anchor, scale, score, ceiling, low, high, pool)


@dataclass(frozen=True)
class Layout:
    """Where each free parameter lies in a row of p numbers; -1 where the form has none."""

    size: int
    floor: int
    exponent: Ints
    """(m,) columns: log a_i (log_linear: b_i in units of the score)."""
    scale: Ints
    """(m,) columns: log tau_i, log A_i at the middle budget (log_linear: a_i)."""
    repeats: int
    tilt: int
    names: tuple[str, ...]


def layout(form: Form, labels: tuple[str, ...]) -> Layout:
    """The free parameters of `form` for these groups: names are `floor`, `exponent[label]`, ..."""
    m = len(labels)
    names: list[str] = ["floor"] if form.falls else []
    if form.one_exponent:
        exponent = np.full(m, len(names), dtype=np.int64)
        names.append("exponent")
    else:
        exponent = np.arange(len(names), len(names) + m, dtype=np.int64)
        names += [f"{'exponent' if form.falls else 'slope'}[{label}]" for label in labels]
    scale = np.arange(len(names), len(names) + m, dtype=np.int64)
    names += [f"{'scale' if form.falls else 'level'}[{label}]" for label in labels]
    repeats = len(names) if form.repeats else -1
    if form.repeats:
        names.append("penalty" if form.repeats == "overfit" else "r_star")
    tilt = len(names) if form.repeats == "scaled" else -1
    if form.repeats == "scaled":
        names.append("r_star_tilt")
    floor = 0 if form.falls else -1
    return Layout(len(names), floor, exponent, scale, repeats, tilt, tuple(names))


@dataclass(frozen=True)
class Prior:
    """Weak knowledge about free parameters: centre (p,), precision matrix (p, p), bounds (p,)."""

    centre: Floats
    precision: Floats
    low: Floats
    high: Floats


def prior(form: Form, frame: Frame) -> Prior:
    """What is assumed before any run (module's text); bounds are wide, and reported when hit."""
    where = layout(form, frame.labels)
    centre = np.zeros(where.size)
    precision = np.diag(np.full(where.size, FLAT))
    low, high = np.full(where.size, -20.0), np.full(where.size, 20.0)
    if form.falls:
        low[where.floor], high[where.floor] = -6.0, 6.0
        if form.floorless:  # a logit of -30 is no floor, and the search holds it there
            low[where.floor] = high[where.floor] = centre[where.floor] = -30.0
        centre[where.exponent] = np.log(EXPONENT)
        own = np.unique(where.exponent)
        covariance = np.full((own.size, own.size), EXPONENT_SD**2)
        if own.size > 1:
            covariance += EXPONENT_SCATTER**2 * np.eye(own.size)
        precision[np.ix_(own, own)] = np.linalg.inv(covariance)
        low[where.exponent], high[where.exponent] = np.log(0.01), np.log(4.0)
        if form.curve == "shifted_power":
            centre[where.scale] = np.log(frame.tokens)
            low[where.scale] = np.log(frame.low) - np.log(1e4)
            high[where.scale] = np.log(frame.high) + np.log(1e4)
        else:
            low[where.scale], high[where.scale] = -12.0, 5.0
    last = where.repeats
    if form.repeats in ("repeated", "scaled"):
        centre[last], precision[last, last] = np.log(R_STAR), R_STAR_SD**-2
        low[last], high[last] = np.log(0.1), np.log(1e3)
        if form.repeats == "scaled":
            precision[where.tilt, where.tilt] = TILT_SD**-2
            low[where.tilt], high[where.tilt] = -2.0, 2.0
    elif form.repeats == "overfit":
        centre[last], precision[last, last] = 0.0, OVERFIT_SD**-2
        low[last], high[last] = 0.0, 0.2
    return Prior(centre, precision, low, high)


@dataclass(frozen=True, eq=False)
class Where:
    """Points of a curve to evaluate: the columns of `Points` without what was measured."""

    group: Ints
    tokens: Floats
    unique: Floats


def effective_tokens(tokens: Floats, unique: Floats, r_star: Floats) -> tuple[Floats, Floats]:
    """Effective data D (tokens) and dD / d log R*, broadcast over all three.

    Muennighoff 2305.16264, eq. 5: D = x up to one epoch; beyond it each further epoch is worth
    exp(-1/R*) of the one before, and D never exceeds U (1 + R*).
    """
    excess = np.maximum(tokens / unique - 1.0, 0.0)
    worth = np.exp(-excess / r_star)
    gained = unique * r_star * (1.0 - worth)
    return np.minimum(tokens, unique) + gained, gained - unique * excess * worth


def evaluate(
    form: Form, frame: Frame, theta: Floats, *, at: Where | Points
) -> tuple[Floats, Floats]:
    """Scores of B parameter rows at n points, and their derivatives.

    Args:
        theta: (B, p) free parameters.
        at: the n points: group, tokens and unique, each (n,).

    Returns:
        scores (B, n), and derivatives with respect to the free parameters (B, n, p).
    """
    where = layout(form, frame.labels)
    group, tokens, unique = at.group, at.tokens, at.unique
    rows = np.arange(group.size)
    slope = np.zeros((theta.shape[0], group.size, where.size))
    own_exponent, own_scale = where.exponent[group], where.scale[group]
    if not form.falls:
        doublings = np.log2(1.0 + tokens / frame.tokens)
        slope[:, rows, own_exponent] = frame.score * doublings
        slope[:, rows, own_scale] = frame.score
        score = frame.score * (theta[:, own_scale] + theta[:, own_exponent] * doublings)
        return score, slope
    share = 1.0 / (1.0 + np.exp(-theta[:, [where.floor]]))
    floor = frame.ceiling * share
    exponent = np.exp(theta[:, own_exponent])
    amount = tokens[None, :]
    if form.repeats in ("repeated", "scaled"):
        r_star, larger = np.exp(theta[:, [where.repeats]]), np.log(unique / frame.pool)[None, :]
        if form.repeats == "scaled":
            r_star = r_star * np.exp(-theta[:, [where.tilt]] * larger)
        amount, by_r_star = effective_tokens(amount, unique[None, :], r_star)
    if form.curve == "power":
        depth = np.log(amount / frame.tokens)
        above = frame.score * np.exp(theta[:, own_scale] - exponent * depth)
        by_floor, by_scale = np.ones_like(above), above
        by_log_amount = -above * exponent
    else:
        assert frame.anchor is not None
        reach = amount / np.exp(theta[:, own_scale])
        depth = np.log1p(reach)
        shrink = np.exp(-exponent * depth)
        above = (frame.anchor - floor) * shrink
        by_floor = 1.0 - shrink
        by_log_amount = -above * exponent * reach / (1.0 + reach)
        by_scale = -by_log_amount
    slope[:, :, where.floor] = by_floor * floor * (1.0 - share)
    slope[:, rows, own_exponent] = -above * exponent * depth
    slope[:, rows, own_scale] = by_scale
    score = floor + above
    if form.repeats in ("repeated", "scaled"):
        slope[:, :, where.repeats] = by_log_amount * by_r_star / amount
        if form.repeats == "scaled":
            slope[:, :, where.tilt] = -slope[:, :, where.repeats] * larger
    elif form.repeats == "overfit":
        excess = np.maximum(tokens / unique - 1.0, 0.0)[None, :]
        score = score + theta[:, [where.repeats]] * frame.score * excess
        slope[:, :, where.repeats] = frame.score * excess
    return score, slope


def named(form: Form, frame: Frame, theta: Floats) -> dict[str, Floats]:
    """Parameters with units, by name, each (B,) for theta (B, p).

    floor: score. exponent: pure. scale: tokens (shifted_power: tau) or score x tokens^a (power: A).
    r_star: epochs. r_star_tilt: pure. penalty: score per excess epoch. level: score.
    slope: score per doubling.
    """
    where = layout(form, frame.labels)
    out: dict[str, Floats] = {}
    for column, name in enumerate(where.names):
        value = theta[:, column]
        kind = name.split("[")[0]
        if kind == "floor" and form.floorless:
            continue
        if kind == "floor":
            out[name] = frame.ceiling / (1.0 + np.exp(-value))
        elif kind in ("level", "slope", "penalty"):
            out[name] = frame.score * value
        elif kind == "r_star_tilt":
            out[name] = value
        elif kind == "scale" and form.curve == "power":
            own = theta[:, where.exponent[int(column - where.scale[0])]]
            out[name] = frame.score * np.exp(value + np.exp(own) * np.log(frame.tokens))
        else:
            out[name] = np.exp(value)
    return out


def starting_points(
    form: Form, frame: Frame, points: Points, count: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(count, p) spread starts: Latin where it matters, within bounds; the first is the centre."""
    where = layout(form, frame.labels)
    assumed = prior(form, frame)
    theta = np.tile(assumed.centre, (count, 1))
    if not form.falls:
        theta[:, where.scale] = float(np.median(points.score)) / frame.score
        return theta
    strata = (np.argsort(rng.random((3, count)), axis=1) + rng.random((3, count))) / count
    theta[:, where.floor] = -2.0 + 5.0 * strata[0]
    theta[:, where.exponent] = (np.log(0.05) + np.log(30.0) * strata[1])[:, None]
    if form.curve == "shifted_power":
        span = np.log(frame.high / frame.low) + np.log(100.0)
        theta[:, where.scale] = (np.log(frame.low) - np.log(30.0) + span * strata[2])[:, None]
    else:
        theta[:, where.scale] = (-4.0 + 4.0 * strata[2])[:, None]
    if form.repeats in ("repeated", "scaled"):
        theta[:, where.repeats] += R_STAR_SD * rng.standard_normal(count)
    theta[0] = assumed.centre
    return np.clip(theta, assumed.low, assumed.high)
