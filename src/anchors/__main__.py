"""Compares the laboratory with published rows."""

from __future__ import annotations

from src import cli

USAGE = """python -m src.anchors [anchor=NAME,...] [write=PAGE.md] [key=value ...]

Every anchor is a file in conf/anchor/: a published protocol, its rows, and the study that follows it here. The
command runs what is missing and prints published and own values with their difference. Without `anchor`, all that a
CPU runs in minutes. `run=false` compares the results that there are; `seeds=N` replaces the number of seeds; `write`
also writes the page docs/ANCHORS.md; `dry_run=true` shows what would run."""

if __name__ == "__main__":
    cli.command_of("src.anchors.command", USAGE)
