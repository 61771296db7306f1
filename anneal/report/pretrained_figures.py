"""The figures of a full run: training loss, and held-out scores with what was predicted of them.

The phases of a run are as unlike as 500 to 5, and what was predicted lies at their ends: on an axis
of tokens the last ones would be a smear at the edge. Where the shortest phase would be narrower
than `NARROW`, phases stand side by side, equally wide, and the axis counts tokens at their ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from anneal.report import format as show
from anneal.report import look
from anneal.report.pretrained import Pretrained

if TYPE_CHECKING:
    import altair as alt

NARROW = 0.08
"""Share of the axis."""
READINGS = {True: "inside", False: "outside", None: "not predicted"}
Place = Callable[[float], float]


def colours(found: Pretrained) -> dict[str, str]:
    """Source -> CSS colour, in the order of the allocation, then of the phases."""
    order = dict.fromkeys([*found.allocation, *(row.source for row in found.audit)])
    count = len(look.SOURCE_COLOURS)
    return {name: f"var(--source-{i % count})" for i, name in enumerate(order)}


def draw(found: Pretrained) -> dict[str, look.Spec]:
    """Every figure there is data for: `errors`, `scores-N` by number, `loss`."""
    charts: dict[str, look.Layers] = {}
    for index, name in enumerate(found.scores):
        rows = [row for row in found.foretold if row.score == name]
        if any(row.predicted or row.measured is not None for row in rows):
            charts[f"scores-{index}"] = _scores(found, name)
    if any(row.predicted and row.measured is not None for row in found.foretold):
        charts["errors"] = _errors(found)
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
    whole = where(after[-1])
    layers = []
    for index, (row, end) in enumerate(zip(found.phases, after, strict=True)):
        begin = where(after[index - 1]) if index else 0.0
        name = [{"at": (begin + where(end)) / 2, "words": row.phase}]
        wide = alt.ExprRef(f"max(12, width * {(where(end) - begin) / whole:.4f} - 8)")
        layers.append(
            alt.Chart(look.data(name))
            .mark_text(baseline="bottom", dy=-6, color="var(--muted)", limit=wide)
            .encode(x=x, y=alt.value(0), text="words:N")
        )
    rules = [{"at": where(end)} for end in after[:-1]]
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
    y = alt.Y("score:Q", title=title, scale=_span(found, name))
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
            "reading": READINGS[row.inside],
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
            .mark_line(
                strokeWidth=1.5, color="var(--source-0)", aria=False, clip=True, point={"size": 22}
            )
            .encode(x=x, y=y)
        )
    if told:
        layers += _intervals(told, x, y, title)
    if seen:
        drawn = [n for n in READINGS.values() if any(row["reading"] == n for row in seen)]
        layers.append(_mark(alt.Chart(look.data(seen)).encode(y=y), drawn, 70, x))
    layers += _limit(found, name)
    return alt.layer(*layers).properties(
        height=380,
        description=f"{name} in bits per byte over the run, with predicted intervals at phase ends",
    )


def _span(found: Pretrained, name: str) -> alt.Scale:
    """From the lowest number to the highest at a phase end: how a run falls from nothing is of no
    interest, and would press the intervals flat."""
    import altair as alt

    rows = [row for row in found.foretold if row.score == name]
    at_ends = [row.measured for row in rows if row.measured is not None]
    at_ends += [
        end for row in rows if row.predicted for end in (row.predicted.low, row.predicted.high)
    ]
    at_ends += [found.guard_limits[name]] if name in found.guard_limits else []
    low = min([*at_ends, *(e.scores[name] for e in found.evaluations if name in e.scores)])
    pad = 0.06 * (max(at_ends) - low) or 0.01
    return alt.Scale(zero=False, domain=[low - pad, max(at_ends) + pad], nice=False)


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


def _mark(base: alt.Chart, domain: Sequence[str], size: int, x: alt.X) -> alt.Chart:
    """A measured score by what became of its prediction: in colour and in shape."""
    import altair as alt

    looks = {
        "inside": ("var(--source-2)", "circle"),
        "outside": ("var(--source-1)", "cross"),
        "not predicted": ("var(--muted)", "diamond"),
    }
    hue = alt.Scale(domain=list(domain), range=[looks[name][0] for name in domain])
    shape = alt.Scale(domain=list(domain), range=[looks[name][1] for name in domain])
    chart: alt.Chart = base.mark_point(
        filled=True, size=size, opacity=1, stroke="var(--surface)", strokeWidth=1
    ).encode(
        x=x,
        color=alt.Color("reading:N", scale=hue, legend=alt.Legend(offset=24)),
        shape=alt.Shape("reading:N", scale=shape),
        tooltip=[
            alt.Tooltip("shown:N", title="measured"),
            alt.Tooltip("said:N", title="predicted"),
            alt.Tooltip("reading:N"),
        ],
    )
    return chart


def _errors(found: Pretrained) -> look.Layers:
    """Measured minus predicted in each interval, one row a phase end and score: 0 is as predicted.

    On the axis of scores a narrow interval cannot be seen beside the fall of the score itself.
    """
    import altair as alt

    rows: list[look.Row] = [
        {
            "row": f"{row.phase}: {row.score}",
            "low": row.predicted.low - row.predicted.value,
            "high": row.predicted.high - row.predicted.value,
            "error": row.error,
            "reading": "inside" if row.inside else "outside",
            "shown": show.decimal(row.measured, 4),
            "said": show.interval(row.predicted, 4),
        }
        for row in found.foretold
        if row.predicted is not None and row.measured is not None
    ]
    named = alt.Axis(labelLimit=190, labelColor="var(--ink)", grid=False)
    base = alt.Chart(look.data(rows)).encode(y=alt.Y("row:N", title=None, sort=None, axis=named))
    title = "error, bits per byte"
    x = alt.X("low:Q", title=title, axis=alt.Axis(tickCount=5))
    bar = base.mark_rule(strokeWidth=2, color="var(--ink)", aria=False).encode(x=x, x2="high:Q")
    ends = [
        base.mark_tick(
            thickness=2, size=13, color="var(--ink)", orient="vertical", aria=False
        ).encode(x=alt.X(f"{end}:Q"))
        for end in ("low", "high")
    ]
    zero = alt.Chart(look.data([{"low": 0.0}]))
    line = zero.mark_rule(strokeDash=[4, 4], color="var(--muted)", aria=False).encode(x=x)
    mark = _mark(base, ("inside", "outside"), 90, alt.X("error:Q", title=title))
    return alt.layer(line, bar, *ends, mark).properties(
        height=34 * len(rows), description="Measured minus predicted, in the predicted intervals"
    )


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
