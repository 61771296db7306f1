"""What went wrong, by class: whose fault it was decides whether trying again can help.

* infrastructure (`INFRASTRUCTURE`): the machine, its disk or its network failed the task; the same
  task may well succeed elsewhere or later, so it is tried again, a bounded number of times;
* the run itself: `non_finite`, `bad_data` and `aborted` come again however often it is tried.
  `out_of_memory` does too, unless less is held at once: it is tried once more with half the
  micro-batch (`smaller`). The global batch stays, so the gradients are the same sums in other
  groups, and the run stays the run that was asked for;
* `bug`: everything that nobody has foreseen.

An exception of a library that this module cannot import (a lean training image lacks it) is known
by the name of its class and package.
"""

from __future__ import annotations

import errno
import math
import re

from anneal.errors import AnnealError
from anneal.plan.values import FailureClass, RunTask

INFRASTRUCTURE: frozenset[FailureClass] = frozenset(
    {"killed", "preempted", "node_lost", "network", "disk_full"}
)
"""Classes that are tried again as they are."""
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
UNREACHABLE = frozenset(
    {errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ETIMEDOUT}
)
SHORT_WRITES = (
    r"No space left on device",
    r"^\d+ requested and \d+ written$",
    r"inline_container.*unexpected pos|PytorchStreamWriter failed writing",
)
"""What safetensors, numpy and torch's zip writer say of a full disk, all without its number."""
NO_MEMORY = ("can't allocate memory", "out of memory", "std::bad_alloc", "ALLOC_FAILED")
"""In the texts of the RuntimeErrors of torch's allocators and of CUDA's libraries."""
NETWORKED = {
    "httpx": {"TransportError"},
    "httpx2": {"TransportError"},
    "requests": {"ConnectionError", "Timeout", "ChunkedEncodingError"},
    "urllib3": {"HTTPError"},
    "aiohttp": {"ClientConnectionError", "ClientPayloadError", "ServerTimeoutError"},
    "botocore": {"HTTPClientError", "ConnectionError"},
    "fsspec": {"FSTimeoutError"},
    "torch": {"DistNetworkError"},
    "socket": {"gaierror", "herror"},
}
"""By package, the classes whose kin say that the other side could not be reached."""
SCORED = 8
"""Sequences at once of a run without phases, which is only scored (`training.loop`)."""


def class_of(error: BaseException) -> FailureClass:
    """The class of a failure by its exception, and by those that it was raised `from`."""
    causes: list[BaseException] = []
    reason: BaseException | None = error
    while reason is not None and reason not in causes:
        causes.append(reason)
        reason = reason.__cause__
    if any(_out_of_memory(cause) for cause in causes):
        return "out_of_memory"
    if any(_no_space(cause) for cause in causes):
        return "disk_full"
    if any(_unreachable(cause) for cause in causes):
        return "network"
    if isinstance(error, FloatingPointError):
        return "non_finite"
    if isinstance(error, AnnealError):  # what it was given cannot be used, and it said why
        return "bad_data"
    return "bug"


def smaller(task: RunTask) -> RunTask | None:
    """The same task with half the sequences at once on a device, at an equal global batch.

    Half, rounded down to what divides the share of every phase's batch that a process has, since
    engine deepspeed takes no other and torch would compile a second shape for the rest.

    Args:
        task: as it ran out of memory; `micro_batch` None is the whole share.

    Returns:
        None where it was one sequence already.
    """
    means = task.means
    places = max(1, means.processes // means.long.sequence_parallel)
    shares = [max(1, phase.batch // places) for phase in task.spec.phases] or [SCORED]
    most = min(means.micro_batch or max(shares), max(shares))
    common = math.gcd(*shares)
    fits = [size for size in range(1, most // 2 + 1) if common % size == 0]
    if not fits:
        return None
    return task.model_copy(update={"means": means.model_copy(update={"micro_batch": fits[-1]})})


def _out_of_memory(error: BaseException) -> bool:
    """MemoryError, torch's own class, or the text of what its libraries raise instead."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def _no_space(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return True
    return any(re.search(words, str(error)) for words in SHORT_WRITES)


def _unreachable(error: BaseException) -> bool:
    if isinstance(error, BrokenPipeError):  # a process of this machine that ended, as a rule
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in UNREACHABLE:
        return True
    return any(
        kind.__name__ in NETWORKED.get(kind.__module__.partition(".")[0], ())
        for kind in type(error).__mro__
    )
