"""One cell of a sweep on several devices; torchrun starts it for a worker, once for each.   python -m src.sweep.workers.rank

A user has no use for it: `trainer.devices=2` in a sweep leads here, in a single run to src.train.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from src.cli import fail, settings
from src.sweep.folder import SweepFolder
from src.sweep.workers.torchrun import end_with_worker, run_rank


def main() -> int:
    """Runs this process's part of the cell."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    keys = ("sweep", "multirun", "worker", "scratch")
    given = {
        key: str(value)
        for key, value in settings(dict.fromkeys(keys), usage="python -m src.sweep.workers.rank").items()
    }
    if "RANK" not in os.environ:
        fail("src.sweep.workers.rank: is started by a sweep's worker; use python -m src.sweep trainer.devices=2")
    folder = SweepFolder(Path(given["multirun"]), given["sweep"])
    end_with_worker(folder.members / f"{given['worker']}.lock")
    return run_rank(folder, int(os.environ["RANK"]), Path(given["scratch"]))


if __name__ == "__main__":
    sys.exit(main())
