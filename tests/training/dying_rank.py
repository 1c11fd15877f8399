"""Two ranks under torchrun that train in step until one of them fails as the command line says.

``hang``: rank 0 first takes longer over a decision than a step may take; then rank 1 leaves a step out and sleeps. ``kill``:
rank 1 is killed.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import torch

from src.training import devices
from src.training.devices import Device, broadcast_decision, join_world

STEP_SECONDS = 2.0


def main(way: str, rank: int) -> None:
    """Runs until a rank fails."""
    devices.STEP_SECONDS["cpu"] = STEP_SECONDS
    join_world(Device(torch.device("cpu"), torch.float32, rank, 2))
    if way == "hang":
        if rank == 0:
            time.sleep(1.5 * STEP_SECONDS)
        print(f"rank {rank} is told {broadcast_decision('to train' if rank == 0 else None)}", flush=True)
    for step in range(10**9):
        torch.distributed.all_reduce(torch.ones(3))
        if rank == 1 and step == 3:
            print("fails now", flush=True)
            if way == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(10**6)


if __name__ == "__main__":
    main(sys.argv[1], int(os.environ["RANK"]))
