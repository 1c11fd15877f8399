"""Compares the laboratory with published rows."""

from __future__ import annotations

import sys

from src import cli

USAGE = """python -m src.anchors [anchor=NAME,...] [write=PAGE.md] [key=value ...]

Every anchor is a file in conf/anchor/: a published protocol, its rows, and the study that follows it here. The
command runs what is missing and prints published and own values with their difference. Without `anchor`, all that a
CPU runs in minutes. `run=false` compares the results that there are; `seeds=N` replaces the number of seeds; `write`
also writes the page docs/ANCHORS.md; `dry_run=true` shows what would run."""


def main() -> int:
    """Runs the command; returns its exit status."""
    from src.anchors.command import main as run  # loads torch, which --help does without

    return run(sys.argv[1:])


if __name__ == "__main__":
    cli.command(main, USAGE)
