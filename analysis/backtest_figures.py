# %% [markdown]
# Figures of the back-tests on published runs, as SVG.
#
#     python -m analysis.backtest_figures FOLDER
#
# `probe.svg`: the repetition probe. Runs up to 400k tokens are fitted (natural and matched pools
# together); lines and bands are the average of forms where each source has all of its tokens, so
# `stdlib` repeats its 60k; diamonds are the runs at 800k that the law has not seen.
# `regmix.svg`: the mixture law of 40 parameters that was chosen on the 512 runs at 1M, against the
# measured Pile-CC loss of test mixtures at three sizes; a law of order needs a rising cloud.

# %%
from __future__ import annotations

import sys
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import vl_convert

from analysis.backtest_mixture import MIXTURE_LAWS, PILE, RUNS, SCALES, loss, shares
from analysis.backtest_sources import probe_points
from analysis.settled import FORMS
from anneal.laws import band, blend, predict
from anneal.laws.mixture_laws import DELTA, mixture_laws
from anneal.laws.surface_fits import fit_surface

CHOSEN = ("two_pools", 1.5)
"""Form and prior spread that `backtest_mixture` chose."""


# %%
def probe() -> alt.LayerChart:
    """Two sources, one scarce, and what happened beyond the runs."""
    table = pd.read_csv(RUNS / "repetition_probe" / "runs.csv")
    points = probe_points(table, ("natural", "matched"))
    law = blend(FORMS, points, rng=np.random.default_rng(0), repeats=True)
    grid = np.geomspace(points.tokens.min(), 8e5, 60)
    parts = []
    for code, (name, pool) in enumerate((("stdlib", 6e4), ("raw", 1e9))):
        draws = predict(law, code, grid, np.minimum(grid, pool))
        low, high = band(draws)
        middle = np.median(draws, axis=0)
        parts.append(
            pd.DataFrame({"source": name, "tokens": grid, "bpb": middle, "low": low, "high": high})
        )
    runs = table[table["design"] != "none"].rename(columns={"d_tokens": "tokens"})
    x = alt.X("tokens:Q", scale=alt.Scale(type="log", nice=False), title="source tokens")
    y = alt.Y("bpb:Q", scale=alt.Scale(zero=False), title="score, bits per byte")
    lines = alt.Chart(pd.concat(parts)).encode(x=x, color=alt.Color("source:N", title=None))
    marks = alt.Chart(runs).encode(
        x=x,
        y=y,
        color="source:N",
        shape=alt.Shape(
            "design:N",
            title="run",
            scale=alt.Scale(
                domain=["natural", "matched", "target"], range=["triangle-up", "circle", "diamond"]
            ),
        ),
        size=alt.condition("datum.design == 'target'", alt.value(140), alt.value(45)),
    )
    bands = lines.mark_area(opacity=0.15).encode(
        y=alt.Y("low:Q", scale=alt.Scale(zero=False), title="score, bits per byte"), y2="high:Q"
    )
    return alt.layer(
        bands, lines.mark_line().encode(y=y), marks.mark_point(filled=True)
    ).properties(
        width=560, height=340, title="Repetition probe: fitted up to 400k tokens, asked for 800k"
    )


def regmix() -> alt.FacetChart:
    """Predicted at 1M against measured at three sizes."""
    form, spread = CHOSEN
    assert form in MIXTURE_LAWS
    train = pd.read_csv(RUNS / "regmix" / "train_1m.csv")
    law = fit_surface(
        mixture_laws(spread=spread)[form],
        {"shares": shares(train)},
        loss(train, PILE),
        rng=np.random.default_rng(0),
        starts=4,
        delta=DELTA,
    )
    parts = []
    for name, size in zip(SCALES, ("1M", "60M", "1B"), strict=True):
        test = pd.read_csv(RUNS / "regmix" / f"{name}.csv")
        expected = law.curve({"shares": shares(test)})
        parts.append(pd.DataFrame({"size": size, "predicted": expected, "loss": loss(test, PILE)}))
    return (
        alt.Chart(pd.concat(parts))
        .mark_circle(size=28, opacity=0.6)
        .encode(
            x=alt.X("predicted:Q", scale=alt.Scale(zero=False), title="predicted at 1M, nats"),
            y=alt.Y("loss:Q", scale=alt.Scale(zero=False), title="measured, nats"),
        )
        .properties(width=230, height=230)
        .facet(
            alt.Column("size:N", sort=["1M", "60M", "1B"], title="Pile-CC loss of unseen mixtures")
        )
        .resolve_scale(y="independent", x="independent")
    )


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in (("probe", probe), ("regmix", regmix)):
        svg = vl_convert.vegalite_to_svg(draw().to_dict())
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
        print(folder / f"{name}.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
