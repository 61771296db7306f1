"""Converts a DeepSpeed checkpoint for another number of processes: one process, one job.

Started by the leader of a run as `python -m anneal.training.universal FROM TO STAGE`. It is
DeepSpeed's own converter under our restricted unpickler, in a process of its own because it reads
the whole checkpoint into memory and leaves nothing of that behind.
"""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path

from anneal.training.deepspeed_files import restricted
from anneal.training.rank import watch_parent


def main(source: Path, target: Path, stage: int) -> int:
    """Converts; returns the exit code."""
    from deepspeed.checkpoint import ds_to_universal

    words = argparse.Namespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        # stages 1 and 2 say nothing of tensor parallelism unless told: there is none here
        inject_missing_state=stage < 3,
    )
    # should the leader be killed, nothing of it is to go on
    threading.Thread(target=watch_parent, name="leader", daemon=True).start()
    with restricted():
        ds_to_universal.main(words)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
