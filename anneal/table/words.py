"""What is found, as tables and facts: the same for the terminal, the page and its Markdown twin.

Scores are printed to one digit beyond the noise floor: more would be noise, fewer would hide ties.
"""

from __future__ import annotations

import math

from anneal.report import format as show
from anneal.report.blocks import Block, Choice, Column, Fact, Facts, Figure, Note, Section, Table
from anneal.report.tables import SOURCE, numbers
from anneal.table.values import At, Fitted


def digits(fitted: Fitted) -> int:
    """Decimals of scores."""
    return max(2, min(6, 1 - math.floor(math.log10(fitted.noise.sd.value))))


def as_read(fitted: Fitted) -> Section:
    """The table as it was understood."""
    places = digits(fitted)
    rows = tuple(
        (
            s.source,
            str(s.runs),
            _ladder(s.budgets),
            str(s.seeds),
            "every token new" if s.pool is None else show.count(s.pool),
            show.epochs(round(s.epochs, 4)),
            show.decimal(s.best, places),
        )
        for s in fitted.sources
    )
    facts = [Fact("runs", str(fitted.runs))]
    if fitted.base is not None:
        facts.append(Fact("base, not annealed", show.decimal(fitted.base, places)))
    if fitted.targets:
        facts.append(Fact("targets", ", ".join(fitted.targets), "the score is their mean"))
    return Section(
        name="table",
        title="The table as read",
        lead="Check this first: a number misread here is wrong in everything below.",
        blocks=(
            Table(
                caption=f"Sources of {fitted.table}",
                columns=(
                    SOURCE,
                    *numbers("runs", "budgets, tokens", "most seeds", "pool, tokens"),
                    *numbers("most epochs", f"best {fitted.unit}"),
                ),
                rows=rows,
            ),
            Facts(facts=tuple(facts)),
        ),
    )


def _ladder(budgets: tuple[float, ...]) -> str:
    """`5: 10M to 160M`."""
    if len(budgets) == 1:
        return f"1: {show.count(budgets[0])}"
    return f"{len(budgets)}: {show.count(budgets[0])} to {show.count(budgets[-1])}"


def noise(fitted: Fitted) -> Section:
    """The noise floor and where it is from."""
    floor, places = fitted.noise, digits(fitted)
    told = {
        "repeats": f"pooled over runs that differ in their seed alone, {floor.degrees} degrees "
        "of freedom",
        "given": "as given",
        "residuals of the law": "no run was repeated: what the law leaves over",
    }[floor.origin]
    value = (
        show.interval(floor.sd, places + 1)
        if floor.origin == "repeats"
        else show.decimal(floor.sd.value, places + 1)
    )
    return Section(
        name="noise",
        title="Noise floor",
        lead="How much a score moves when only the seed changes: a difference below it is a tie.",
        blocks=(
            Facts(
                facts=(
                    Fact("SD of one run", value, told),
                    Fact("relative", show.percent(floor.relative)),
                )
            ),
        ),
    )


def held_out(fitted: Fitted) -> Section:
    """The back-test, baselines in the same table."""
    held, places = fitted.held_out, digits(fitted)
    order = sorted(held.rows, key=lambda r: (r.mae is None, r.mae))
    rows = tuple(
        (
            r.approach,
            show.NONE if r.mae is None else show.decimal(r.mae, places),
            show.NONE if r.rank_correlation is None else show.decimal(r.rank_correlation, 2),
            show.NONE if r.top1_regret is None else show.decimal(r.top1_regret, places),
            show.NONE if r.coverage is None else show.percent(r.coverage),
            "decides" if r.used else r.message[:60],
        )
        for r in order
    )
    return Section(
        name="check",
        title="Model check",
        lead="The largest budget predicted from the smaller ones. A law worth believing has an "
        "error near the noise floor and beats the plain baselines: last budget, mean law, "
        "constant.",
        blocks=(
            Table(
                caption=f"{held.runs} runs at {show.count(held.budget)} tokens, held out",
                columns=(
                    Column("approach"),
                    *numbers("mean absolute error", "rank correlation", "regret of its pick"),
                    *numbers("inside 90% interval"),
                    Column("remark"),
                ),
                rows=rows,
                marked=frozenset(i for i, r in enumerate(order) if r.used),
            ),
            Note(text=held.reason),
        ),
    )


def law(fitted: Fitted) -> Section:
    """The forms in the average, and the parameters of the heaviest."""
    common, own = fitted.drift
    return Section(
        name="law",
        title="The law",
        lead="Forms count by how they predicted larger budgets from smaller ones; beyond the data "
        "all may be wrong together, which the drift allows for. Trust curves, not parameters.",
        blocks=(
            Table(
                caption="Forms in the average",
                columns=(Column("form"), *numbers("weight"), Column("formula")),
                rows=tuple((f.form, show.percent(f.weight), f.formula) for f in fitted.forms),
            ),
            Table(
                caption=f"Parameters of the heaviest, {fitted.forms[0].form}",
                columns=(Column("parameter"), *numbers("value [90% interval]")),
                rows=tuple((p.name, show.interval_significant(p.value)) for p in fitted.parameters),
            ),
            Facts(
                facts=(
                    Fact(
                        "drift beyond the data",
                        f"{show.percent(common)} and {show.percent(own)}",
                        "SD per doubling: of all sources together, of each on its own",
                    ),
                    Fact("draws", str(fitted.draws), f"seed {fitted.seed}"),
                )
            ),
        ),
    )


def curves(fitted: Fitted) -> Section:
    """Every source at every budget asked for."""
    return Section(
        name="curves",
        title="Curves",
        lead="Lower is better. The curve's interval is where many runs would average; a new run "
        "adds its own noise.",
        blocks=(
            Figure(
                name="curves",
                switch="",
                choices=(Choice("curves", "curves"),),
                caption="Score against tokens: one mark a run, lines the law with its 90% band; "
                "hollow marks are the held-out largest budget; the right-hand rule is the budget "
                "of the decision. A triangle is a run whose pool was smaller than the curve's: it "
                "repeated more. Choose a name in the legend to see that source alone.",
            ),
            *(at_budget(fitted, at) for at in fitted.at),
        ),
    )


def at_budget(fitted: Fitted, at: At) -> Table:
    """All curves at one budget."""
    places = digits(fitted)
    beyond = (
        "the largest budget tried"
        if at.factor == 1
        else f"{show.decimal(at.factor, 2)} times the largest tried"
        if at.factor < 1
        else f"{show.decimal(at.factor, 1)}-fold extrapolation"
    )
    control = ("P(better than control)",) if fitted.control else ()
    return Table(
        caption=f"At {show.count(at.tokens)} tokens: {beyond}",
        columns=(
            SOURCE,
            *numbers("epochs", "curve [90%]", "new run [90%]", "P(best)"),
            *numbers("P(within noise of best)", *control),
        ),
        rows=tuple(
            (
                r.source,
                show.epochs(r.epochs),
                show.interval(r.curve, places),
                show.interval(r.new_run, places),
                _chance(r.probability_best),
                _chance(r.probability_within),
                *((_chance(r.probability_control),) if control else ()),
            )
            for r in at.rows
        ),
        marked=frozenset({0}) if fitted.outcome == "leads" else frozenset(),
    )


def _chance(value: float | None) -> str:
    return show.NONE if value is None else show.probability(value)


def ranks(fitted: Fitted) -> Section:
    """Single budgets beside the law."""
    places, last = digits(fitted), fitted.at[-1]
    rows = [
        (
            show.count(r.budget),
            r.sources[0],
            ("same as the law" if r.agrees else "differs from the law")
            + ("" if r.clear else ", within noise"),
            ", ".join(
                f"{s} {show.decimal(v, places)}" for s, v in zip(r.sources, r.scores, strict=True)
            ),
        )
        for r in fitted.ranks
    ]
    ordered = [r for r in last.rows if r.probability_best is not None]
    rows.append(
        (
            f"law at {show.count(last.tokens)}",
            ordered[0].source,
            show.NONE,
            ", ".join(f"{r.source} {show.decimal(r.curve.value, places)}" for r in ordered),
        )
    )
    return Section(
        name="ranks",
        title="Single budgets",
        lead="What someone who ran one budget alone would have picked.",
        blocks=(
            Table(
                caption="Ranking at single budgets, beside the law's",
                columns=(
                    Column("at budget", "number"),
                    Column("pick", "source"),
                    Column("reading"),
                    Column("ranking with scores, best first"),
                ),
                rows=tuple(rows),
                marked=frozenset({len(rows) - 1}),
            ),
        ),
    )


def guards(fitted: Fitted) -> Section:
    """What each source alone does to the guards."""
    places, at = digits(fitted), fitted.at[-1]
    return Section(
        name="guards",
        title="Guards",
        lead="Targets that must not get worse: their score if the whole budget went to one source.",
        blocks=(
            Table(
                caption=f"Guards at {show.count(at.tokens)} tokens",
                columns=(Column("guard"), SOURCE, *numbers("base", "predicted [90%]")),
                rows=tuple(
                    (
                        g.guard,
                        g.source,
                        show.NONE if g.base is None else show.decimal(g.base, places),
                        show.interval(g.score, places),
                    )
                    for g in fitted.guards
                ),
            ),
        ),
    )


def remarks(notes: tuple[str, ...], warnings: tuple[str, ...], fitted: Fitted) -> Section:
    """What was decided in reading, and what to be careful with."""
    blocks: list[Block] = [Note(text=_sentence(w), warning=True) for w in warnings]
    blocks += [Note(text=_sentence(n)) for n in notes]
    if len(fitted.at) == 1:
        blocks.append(Note(text="Give --at TOKENS to look beyond the largest budget tried."))
    return Section(
        name="remarks",
        title="Remarks",
        lead="What was decided in reading the table, and what to be careful with.",
        blocks=tuple(blocks) or (Note(text="None."),),
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
