"""Slots and groups of them: which cores, devices and environment each worker gets.

Runs are small, so several go side by side, one a slot. They must not share cores: OpenMP threads
above the free cores made training up to ten times slower where we measured it, and two one-thread
workers beat one two-thread worker. Each slot is therefore pinned to cores of its own, and every
thread pool that numerical libraries bring is told the slot's number of threads.

A run of several processes takes a slot for each. Its worker gets a `Group`: the cores and devices
of all of them, and the threads of one, since each of its processes has thread pools of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from anneal.launch.values import LaunchError
from anneal.store import Store

THREAD_POOLS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
)
MALLOC = {
    # Training on a CPU frees large temporaries each step. With glibc's defaults they go back to
    # the kernel and are faulted in again: a third of the time. Measured on a 1.1M model, one
    # core: 7.7k -> 10.5k tokens/s.
    "MALLOC_MMAP_THRESHOLD_": str(8 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Where one worker at a time runs."""

    number: int
    cores: frozenset[int]
    """Empty: wherever the kernel likes."""
    devices: tuple[str, ...] = ()
    """What CUDA_VISIBLE_DEVICES names; empty: it is left alone."""
    environment: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The slots of one worker: one, or as many as its task has processes."""

    slots: tuple[Slot, ...]

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(slot.number for slot in self.slots)

    @property
    def first(self) -> int:
        """The slot that speaks for the group in events."""
        return self.slots[0].number

    @property
    def cores(self) -> frozenset[int]:
        return frozenset[int]().union(*(slot.cores for slot in self.slots))

    @property
    def environment(self) -> dict[str, str]:
        own = dict(self.slots[0].environment)
        if devices := dict.fromkeys(d for slot in self.slots for d in slot.devices):
            own["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        return own


def choose(slots: Sequence[Slot], count: int) -> Group | None:
    """A group of the first `count` of these slots that each bring a device of their own.

    Slots that share a device, or have none dealt, are the packing of small runs: two processes of
    one run on one GPU would only wait for each other, and NCCL refuses them.

    Args:
        slots: to choose from, best first; they need not be neighbours.
        count: how many.

    Returns:
        The group, its slots by number; None when there are too few.
    """
    chosen: list[Slot] = []
    seen: set[str] = set()
    for slot in slots:
        if len(chosen) < count and not (slot.devices and seen.issuperset(slot.devices)):
            chosen.append(slot)
            seen.update(slot.devices)
    if len(chosen) < count:
        return None
    return Group(slots=tuple(sorted(chosen, key=lambda slot: slot.number)))


def available_cores() -> list[int]:
    """Cores this process may use, as many as its cgroup's quota allows, lowest first."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    cores = sorted(os.sched_getaffinity(0))
    try:  # cgroup v2 cpu.max: "quota period" in microseconds, or "max period"
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return cores[: max(1, int(quota) // int(period))]
    except (OSError, ValueError):
        return cores


def make_slots(
    count: int,
    *,
    threads: int,
    devices: Sequence[str],
    pin: bool,
    environment: Mapping[str, str],
) -> tuple[Slot, ...]:
    """Divides the machine.

    Args:
        count: slots.
        threads: CPU threads, and cores where pinned, of each.
        devices: values of CUDA_VISIBLE_DEVICES, dealt to the slots in turn: "0", "1" or "0,1".
            More slots than devices pack several workers on one; empty leaves them alone.
        pin: give each slot cores of its own.
        environment: of every worker.

    Raises:
        LaunchError: more cores asked than there are.
    """
    cores = available_cores()
    if pin and count * threads > len(cores):
        raise LaunchError(
            f"launcher: {count} slots x {threads} threads asked, {len(cores)} cores available",
            hint="lower launcher.slots or launcher.threads, or set launcher.pin=false"
            " (threads above the cores make training several times slower)",
        )
    pinned = pin and hasattr(os, "sched_setaffinity")
    slots = []
    for number in range(count):
        own = dict(environment) | dict.fromkeys(THREAD_POOLS, str(threads))
        dealt: tuple[str, ...] = ()
        if devices:
            own["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
            dealt = tuple(own["CUDA_VISIBLE_DEVICES"].split(","))
        mine = cores[number * threads : (number + 1) * threads] if pinned else []
        slots.append(Slot(number=number, cores=frozenset(mine), devices=dealt, environment=own))
    return tuple(slots)


def worker_environment(
    store: Store, *, executable: str, inherited: Mapping[str, str], extra: Mapping[str, str]
) -> dict[str, str]:
    """Environment of every worker. Never printed or logged: people keep secrets there.

    What is set already (`inherited`) stays, and `extra` overrides it. Compiled kernels are kept in
    the store's cache, so that the next worker, and the next sweep, do not compile again.
    """
    defaults = MALLOC | {
        "TORCHINDUCTOR_CACHE_DIR": str(store.cache("inductor")),
        "TORCH_EXTENSIONS_DIR": str(store.cache("torch_extensions")),
    }
    environment = defaults | dict(inherited)
    # The interpreter's own programs first: another ninja makes extensions rebuild each time.
    programs = str(Path(executable).parent)
    path = environment.get("PATH", os.defpath)
    if path.split(os.pathsep)[0] != programs:
        environment["PATH"] = os.pathsep.join([programs, path])
    return environment | dict(extra)


@contextmanager
def on_cores(cores: frozenset[int]) -> Iterator[None]:
    """Processes started meanwhile run on `cores` alone, from their first instruction.

    The calling thread moves there for that moment, since a child inherits its affinity; setting
    the child's afterwards would miss thread pools that it has already made.
    """
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
