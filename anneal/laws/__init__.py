"""Laws: functional forms fitted to results, with their uncertainty. Arrays in, values out.

points = Points(labels, group, tokens, unique, score, seed, anchor)
judged = hold_out(["power", "shifted_power_repeated"], points, rng=rng)
law = blend(["power", "shifted_power_repeated"], points, rng=rng)
predict(law, group, tokens, unique)           # (draws, n)
"""

from anneal.laws.blend import Blend, Law, blend
from anneal.laws.compare import (
    Crossing,
    HeldOut,
    HoldOut,
    crossover,
    hold_out,
    probability_best,
)
from anneal.laws.families import family, family_bootstrap, lift
from anneal.laws.fits import Fit, fit, predict
from anneal.laws.forms import FORMS, Form
from anneal.laws.noise import noise_shape
from anneal.laws.points import Points
from anneal.laws.prediction import Prediction, forecast
from anneal.laws.uncertainty import Ensemble, Noise, band, bootstrap, noise_floor, outcomes

__all__ = [
    "FORMS",
    "Blend",
    "Crossing",
    "Ensemble",
    "Fit",
    "Form",
    "HeldOut",
    "HoldOut",
    "Law",
    "Noise",
    "Points",
    "Prediction",
    "band",
    "blend",
    "bootstrap",
    "crossover",
    "family",
    "family_bootstrap",
    "fit",
    "forecast",
    "hold_out",
    "lift",
    "noise_floor",
    "noise_shape",
    "outcomes",
    "predict",
    "probability_best",
]
