"""torchrun for one job, and why its processes failed.

`python -m forethought.training.distributed.torchrun JOB N` starts N times
`forethought.training.distributed.worker`. When one fails torchrun ends the others, which fail, too;
the first cause is found here, where the exit of each is known.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

from forethought.storage.files import write_json
from forethought.storage.sealed_stage import read_json
from forethought.training.distributed.lifeline import end_with_parent

REASON = "reason.json"


def main(arguments: list[str]) -> int:
    """Run the job's processes to their end; the exit status."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    job, processes = arguments
    end_with_parent()
    words = ["--standalone", "--nproc-per-node", processes]
    words += ["-m", "forethought.training.distributed.worker", job]
    try:
        run.run(run.parse_args(words))
    except ChildFailedError as error:
        folder = Path(job).parent
        write_json(folder / REASON, first_cause(folder, error.failures))
        return 1
    return 0


def failure_file(folder: Path, rank: int) -> Path:
    """Where a process says why it ends."""
    return folder / f"failure_{rank}.json"


def first_cause(folder: Path, failures: dict[int, Any]) -> dict[str, Any]:
    """What the process that failed by itself says, or what is known of its exit.

    A process that a failed one leaves behind is an echo: it is cut off in what they were
    exchanging, or ended by torchrun.
    """
    causes: list[tuple[bool, float, int, dict[str, Any]]] = []
    for rank, failure in failures.items():
        path = failure_file(folder, rank)
        if path.exists():
            found = read_json(path)
        else:
            found = {
                "echo": failure.exitcode == -signal.SIGTERM,
                "time": failure.timestamp,
                "message": f"rank {rank} {_exit(failure.exitcode)}",
                "explained": False,
            }
        causes.append((found["echo"], found["time"], rank, found))
    return min(causes)[-1]


def _exit(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed by SIGKILL: the machine's memory was full, or someone ended it"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with status {code}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
