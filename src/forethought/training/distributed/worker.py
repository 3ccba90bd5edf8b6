"""One process of several that train: `torchrun … -m forethought.training.distributed.worker JOB`.

What goes wrong is left beside the job for whoever started the processes.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from forethought.storage.files import write_json
from forethought.training.distributed.job import Job, take_part
from forethought.training.distributed.lifeline import end_with_parent
from forethought.training.distributed.ranks import leave
from forethought.training.distributed.torchrun import failure_file


def main(arguments: list[str]) -> None:
    """Do this process's part; it ends with status 1 if that fails."""
    path = Path(arguments[0])
    end_with_parent()
    try:
        take_part(Job.read(path))
    except Exception as error:
        rank = int(os.environ["RANK"])
        write_json(failure_file(path.parent, rank), failure(rank, error))
        traceback.print_exc()
        sys.stderr.flush()
        # The ordinary way out would wait for the others, or abort.
        os._exit(1)
    leave()


def failure(rank: int, error: Exception) -> dict[str, Any]:
    """Why a process ends, in words, and whether it may be only because another did."""
    full = isinstance(error, torch.OutOfMemoryError)
    message = f"rank {rank}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    if full:
        message = (
            f"rank {rank}: the GPU's memory is full; lower training.tokens_per_microbatch, set "
            "training.gradient_checkpointing, or raise launch.processes"
        )
    elif isinstance(error, ValueError):
        message = str(error)
    return {
        # When one process dies, the others get this kind of error from what they were exchanging.
        "echo": isinstance(error, RuntimeError) and not full,
        "time": time.time(),
        "message": message,
        "explained": isinstance(error, ValueError) or full,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
