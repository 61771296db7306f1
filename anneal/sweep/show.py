"""What a sweep would do and has done, as tables: `plan` and `status`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from anneal.ledger import Ledger, export
from anneal.plan.budget import Supply
from anneal.plan.flops import TRAINING_FORMULA, llama_parameters, training_flops
from anneal.plan.runs import PlannedRun, plan_runs, run_flops
from anneal.plan.values import LlamaShape
from anneal.sources.tiers import steps
from anneal.sources.values import Manifest
from anneal.store import Store
from anneal.sweep.base import base_spec, start_from
from anneal.sweep.prepare import read, steps_of
from anneal.sweep.tasks import design_of
from anneal.sweep.values import Sweep

if TYPE_CHECKING:
    import pandas as pd

    from anneal.plan.runs import Design


def show_plan(ask: Sweep) -> None:
    """Prints every run with its price, what will be skipped, and the totals with formulas."""
    store, out = Store(ask.store), wide_console()
    out.print(Text(f"{ask.name}: {ask.question}", style="bold"))
    steps = steps_of(ask, store)
    todo = [s for s in steps if not s.done(store).exists()]
    if todo:
        _show_unprepared(ask, [s.label for s in todo], out)
        return
    manifests = read(ask, steps, store)
    base = base_spec(ask, manifests)
    design = design_of(ask, manifests, start_from(ask, base, manifests, store))
    runs = plan_runs(design)
    ledger = Ledger(store)
    missing = set(ledger.missing(r.spec.id for r in runs))
    speed, source = _speed(ledger, runs, design)
    out.print(_table(design, runs, missing, speed))
    _totals(design, runs, missing, speed, source, out)
    if base is not None:
        state = "to train" if ledger.missing([base.id]) else "done"
        tokens = base.phases[0].tokens
        flops = training_flops(design.parameters, tokens)
        out.print(f"base       {tokens:,} tokens, {flops:.3g} FLOPs: {state}")
    _supplies(design, manifests, out)


def wide_console() -> Console:
    """The terminal, or 160 columns where output is piped."""
    console = Console()
    # piped output is read by programs and people later: never wrapped to a guess of 80 columns
    return console if console.is_terminal else Console(width=160)


def _show_unprepared(ask: Sweep, todo: Sequence[str], out: Console) -> None:
    budget = ask.budget
    out.print(f"\nTo prepare first ({len(todo)} steps), by `python -m anneal sweep`:")
    for label in todo:
        out.print(f"  {label}", markup=False)
    arms = len(ask.source) + 1 + (len(ask.source) > 1)
    seeds = [budget.seeds_at(index) for index in range(budget.count)]
    cells = arms * sum(seeds)
    tokens = sum(n * tokens for n, tokens in zip(seeds, budget.ladder, strict=True))
    total = arms * tokens / (1 - ask.phase.replay_share)
    out.print(
        f"\nThen 1 base, {cells} runs (matched repetition), and natural ones at two budgets for "
        "each source that the real budget would repeat."
    )
    out.print(f"ladder     {', '.join(f'{b:,}' for b in budget.ladder)} source tokens")
    if isinstance(ask.model, LlamaShape):
        vocabulary = getattr(ask.tokenizer, "vocabulary", 0)
        n = llama_parameters(ask.model, vocabulary)
        out.print(
            f"training   about {total:,.0f} tokens, {training_flops(n, total):.3g} FLOPs "
            f"({TRAINING_FORMULA}, {n:,} parameters)"
        )
    out.print("Epochs, pools and prices follow from how many tokens the sources turn out to hold.")


def _table(design: Design, runs: Sequence[PlannedRun], missing: set[str], speed: float) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("arm", "budget", "repetition", "seed"):
        table.add_column(name, justify="left" if name in {"arm", "repetition"} else "right")
    for name in ("epochs", "tokens", "steps", "training FLOPs", "acquisition FLOPs"):
        table.add_column(name, justify="right")
    for name in ("acquisition USD", "seconds", "state"):
        table.add_column(name, justify="right")
    for run in runs:
        table.add_row(
            Text(run.source),
            f"{run.budget:,}" if run.budget else "-",
            run.repetition if run.budget else "-",
            str(run.seed),
            f"{run.epochs:.2f}" if run.epochs else "-",
            f"{run.tokens:,}",
            f"{run.steps:,}",
            f"{run_flops(design, run):.3g}",
            f"{run.acquisition_flops:.3g}",
            f"{run.acquisition_usd:.4g}",
            f"{run.tokens / speed:.1f}",
            "to run" if run.spec.id in missing else "done",
        )
    return table


def _totals(
    design: Design,
    runs: Sequence[PlannedRun],
    missing: set[str],
    speed: float,
    source: str,
    out: Console,
) -> None:
    todo = [r for r in runs if r.spec.id in missing]
    tokens = sum(r.tokens for r in todo)
    flops = sum(run_flops(design, r) for r in todo)
    everything = sum(run_flops(design, r) for r in runs)
    real = real_flops(design)
    hours = tokens / speed / 3600
    out.print(
        f"runs       {len(runs)} planned, {len(runs) - len(todo)} done (skipped), "
        f"{len(todo)} to run"
    )
    out.print(
        f"training   {tokens:,} tokens; {flops:.3g} FLOPs = {TRAINING_FORMULA} "
        f"({design.parameters:,} parameters)"
    )
    out.print(f"time       {hours:.2f} device-hours = tokens / {speed:,.0f} tokens/s ({source})")
    usd = design.prices.training_usd(flops)
    out.print(
        f"money      {usd:.4g} USD = FLOPs x {design.prices.usd_per_flop:.3g} USD/FLOP "
        f"({design.prices.usd_per_hour:g} USD/h at {design.prices.flops_per_second:.3g} FLOP/s)"
    )
    bought = [s.cost for s in design.sources]
    sizes = [s.tokens for s in design.sources]
    acquired = sum(c.flops(n) for c, n in zip(bought, sizes, strict=True))
    price = sum(design.prices.acquisition_usd(c, n) for c, n in zip(bought, sizes, strict=True))
    out.print(
        f"acquiring  {acquired:.3g} FLOPs, {price:.4g} USD = fixed + per token (by tier) x unique "
        "tokens, every source whole"
    )
    out.print(
        f"evidence   {everything:.3g} FLOPs in all = {everything / real:.1%} of the real budget's "
        f"{real:.3g} training FLOPs"
    )


def real_flops(design: Design) -> float:
    """Training FLOPs of the real run: of the dearest source where the budget is money."""
    from anneal.plan.budget import real_tokens

    x = max(
        real_tokens(
            design.budget.real,
            s,
            prices=design.prices,
            parameters=design.parameters,
            replay_share=design.anneal.replay_share,
        )
        for s in design.sources
    )
    return training_flops(design.parameters, x / (1 - design.anneal.replay_share))


def _speed(ledger: Ledger, runs: Sequence[PlannedRun], design: Design) -> tuple[float, str]:
    """Tokens/s of one device, measured where a run of this design is finished."""
    found = [r.tokens_per_second for run in runs if (r := ledger.result(run.spec.id))]
    measured = sorted(v for v in found if v > 0)
    if measured:
        return measured[len(measured) // 2], "median of finished runs"
    return (
        design.prices.flops_per_second / training_flops(design.parameters, 1),
        "prices.flops_per_second / (6 x parameters)",
    )


def _supplies(design: Design, manifests: Mapping[str, Manifest], out: Console) -> None:
    for supply in (*design.sources, design.replay):
        manifest = manifests[supply.name]
        out.print(
            f"source     {supply.name}: {supply.tokens:,} unique tokens, {manifest.documents:,} "
            f"documents, at most {supply.max_epochs:g} epochs"
            f"{_rising(design, supply)}{_padded(manifest)}",
            markup=False,
        )


def _rising(design: Design, supply: Supply) -> str:
    """A rising price in words: USD a million unique tokens, tier by tier."""
    tiers = supply.cost.usd_tiers
    if not tiers:
        return ""
    each = design.prices.acquisition_each(supply.cost)
    told = [
        f"{price * 1e6:.4g}" + (f" for {tokens:,.0f}" if tokens < float("inf") else " beyond")
        for tokens, price in steps(tiers, each)
    ]
    return f"; USD a million: {', '.join(told)}"


def _padded(manifest: Manifest) -> str:
    """Tokens that packing adds to fill up windows, where it does."""
    share = manifest.padding / (manifest.tokens + manifest.padding)
    return f"; {share:.2%} padding on top" if share else ""


def show_status(ask: Sweep, path: Path | None) -> None:
    """Prints one row per run with its evidence; exports the whole table where `path` is given."""
    from anneal.sweep.record import planned

    store = Store(ask.store)
    runs = planned(store.sweep(ask.name))
    table = Ledger(store).results(runs)
    if path is not None:
        export(table, path)
    out = wide_console()
    out.print(_status_table(runs, table, [str(c) for c in table if str(c).startswith("bpb ")]))
    done = len(table)
    missing = [r.label for r in runs if r.spec.id not in set(table["run"])]
    out.print(f"{done} of {len(runs)} runs finished")
    for label, count in Counter(missing).items():
        out.print(f"  missing: {label}" + (f" x{count}" if count > 1 else ""), markup=False)
    if path is not None:
        out.print(f"exported: {path}", markup=False)


def _status_table(runs: Sequence[PlannedRun], table: pd.DataFrame, scores: list[str]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    plain = ("run", "arm", "budget", "repetition", "seed", "epochs", "tokens", "seconds")
    for name in (*plain, "tokens/s", "FLOPs", *scores, "device", "code"):
        left = name in {"run", "arm", "repetition", "device", "code"}
        shown.add_column(name, justify="left" if left else "right", no_wrap=name == "run")
    rows = {row["run"]: row for row in table.to_dict("records")}
    for run in runs:
        row = rows.get(run.spec.id)
        head = (
            run.spec.id[:10],
            Text(run.source),
            f"{run.budget:,}",
            run.repetition,
            str(run.seed),
            f"{run.epochs:.2f}",
            f"{run.tokens:,}",
        )
        if row is None:
            shown.add_row(*head, "-")
            continue
        shown.add_row(
            *head,
            f"{row['seconds']:.1f}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['flops']:.3g}",
            *(f"{row[s]:.4f}" for s in scores),
            Text(str(row["device"])),
            str(row["code"]),
        )
    return shown
