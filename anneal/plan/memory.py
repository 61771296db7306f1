"""How many processes the kernel has killed for memory: what tells "too large" from "taken back"."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def count_oom_kills(root: Path = Path("/")) -> int:
    """Processes of this cgroup (of the whole machine, where it keeps no count) that the kernel
    has killed for memory so far; 0 where nothing counts them.

    Read from cgroup v2 `memory.events`, cgroup v1 `memory.oom_control`, or `/proc/vmstat`, each
    with a line `oom_kill N` (kernel documentation, admin-guide/cgroup-v2).

    Args:
        root: where `proc` and `sys` lie.
    """
    places = []
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                mount, name = root / "sys/fs/cgroup", "memory.events"
            elif "memory" in controllers.split(","):
                mount, name = root / "sys/fs/cgroup/memory", "memory.oom_control"
            else:
                continue
            # Inside some containers the path is the host's, and the mount is the container's own.
            places += [mount / path.strip("/") / name, mount / name]
    for place in [*places, root / "proc/vmstat"]:
        with suppress(OSError):
            for line in place.read_text(encoding="utf-8").splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0
