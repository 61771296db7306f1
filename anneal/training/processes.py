"""The processes that share one run: who this one is, and how they agree.

torchrun and the `deepspeed` launcher tell each process its place in environment variables (RANK,
WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT). Tensors travel by NCCL between GPUs and by gloo
between CPUs. Words between the processes (stop? ready?) travel by a gloo group of their own: a
question asked by NCCL would make the CPU wait for all work that its GPU still has to do.
"""

from __future__ import annotations

import fcntl
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from anneal.errors import TrainingError
from anneal.plan.means import Means

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: the leader may be hashing a large checkpoint. One that
died is noticed at once, by its closed connections."""


class Processes:
    """The processes of a run, as one of them sees them.

    All of them make it, at the same time; the first one made joins them.

    Args:
        device: cpu, or cuda for the GPU of this process's own number on its machine.

    Attributes:
        rank: this process's number, from 0.
        count: processes in all.
        device: where its tensors lie.
    """

    def __init__(self, device: torch.device) -> None:
        place = os.environ if "RANK" in os.environ else {}
        self.rank = int(place.get("RANK", "0"))
        self.count = int(place.get("WORLD_SIZE", "1"))
        self.device = device
        if device.type == "cuda":
            self.device = torch.device("cuda", int(place.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(self.device)
        if not dist.is_initialized():
            # read when deepspeed is first imported: a CPU run on a machine with GPUs needs it
            os.environ.setdefault("DS_ACCELERATOR", device.type)
            _join("nccl" if device.type == "cuda" else "gloo", alone=not place)
        self._control = dist.new_group(backend="gloo", timeout=PATIENCE)

    @property
    def leader(self) -> bool:
        return self.rank == 0

    def agree(self, flag: bool) -> bool:
        """Whether any process says so; collective."""
        if self.count == 1:
            return flag
        said = torch.tensor([int(flag)])
        dist.all_reduce(said, op=dist.ReduceOp.MAX, group=self._control)
        return bool(said)

    def greatest(self, number: int) -> int:
        """The greatest of the numbers that the processes give; collective."""
        said = torch.tensor([number])
        dist.all_reduce(said, op=dist.ReduceOp.MAX, group=self._control)
        return int(said)


def prepare_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which DeepSpeed can build its C++ parts, and builds them once.

    It compiles them with the `ninja` first in PATH (another one compiles them anew), into
    TORCH_EXTENSIONS_DIR, by default a folder of the Python environment.
    """
    ready = dict(environment)
    own = str(Path(sys.executable).parent)
    folders = ready.get("PATH", os.defpath).split(os.pathsep)
    if folders[:1] != [own]:
        ready["PATH"] = os.pathsep.join([own, *(f for f in folders if f != own)])
    if "TORCH_EXTENSIONS_DIR" not in ready and os.access(sys.prefix, os.W_OK):
        ready["TORCH_EXTENSIONS_DIR"] = str(Path(sys.prefix) / "cache" / "torch_extensions")
    return ready


def check_processes(means: Means) -> None:
    """Whether as many processes were started as the run is planned for.

    Raises:
        TrainingError: more or fewer.
    """
    count = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if count != means.processes:
        raise TrainingError(
            f"processes: {count} were started, the run is planned for {means.processes}",
            hint="start as many (torchrun --nproc-per-node), or plan with engine.processes="
            f"{count}",
        )


def _join(backend: str, *, alone: bool) -> None:
    os.environ.update(prepare_environment(os.environ))
    import deepspeed

    _build()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # DeepSpeed still calls collectives by names that torch has deprecated, at every step
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    if alone:
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed looks for this one alone
        meeting = Path(tempfile.mkdtemp(prefix="anneal-")) / "meeting"
        dist.init_process_group(backend, init_method=f"file://{meeting}", rank=0, world_size=1)
    deepspeed.init_distributed(dist_backend=backend, timeout=PATIENCE, verbose=False)


def _build() -> None:
    """Builds and loads what DeepSpeed is about to load, one process at a time.

    torch guards that with a file, at every start: one that was killed just then leaves it behind,
    and all that come later wait for it for ever. The kernel's lock around it goes with its process,
    so a file that is found while holding it is a dead process's.
    """
    from deepspeed.comm.torch import build_shm_op
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.setdefault("TORCH_EXTENSIONS_DIR", get_default_build_root()))
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".building", "a", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for left in root.glob("deepspeed_shm_comm/lock"):
            left.unlink()
        with redirect_stdout(io.StringIO()):  # DeepSpeed says so once more
            build_shm_op()
