"""Being told to stop: one way through, whichever signal said so. Standard library alone.

Ctrl-C is SIGINT, and launchers catch it to let workers save. SIGTERM (the machine wants its process
back) and a scheduler's own signals should do the same, so their handlers call whoever handles
SIGINT. They do not send SIGINT: a shell has it ignored in what it starts in the background.
"""

from __future__ import annotations

import signal
from types import FrameType

PREEMPTED = 75
"""Exit code of a process that was told to stop: EX_TEMPFAIL of sysexits.h, try again later."""


def interrupt(frame: FrameType | None) -> None:
    """Does what Ctrl-C would do now; to be called from another signal's handler.

    Raises:
        KeyboardInterrupt: unless somebody catches Ctrl-C and lets workers save.
    """
    caught = signal.getsignal(signal.SIGINT)
    if not callable(caught):
        raise KeyboardInterrupt
    caught(signal.SIGINT, frame)
