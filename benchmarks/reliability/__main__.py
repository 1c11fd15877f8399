"""Fault-injection campaigns for the sweep engine.   python -m benchmarks.reliability CAMPAIGN [options] [key=value ...]

    kills       kill -9 at random moments, then the same command until the sweep is finished
    powercut    the file system loses what is not synced, at random moments; then the same command (needs root)
    suspended   a worker that wakes after its cell was taken over; locks of stopped processes
    claims      a queue of near-empty cells with four workers
    tracker     the MLflow server is unavailable during the sweep, never starts, or loses answers
    failures    cells that raise, diverge, run out of memory, cannot write
    together    simultaneous sweeps
    passwords   passwords of every character in `storage`, searched for in processes, files and tables

Each prints its measurements and its problems, and exits with 1 if there are problems. docs/RELIABILITY.md has the results.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.reliability import claims, failures, kills, passwords, powercut, suspended, together, tracker
from src.training.run_files import git_commit

GRID = [
    *("split.ratio=0.3,3", "split.imbalance=1,5", "stopping.epochs=3,30", "split.size=400"),
    *("regimes=[sequential,combined,{replay:{share:0.1}}]", "seeds=2", "n_workers=2"),
]
"""8 cells, 48 runs, in two lengths; long enough for kills in every part of a sweep."""


def main() -> int:
    """Run one campaign in a temporary folder, which is kept if there are problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="campaign", required=True)
    one = commands.add_parser("kills")
    one.add_argument("-n", type=int, default=30, help="number of kills")
    one.add_argument("--seed", type=int, default=0, help="seed of the targets and times of the kills")
    one = commands.add_parser("powercut")
    one.add_argument("-n", type=int, default=20, help="number of power cuts")
    one.add_argument("--seed", type=int, default=0, help="seed of the times of the cuts")
    commands.add_parser("suspended")
    one = commands.add_parser("claims")
    one.add_argument("-n", type=int, default=1000, help="number of cells")
    one.add_argument("--workers", type=int, default=4)
    one.add_argument("--storage", choices=["journal", "sqlite", "postgresql"], default="journal")
    one = commands.add_parser("tracker")
    one.add_argument("--away", type=float, default=60, help="seconds without the server")
    one.add_argument("--never", action="store_true", help="the server starts only after the sweep")
    one.add_argument("--lost", type=float, help="share of the server's answers that are lost, in place of an outage")
    commands.add_parser("passwords")
    one = commands.add_parser("failures")
    one.add_argument("kinds", nargs="*", help=f"all unless given: {chr(44).join(failures.KINDS)}")
    one = commands.add_parser("together")
    one.add_argument("-n", type=int, default=1, help="number of repetitions")
    for name in ("kills", "powercut", "suspended", "tracker", "together"):
        commands.choices[name].add_argument("overrides", nargs="*", help="overrides of the sweep")
    given = parser.parse_args()

    print(f"commit {git_commit()}", flush=True)
    root = Path(tempfile.mkdtemp(prefix="reliability-"))
    match given.campaign:
        case "kills":
            campaign = kills.Campaign(root, [*GRID, *given.overrides], given.n, given.seed)
            campaign.run()
            lines, problems = campaign.report(), campaign.problems
        case "powercut":
            lines, problems = powercut.campaign(root, [*powercut.SMALL, *given.overrides], given.n, given.seed)
        case "suspended":
            lines, problems = suspended.campaign(root, [*powercut.SMALL, *given.overrides])
        case "claims":
            lines, problems = claims.campaign(root, given.n, given.workers, given.storage)
        case "tracker" if given.lost is not None:
            lines, problems = tracker.losing_answers(root, [*GRID, *given.overrides], given.lost)
        case "tracker":
            lines, problems = tracker.campaign(root, [*GRID, *given.overrides], None if given.never else given.away)
        case "passwords":
            lines, problems = passwords.campaign(root)
        case "failures":
            lines, problems = failures.campaign(root, given.kinds or list(failures.KINDS))
        case _:
            lines, problems = together.campaign(root, [*GRID, *given.overrides], given.n)
    print("\n".join(lines))
    if problems:
        print(f"kept: {root}")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
