"""A made-up run of several processes, for `test_ranks`: as a rank, or as the worker that starts it.

A rank adds numbers up with the others, step by step, and does what its task file says; the worker
is a real one (`plan.protocol.serve`) whose handle starts the ranks.
"""

import json
import os
import sys
import time
from pathlib import Path

from anneal.plan.protocol import Stopped, TaskFailed, serve
from anneal.training.rank import is_rank, run_as_rank
from anneal.training.ranks import run_ranks


def as_rank(spec, report):
    import torch
    import torch.distributed as dist

    task = json.loads(Path(spec).read_text())
    folder, rank = Path(spec).parent, int(os.environ["RANK"])
    dist.init_process_group("gloo")
    (folder / f"pid-{rank}").write_text(str(os.getpid()))
    for step in range(task["steps"]):
        flag = torch.tensor([int(report.stopping)])
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        if flag:
            if rank == 0:
                (folder / "checkpoint").write_text(str(step))
            raise Stopped("saved")
        if task.get("fail") == rank and step == 3:
            raise TaskFailed("non_finite", "loss nan at step 3")
        report(step + 1, task["steps"], loss=1.0 / (step + 1), tokens_per_second=2.0)
        time.sleep(0.05)
    if rank == 0:
        (folder / "result.json").write_text("{}")
    dist.barrier()
    if task.get("abort") == rank:
        os.abort()


def as_worker(spec, report):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes", "1"]
    command += ["--nproc-per-node", "2", __file__, spec]
    run_ranks(
        command,
        result=Path(spec).parent / "result.json",
        environment=os.environ | {"OMP_NUM_THREADS": "1"},
        report=report,
    )


if __name__ == "__main__":
    sys.exit(run_as_rank(as_rank, sys.argv[1]) if is_rank() else serve(as_worker))
