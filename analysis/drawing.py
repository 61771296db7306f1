# %% [markdown]
# Pieces of the back-tests' figures: the report's colours and type (`anneal.report.look`), one
# meaning a colour. Blue is ours, orange what stands beside it, green what is published or true.

# %%
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import vl_convert

from anneal.report import look

OURS, BESIDE, KNOWN, FOURTH = (f"var(--source-{i})" for i in range(4))
QUIET, LINE = "var(--muted)", "var(--line)"


def spec(chart: Any, title: str, subtitle: str = "") -> look.Spec:
    """A figure with the common look; the title says what is shown, not what comes out."""
    text = {"text": title, "anchor": "start", "fontSize": 15, "fontWeight": 600, "offset": 14}
    text |= {"color": "var(--ink)", "subtitleColor": QUIET, "subtitleFontSize": 12}
    text |= {"subtitlePadding": 6} | ({"subtitle": subtitle.split("\n")} if subtitle else {})
    config = look.config()
    config["legend"] |= {"labelLimit": 320, "columns": 4}
    config["axis"] |= {"labelLimit": 330}
    header = {"labelColor": "var(--ink)", "labelFontSize": 12, "labelFontWeight": 600}
    config["header"] = header | {"title": None}
    config["title"] = {"fontSize": 12, "fontWeight": 600, "color": "var(--ink)"}
    return look.light(chart.to_dict() | {"title": text, "config": config, "padding": 12})


def svg(figure: look.Spec) -> str:
    return str(vl_convert.vegalite_to_svg(figure))


# %%
def colour(named: Mapping[str, str], field: str = "by") -> alt.Color:
    """Which colour each name has, in this order of the legend."""
    scale = alt.Scale(domain=list(named), range=list(named.values()))
    return alt.Color(f"{field}:N", scale=scale, title=None)


def shape(named: Mapping[str, str], field: str) -> alt.Shape:
    scale = alt.Scale(domain=list(named), range=list(named.values()))
    ink = {"symbolFillColor": QUIET, "symbolStrokeColor": QUIET}
    return alt.Shape(f"{field}:N", scale=scale, title=None).legend(**ink)


def apart(named: Mapping[str, str]) -> alt.YOffset:
    """Each name a little below the one before, so that equal values do not cover each other."""
    return alt.YOffset("by:N", scale=alt.Scale(domain=list(named), paddingOuter=0.6))


def log(values: Sequence[float] | pd.Series, ticks: str = "format(datum.value,'~s')") -> dict:
    """Scale and axis of a logarithmic channel over these values."""
    marks = look.log_ticks([float(np.min(values)), float(np.max(values))])
    scale = alt.Scale(type="log", nice=False, padding=12)
    return {"scale": scale, "axis": alt.Axis(values=marks, labelExpr=ticks)}


def flops(values: Sequence[float] | pd.Series) -> dict:
    return log(values, look.AXES["training-flops"].ticks)


def tokens(values: Sequence[float] | pd.Series) -> dict:
    return log(values, look.AXES["tokens"].ticks)


def near(field: str, title: str | None, **options: Any) -> dict[str, Any]:
    """Arguments of a channel whose axis need not start at 0."""
    scale = alt.Scale(zero=False, nice=False, padding=12)
    return {"shorthand": f"{field}:Q", "title": title, "scale": scale} | options


# %%
def against(table: pd.DataFrame, what: str, marks: Sequence[Any]) -> alt.LayerChart:
    """Measured over predicted with the line where both are the same; `marks` colour or shape it."""
    both = np.concatenate([table.predicted, table.measured])
    ends = pd.DataFrame({"predicted": [both.min(), both.max()]}).assign(
        measured=lambda t: t.predicted
    )
    few = alt.Axis(tickCount=6)
    x = alt.X(**near("predicted", f"predicted {what}", axis=few))
    y = alt.Y(**near("measured", f"measured {what}", axis=few))
    line = alt.Chart(ends).mark_line(color=QUIET, strokeWidth=1, strokeDash=[4, 3])
    points = alt.Chart(table).mark_point(filled=True, size=45, opacity=0.8, color=OURS)
    return alt.layer(line.encode(x=x, y=y), points.encode(x, y, *marks))


def ranges(
    table: pd.DataFrame,
    row: str,
    value: str,
    title: str,
    marks: Sequence[Any],
    *,
    ends: tuple[str, str] | None = None,
    order: Sequence[str] | None = None,
    domain: tuple[float | None, float | None] = (None, None),
    labels: bool = True,
) -> alt.LayerChart:
    """One line a row with its points, and the interval of each where `ends` names its columns.

    `domain` fixes the ends of the axis that are not None.
    """
    y = alt.Y(f"{row}:N", title=None, sort=list(order) if order is not None else None)
    y = y.axis(grid=True, labels=labels)
    fixed = {k: v for k, v in zip(("domainMin", "domainMax"), domain, strict=True) if v is not None}
    scale = alt.Scale(zero=False, nice=False, padding=12, **fixed)
    x = alt.X(f"{value}:Q", title=title, scale=scale)
    base = alt.Chart(table)
    layers = [base.mark_point(filled=True, size=75, opacity=0.9).encode(x, y, *marks)]
    if ends is not None:
        rule = base.mark_rule(strokeWidth=2, opacity=0.6)
        x_low = alt.X(f"{ends[0]}:Q", title=title, scale=scale)
        layers.insert(0, rule.encode(x_low, y, *marks[:1], x2=f"{ends[1]}:Q"))
    return alt.layer(*layers)


def heading(text: str) -> alt.TitleParams:
    """A panel's title."""
    return alt.TitleParams(text, anchor="start", offset=8)


def asked(values: Mapping[str, Any], axis: str) -> alt.Chart:
    """Quiet rules at the values that were asked for."""
    table = pd.DataFrame({"at": list(values.values()), "name": list(values)})
    return alt.Chart(table).mark_rule(color=QUIET, strokeDash=[4, 3]).encode(**{axis: "at:Q"})
