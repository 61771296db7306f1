"""What preparing a source made of it: `prepare` and `synthesize`.

One block a source: what was read, what every step dropped and why, what is left, and what a token
of it costs. The price that a sweep pays for a token is the last column of the last line, so it must
be possible to follow it: costs of a step are those of everything that went in, and what did not
come out is paid by what did.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anneal.curation.dropped import DROPPED_FILE
from anneal.curation.steps import Synthesize
from anneal.curation.values import CurationRecord, StepRecord
from anneal.errors import SettingsError
from anneal.launch.choose import launcher_for
from anneal.launch.live import Live
from anneal.plan.budget import Prices
from anneal.sources.evidence import NOT_STATED
from anneal.sources.values import Cost, Manifest
from anneal.store import Store, read_value
from anneal.sweep.prepare import prepare_some, read
from anneal.sweep.values import Sweep

MILLION = 1e6
MOST_TOLD = 8
"""Licences and languages told of, the largest."""


def prepare_sources(ask: Sweep, names: Sequence[str]) -> None:
    """Prepares sources or targets by name, all of them where none is named, and tells of each.

    Raises:
        AnnealError: for what the user can mend.
    """
    store = Store(ask.store)
    logs = store.sweep(ask.name) / "logs"
    with (
        store.lock(f"prepare {' '.join(names)}"),
        Live() as live,
        launcher_for(ask.launcher, store, logs=logs) as workers,
    ):
        live.say(f"preparing {', '.join(names) or 'everything that the sweep names'}")
        steps = prepare_some(ask, names, store, workers, live)
    manifests = read(ask, steps, store)
    declared = {s.name: s.cost for s in (*ask.source, *ask.replay)}
    for step in steps:
        if step.work.kind != "tokens":
            continue
        name, documents = step.work.name, store.documents(step.work.documents)
        record = read_value(documents / "curation.json", CurationRecord)
        _tell(name, manifests[name], record, ask.prices)
        if declared.get(name, Cost()) != Cost():
            line("declared", _declared(declared[name]) + ", part of the cost above")
        line("documents", f"{_short(documents)} (what was dropped, and why: {DROPPED_FILE})")


def synthesize_source(ask: Sweep, name: str) -> None:
    """Prepares one source that a teacher writes.

    Raises:
        SettingsError: the source has no `synthesize` step, or does not exist.
    """
    sources = {s.name: s for s in (*ask.source, *ask.replay, *ask.helper)}
    source = sources.get(name)
    if source is not None and not any(isinstance(s, Synthesize) for s in source.steps):
        written = [s.name for s in sources.values() for t in s.steps if isinstance(t, Synthesize)]
        raise SettingsError(
            f"synthesize: no teacher writes `{name}`: it has no step of kind `synthesize`",
            hint=f"sources with one: {', '.join(written) or 'none'}; others are made by `prepare`",
        )
    prepare_sources(ask, [name])


def line(head: str, text: str) -> None:
    """One line of a block, on standard output, as long as it is."""
    print(f"  {head:<13} {text}")


def _tell(name: str, manifest: Manifest, record: CurationRecord, prices: Prices) -> None:
    print(name)
    if record.upstream:
        line("before", "what it was made from went through these, and their cost is its own too")
    for step in record.upstream:
        line(step.step, _step(step, prices))
    left = _counts(record.left_out)
    line(
        "read",
        f"{record.read:,} documents, {record.read_bytes:,} bytes"
        + (f"; left out {left}" if left else ""),
    )
    for step in record.steps:
        line(step.step, _step(step, prices))
    size = f"{manifest.bytes / manifest.tokens:.2f} bytes a token"
    line("kept", f"{record.documents:,} documents, {manifest.tokens:,} tokens, {size}")
    cost = manifest.cost
    fixed = prices.acquisition_usd(cost, 0.0)
    each = prices.acquisition_usd(cost, MILLION) - fixed
    line(
        "cost",
        f"a million tokens: {_usd(each)}, {cost.flops_per_token * MILLION:.3g} FLOPs, "
        f"{cost.seconds_per_token * MILLION:.3g} s; "
        f"once: {_usd(fixed)}, {cost.flops_fixed:.3g} FLOPs, {cost.seconds_fixed:.3g} s",
    )
    for head, counted in (
        ("licences", record.evidence.licences),
        ("languages", record.evidence.languages),
    ):
        rows = sorted(counted.items(), key=lambda item: -item[1].bytes)
        told = [
            f"{name} {c.documents:,} ({c.bytes / record.bytes:.0%} of bytes)" for name, c in rows
        ]
        if len(told) > 1 or (told and rows[0][0] != NOT_STATED):
            line(head, ", ".join(told[:MOST_TOLD]) + ("" if len(told) <= MOST_TOLD else ", ..."))
    for key, value in record.notes.items():
        if "\n" not in str(value):  # a whole template, say: it stands in curation.json
            line("noted", f"{key.replace('_', ' ')}: {value}")


def _declared(cost: Cost) -> str:
    once = f"{_usd(cost.usd_fixed)} once"
    if not cost.usd_tiers:
        return f"{_usd(cost.usd_per_token * MILLION)} a million tokens, {once}"
    tiers = [f"{tokens:,.6g} tokens at {_usd(each * MILLION)}" for tokens, each in cost.usd_tiers]
    return f"{', then '.join(tiers)} a million, {once}"


def _step(step: StepRecord, prices: Prices) -> str:
    dropped = _counts(step.dropped)
    usd = step.usd + step.usd_fixed
    usd += (step.seconds + step.seconds_fixed) * prices.usd_per_hour / 3600
    return (
        f"{step.kept:,} of {step.documents:,} documents, yield {step.yielded:.1%} of the bytes"
        + (f"; dropped {dropped}" if dropped else "")
        + f"; {step.seconds + step.seconds_fixed:.1f} s, {step.flops + step.flops_fixed:.3g} FLOPs,"
        f" {_usd(usd)}"
    )


def _counts(counted: dict[str, int]) -> str:
    rows = sorted(counted.items(), key=lambda item: -item[1])
    return ", ".join(f"{count:,} {reason}" for reason, count in rows if count)


def _usd(value: float) -> str:
    return f"${value:,.2f}" if value >= 1 or value == 0 else f"${value:.2g}"


def _short(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
