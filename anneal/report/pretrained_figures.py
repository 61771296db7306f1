"""The figures of a full run: training loss, and held-out scores with what was predicted of them.

The phases of a run are as unlike as 500 to 5, and what was predicted lies at their ends: on an axis
of tokens the last ones would be a smear at the edge. Where the shortest phase would be narrower
than `NARROW`, phases stand side by side, equally wide, and the axis counts tokens at their ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from anneal.plan.predictions import AIM
from anneal.report import format as show
from anneal.report import look
from anneal.report.pretrained import Pretrained

if TYPE_CHECKING:
    import altair as alt

NARROW = 0.08
"""Share of the axis."""
Place = Callable[[float], float]


def colours(found: Pretrained) -> dict[str, str]:
    """Source -> CSS colour, in the order of the allocation, then of the phases."""
    order = dict.fromkeys([*found.allocation, *(row.source for row in found.audit)])
    count = len(look.SOURCE_COLOURS)
    return {name: f"var(--source-{i % count})" for i, name in enumerate(order)}


def draw(found: Pretrained) -> dict[str, look.Spec]:
    """Every figure there is data for: `scores-NAME` for the aim and each guard, and `loss`."""
    charts: dict[str, look.Layers] = {}
    for name in dict.fromkeys([AIM, *(row.score for row in found.foretold)]):
        rows = [row for row in found.foretold if row.score == name]
        if any(row.predicted or row.measured is not None for row in rows):
            charts[f"scores-{name}"] = _scores(found, name)
    if found.losses:
        charts["loss"] = _loss(found)
    return {name: look.finish(chart) for name, chart in charts.items()}


def ends(found: Pretrained) -> list[int]:
    """Tokens of the run at every phase end, as laid out."""
    return list(accumulate(row.asked for row in found.phases))


def place(found: Pretrained) -> tuple[Place, bool]:
    """Where a number of tokens lies on the axis, and whether phases stand side by side."""
    after = ends(found)
    whole = after[-1]
    if min(row.asked for row in found.phases) >= NARROW * whole:
        return (lambda tokens: tokens), False

    def beside(tokens: float) -> float:
        for index, end in enumerate(after):
            begin = after[index - 1] if index else 0
            if tokens <= end:
                return index + (tokens - begin) / (end - begin)
        return float(len(after))

    return beside, True


def _x(found: Pretrained, where: Place, aside: bool) -> alt.X:
    import altair as alt

    title = "tokens trained" + (", phases side by side" if aside else "")
    after = ends(found)
    if not aside:
        labels = alt.Axis(labelExpr=look.AXES["tokens"].ticks, tickCount=6, grid=False)
        scale = alt.Scale(domain=[0, after[-1]], nice=False)
        return alt.X("at:Q", title=title, axis=labels, scale=scale)
    words = "''"
    for end in after:
        words = f"datum.value=={where(end):g}?'{show.count(end)}':{words}"
    ticks = alt.Axis(
        values=[0, *(where(end) for end in after)],
        labelExpr=f"datum.value==0?'0':{words}",
        labelOverlap=False,
        labelFlush=True,
        grid=False,
    )
    scale = alt.Scale(domain=[0, where(after[-1])], nice=False)
    return alt.X("at:Q", title=title, axis=ticks, scale=scale)


def _boundaries(found: Pretrained, x: alt.X, where: Place) -> list[alt.Chart]:
    """A rule at every boundary, and the phases' names above their middles."""
    import altair as alt

    after = ends(found)
    rules = [{"at": where(end)} for end in after[:-1]]
    names = []
    for index, (row, end) in enumerate(zip(found.phases, after, strict=True)):
        begin = where(after[index - 1]) if index else 0.0
        names.append({"at": (begin + where(end)) / 2, "words": row.phase})
    layers = [
        alt.Chart(look.data(names))
        .mark_text(baseline="bottom", dy=-6, color="var(--muted)", limit=150)
        .encode(x=x, y=alt.value(0), text="words:N")
    ]
    if rules:
        layers.append(
            alt.Chart(look.data(rules))
            .mark_rule(strokeDash=[4, 4], color="var(--muted)", aria=False)
            .encode(x=x)
        )
    return layers


def _scores(found: Pretrained, name: str) -> look.Layers:
    """Scores on the way as a line, predicted intervals and measured scores at phase ends."""
    import altair as alt

    where, aside = place(found)
    x = _x(found, where, aside)
    title = f"{name}, bits per byte"
    y = alt.Y("score:Q", title=title, scale=alt.Scale(zero=False))
    line: list[look.Row] = [
        {"at": where(e.tokens), "score": e.scores[name], "shown": show.count(e.tokens)}
        for e in found.evaluations
        if name in e.scores
    ]
    told: list[look.Row] = [
        {
            "at": where(row.tokens),
            "low": row.predicted.low,
            "high": row.predicted.high,
            "score": row.predicted.value,
            "phase": row.phase,
            "shown": show.interval(row.predicted, 4),
        }
        for row in found.foretold
        if row.score == name and row.predicted is not None
    ]
    seen: list[look.Row] = [
        {
            "at": where(row.tokens),
            "score": row.measured,
            "phase": row.phase,
            "reading": {True: "inside", False: "outside", None: "not predicted"}[row.inside],
            "shown": show.decimal(row.measured, 4),
            "said": show.NONE if row.predicted is None else show.interval(row.predicted, 4),
        }
        for row in found.foretold
        if row.score == name and row.measured is not None
    ]
    layers = [*_boundaries(found, x, where)]
    if line:
        layers.append(
            alt.Chart(look.data(line))
            .mark_line(strokeWidth=1.5, color="var(--source-0)", aria=False, point={"size": 22})
            .encode(x=x, y=y)
        )
    if told:
        layers += _intervals(told, x, y, title)
    if seen:
        layers.append(_measured(seen, x, y))
    layers += _limit(found, name)
    return alt.layer(*layers).properties(
        height=340,
        description=f"{name} in bits per byte over the run, with predicted intervals at phase ends",
    )


def _intervals(told: Sequence[look.Row], x: alt.X, y: alt.Y, title: str) -> list[alt.Chart]:
    import altair as alt

    base = alt.Chart(look.data(told)).encode(x=x)
    bar = base.mark_rule(strokeWidth=2, color="var(--ink)").encode(
        y=alt.Y("low:Q", title=title),
        y2="high:Q",
        tooltip=[alt.Tooltip("phase:N", title="after"), alt.Tooltip("shown:N", title="predicted")],
    )
    caps = [
        base.mark_tick(
            thickness=2, size=13, color="var(--ink)", orient="horizontal", aria=False
        ).encode(y=alt.Y(f"{end}:Q"))
        for end in ("low", "high")
    ]
    middle = base.mark_tick(
        thickness=2, size=7, color="var(--ink)", orient="horizontal", aria=False
    ).encode(y=y)
    return [bar, *caps, middle]


def _measured(seen: Sequence[look.Row], x: alt.X, y: alt.Y) -> alt.Chart:
    import altair as alt

    domain = ["inside", "outside", "not predicted"]
    colours = ["var(--source-2)", "var(--source-1)", "var(--muted)"]
    shape = alt.Scale(domain=domain, range=["circle", "cross", "diamond"])
    chart: alt.Chart = (
        alt.Chart(look.data(seen))
        .mark_point(filled=True, size=110, opacity=1, stroke="var(--surface)", strokeWidth=1)
        .encode(
            x=x,
            y=y,
            color=alt.Color("reading:N", scale=alt.Scale(domain=domain, range=colours)),
            shape=alt.Shape("reading:N", scale=shape),
            tooltip=[
                alt.Tooltip("phase:N", title="after"),
                alt.Tooltip("shown:N", title="measured"),
                alt.Tooltip("said:N", title="predicted"),
                alt.Tooltip("reading:N"),
            ],
        )
    )
    return chart


def _limit(found: Pretrained, name: str) -> list[alt.Chart]:
    """A guard's limit, where it has one."""
    import altair as alt

    if name not in found.guard_limits:
        return []
    limit = found.guard_limits[name]
    rows = [{"score": limit, "words": f"limit {show.decimal(limit, 3)}"}]
    chart = alt.Chart(look.data(rows)).encode(y=alt.Y("score:Q"))
    return [
        chart.mark_rule(strokeDash=[2, 3], color="var(--source-1)", aria=False),
        chart.mark_text(
            align="left", baseline="bottom", dx=4, dy=-3, color="var(--source-1)"
        ).encode(x=alt.value(0), text="words:N"),
    ]


def _loss(found: Pretrained) -> look.Layers:
    """Training loss."""
    import altair as alt

    where, aside = place(found)
    x = _x(found, where, aside)
    y = alt.Y("loss:Q", title="training loss, nats per token", scale=alt.Scale(zero=False))
    rows: list[look.Row] = [{"at": where(p.tokens), "loss": p.loss} for p in found.losses]
    line = alt.Chart(look.data(rows)).mark_line(
        strokeWidth=1.2, color="var(--source-0)", aria=False
    )
    return alt.layer(*_boundaries(found, x, where), line.encode(x=x, y=y)).properties(
        height=300, description="Training loss in nats per token over the run"
    )
