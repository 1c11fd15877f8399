"""Judges the claims of the discussion by measurement."""

from __future__ import annotations

from src import cli

USAGE = """python -m src.claims [claim=ID,...] [where=STUDY] [key=value ...]

Every claim is a file in conf/claim/ (docs/CLAIMS.md). Without further settings, each claim is tested in the studies
that its file defines; with settings (`data=mnist split.size=5000`), in its first study under these settings.
`where=NAME` selects the studies of that name, including those that run only on demand; `controls=true` runs the
controls alone, `strong=true` the studies on real images with every regime tuned; `dry_run=true` shows what would run;
`seeds=N` replaces the number of seeds."""

if __name__ == "__main__":
    cli.command_of("src.claims.command", USAGE)
