"""Laws: functional forms fitted to results, with their uncertainty. Arrays in, values out.

points = Points(labels, group, tokens, unique, score, seed, anchor)
choice = hold_out(["power", "shifted_power_repeated"], points, rng=rng)
law = fit(choice.chosen, points, rng=rng)
ensemble = bootstrap(law, points, draws=400, rng=rng)
predict(ensemble, group, tokens, unique)           # (draws, n)
"""

from anneal.laws.compare import (
    Crossing,
    HeldOut,
    HoldOut,
    crossover,
    hold_out,
    probability_best,
)
from anneal.laws.fits import Fit, fit, predict
from anneal.laws.forms import FORMS, Form
from anneal.laws.points import Points
from anneal.laws.uncertainty import Ensemble, Noise, band, bootstrap, noise_floor, outcomes

__all__ = [
    "FORMS",
    "Crossing",
    "Ensemble",
    "Fit",
    "Form",
    "HeldOut",
    "HoldOut",
    "Noise",
    "Points",
    "band",
    "bootstrap",
    "crossover",
    "fit",
    "hold_out",
    "noise_floor",
    "outcomes",
    "predict",
    "probability_best",
]
