"""Asks whatever holds a store to stop, and waits until its work is saved.

The lock file says who that is. What is sent is the SIGTERM that a scheduler would send: runs under
way save a checkpoint, nothing more is begun, and the same command goes on from there. A second one
means what a second Ctrl-C does: workers are ended at once.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from anneal.errors import StoreError
from anneal.store import Holder, Store
from anneal.sweep.record import planned
from anneal.sweep.values import Sweep

LOOK_SECONDS = 0.1
MARGIN_SECONDS = 60.0
"""Beyond the workers' own time to save: for a launcher that is between two looks."""


def cancel(ask: Sweep) -> None:
    """Stops what runs in the sweep's store; returns when it has ended.

    Raises:
        StoreError: nothing runs; it runs on another machine or as another user; or it does not end
            in time.
    """
    store = Store(ask.store)
    holder = store.holder()
    if holder is None:
        raise StoreError(
            f"store {store.root}: nothing runs here",
            hint="name the sweep's file, or its store=FOLDER, if it is another one",
        )
    if not holder.here:
        raise StoreError(
            f"store {store.root}: {holder} holds it, and signals do not reach another machine",
            hint=f"run this on {holder.host}, or there: kill -TERM {holder.process}",
        )
    began = time.monotonic()
    try:
        os.kill(holder.process, signal.SIGTERM)
    except ProcessLookupError:  # it ended just now
        pass
    except PermissionError:
        raise StoreError(
            f"store {store.root}: {holder} is not yours to stop", hint="ask its owner"
        ) from None
    grace = float(getattr(ask.launcher, "grace_seconds", 30.0)) + MARGIN_SECONDS
    while store.holder() == holder:
        if time.monotonic() - began > grace:
            raise StoreError(
                f"store {store.root}: {holder} was told to stop {grace:.0f} s ago and still runs",
                hint="wait, or cancel again: its workers are then ended without saving",
            )
        time.sleep(LOOK_SECONDS)
    print(f"stopped: {holder}, after {time.monotonic() - began:.1f} s")
    print(_left(holder, store))


def _left(holder: Holder, store: Store) -> str:
    """What a stopped process left behind, by what it was doing."""
    verb, _, name = holder.what.partition(" ")
    if verb != "sweep" or not (store.sweep(name) / "plan.json").exists():
        return "the same command goes on from here"
    runs = {run.spec.id for run in planned(store.sweep(name))}
    runs |= {r.spec.start.run for r in planned(store.sweep(name)) if r.spec.start.kind == "run"}
    finished = {run for run in runs if (store.run(run) / "result.json").exists()}
    saved = {run for run in runs - finished if _saved(store.run(run))}
    return (
        f"{len(finished)} of {len(runs)} runs finished, {len(saved)} saved on their way; "
        "the same command goes on from here"
    )


def _saved(folder: Path) -> bool:
    return next(folder.glob("checkpoint-*"), None) is not None
