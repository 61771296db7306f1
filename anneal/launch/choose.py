"""From settings to a launcher: `kind` says which."""

from __future__ import annotations

from pathlib import Path

from anneal.launch.local import Local, LocalLauncher, on_gpus
from anneal.launch.slurm import Slurm, SlurmLauncher
from anneal.launch.values import Launcher
from anneal.store import Store


def launcher_for(settings: Local | Slurm, store: Store, *, logs: Path) -> Launcher:
    """The launcher that the settings ask for.

    Args:
        settings: of one kind.
        store: where results go; on a file system that every node of a cluster sees.
        logs: folder of logs.

    Raises:
        LaunchError: more cores asked than this machine has.
    """
    if isinstance(settings, Slurm):
        return SlurmLauncher(store, settings, logs=logs)
    return LocalLauncher(store, on_gpus(settings), logs=logs)
