"""The training worker: runs handed to it one after another, torch and base loaded once.

Started as `python -m anneal run --serve` (runs named on standard input, events on standard output;
see `plan.protocol`), or as `python -m anneal run SPEC` for one run. It needs torch, transformers,
pydantic and numpy alone. A run of engine deepspeed it hands to processes of their own (`ranks`);
one of those is this same worker, started with its place in the environment.
"""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from anneal.plan.protocol import Report, Stopped, TaskFailed
from anneal.plan.values import RunTask
from anneal.store import Store, read_value
from anneal.training import ranks
from anneal.training.rank import is_rank

if TYPE_CHECKING:
    from anneal.training.workbench import Workbench


class Worker:
    """Carries out runs; keeps its workbench warm between them."""

    def __init__(self) -> None:
        self._bench: Workbench | None = None

    def warm(self, spec: Path | None = None) -> None:
        """Loads what is slow to load, and makes arithmetic repeatable.

        Args:
            spec: task file of a run whose turn has not come: its model is made and compiled. What
                goes wrong there is left to the run itself, which can say so.
        """
        from anneal.training.loop import make_repeatable
        from anneal.training.workbench import Workbench

        if self._bench is not None:
            return
        make_repeatable()
        self._bench = Workbench()
        if spec is not None:
            try:
                task = read_value(spec, RunTask)
                if task.means.engine == "deepspeed":
                    return  # its ranks make it
                self._set_threads(task)
                self._bench.rehearse(task, Store(spec.absolute().parents[2]))
            except Exception:
                traceback.print_exc()

    @staticmethod
    def _start_ranks(spec: Path, task: RunTask, result: Path, report: Report) -> None:
        from anneal.training.processes import prepare_environment

        environment = prepare_environment(os.environ) | {"OMP_NUM_THREADS": str(task.means.threads)}
        command = ranks.rank_command(spec, task.means.processes)
        ranks.run_ranks(command, result=result, environment=environment, report=report)

    @staticmethod
    def _set_threads(task: RunTask) -> None:
        import torch

        if torch.get_num_threads() != task.means.threads:
            torch.set_num_threads(task.means.threads)

    def __call__(self, spec: str, report: Report) -> None:
        """Carries out the run whose task file is STORE/runs/ID/task.json, unless it is done.

        Raises:
            TaskFailed, Stopped: as `plan.protocol.serve` understands them.
        """
        from anneal.training import loop

        path = Path(spec).absolute()
        task = read_value(path, RunTask)
        store = Store(path.parents[2])
        result = store.run(task.spec.id) / "result.json"
        if result.exists():
            return
        if task.means.engine == "deepspeed" and not is_rank():
            self._start_ranks(path, task, result, report)
            return
        self.warm()
        assert self._bench is not None
        self._set_threads(task)
        try:
            loop.train(
                task,
                store,
                bench=self._bench,
                report=lambda done, total, loss, rate: report(
                    done, total, loss=loss, tokens_per_second=rate
                ),
                stopping=lambda: report.stopping,
            )
        except loop.NonFinite as error:
            raise TaskFailed("non_finite", str(error)) from error
        except loop.Interrupted as error:
            raise Stopped(str(error)) from error
