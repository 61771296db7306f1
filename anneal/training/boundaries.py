"""Hand-offs: the state after a phase, kept, read back, and taken up by whatever comes next.

A phase is paid for once. Its end is a folder of the store, addressed by everything that led to it
(`RunSpec.boundary`), so a run that begins alike takes it up instead of training again, and a
changed last phase trains the last phase alone. A state is only handed on after it was read back
from disk: the same weights and moments, the same place in the data, the same loss.

    model.safetensors  optimiser.safetensors  config.json      fp32, as a Hugging Face folder
    boundary.json                                              what it is; last
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from anneal.errors import StoreError
from anneal.plan.schedule import learning_rate
from anneal.plan.values import PhaseEnd, RunSpec
from anneal.store import Store, read_value, sweep_up, write_value, writing
from anneal.training import checkpoint
from anneal.training.engine import Engine
from anneal.training.tensors import sha256
from anneal.values import Value

FILE = "boundary.json"


class Boundary(Value):
    """The record of a kept state."""

    end: PhaseEnd
    targets: dict[str, str]
    """Content addresses of what its scores are about, by target name."""
    data: str
    """Digest of the phase's last batch: the place in the data order it stands for."""
    check: float
    """Loss of the state on that batch, nats per token."""
    precision: str
    run: str
    """Which run trained it."""


def digest(rows: NDArray[np.int64]) -> str:
    """Digest of a batch of token ids."""
    return hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()[:20]


def keep(store: Store, boundary: Boundary, engine: Engine) -> None:
    """Writes a state below its address, unless it is there; collective."""
    folder = store.boundary(boundary.end.boundary)
    weights, moments = engine.weights(), engine.moments()
    if engine.leader and not (folder / FILE).exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep_up(folder.parent, f"{folder.name}.")
        with writing(folder) as temporary:
            checkpoint.write_model(temporary, engine.model, weights, moments)
            write_value(temporary / FILE, boundary)
    engine.wait()


class Place(Value):
    """Where a run must stand at the end of a phase: all of it follows from the spec."""

    phase: str
    index: int
    tokens: int
    """Trained tokens of the run so far."""
    steps: int
    """Of the phase."""
    learning_rate: float
    """Of its last step."""


def place_of(spec: RunSpec, index: int) -> Place:
    """Where a run must stand at the end of phase number `index`."""
    phase = spec.phases[index]
    last = (phase.steps - 0.5) * phase.batch * phase.sequence
    return Place(
        phase=phase.name,
        index=index,
        tokens=sum(p.tokens for p in spec.phases[: index + 1]),
        steps=phase.steps,
        learning_rate=learning_rate(phase.schedule, last, phase.tokens),
    )


def take_up(
    folder: Path,
    engine: Engine,
    rows: NDArray[np.int64],
    sequence: int,
    *,
    place: Place,
    fresh: bool = False,
) -> Boundary:
    """Reads a kept state back into the engine, and makes sure that it is what it says; collective.

    Args:
        folder: of the state.
        engine: that gets it.
        rows: the last batch of the phase that it ends.
        sequence: tokens of context of the check.
        place: where the run must stand there.
        fresh: leave Adam's moments behind.

    Raises:
        StoreError: files missing, damaged or of another state, other data, another loss.
    """
    boundary = read_value(folder / FILE, Boundary)
    for name, wanted in place.model_dump().items():
        if (found := getattr(boundary.end, name)) != wanted:
            raise StoreError(
                f"{folder}: its {name} is {found}, the run's is {wanted} there",
                hint="delete this folder and run again: the phase is trained anew",
            )
    weights: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    if engine.leader:
        weights, moments = checkpoint.load_weights(folder)
        for what, hashed, recorded in (
            ("weights", sha256(weights), boundary.end.weights),
            ("moments", sha256(moments), boundary.end.moments),
        ):
            if hashed != recorded:
                raise StoreError(
                    f"{folder}: its {what} are not those that were written (SHA-256 {hashed[:12]}, "
                    f"recorded {recorded[:12]})",
                    hint="delete this folder and run again: the phase is trained anew",
                )
    if digest(rows) != boundary.data:
        raise StoreError(
            f"{folder}: phase `{boundary.end.phase}` ended on other data (batch {boundary.data}, "
            f"now {digest(rows)})",
            hint="the token files changed: restore them, or delete this folder to train it anew",
        )
    engine.load(weights, None if fresh else moments)
    found_loss = checkpoint.check(engine, rows, sequence)
    checkpoint.must_agree(folder, found_loss, boundary.check, boundary.precision)
    return boundary


def furthest(spec: RunSpec, store: Store) -> int:
    """Phases at the beginning of a run whose end is kept: the run can begin after them."""
    for index in reversed(range(len(spec.phases))):
        if (store.boundary(spec.boundary(index)) / FILE).exists():
            return index + 1
    return 0
