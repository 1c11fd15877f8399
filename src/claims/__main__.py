"""Judges the claims of the discussion by measurement.   python -m src.claims [claim=ID,...] [where=STUDY] [key=value ...]

Every claim is a file in conf/claim/ (docs/CLAIMS.md). Without further settings, each claim is tested in the studies that its
file defines; with settings (`data=mnist split.size=5000`), in its first study under these settings. `where=NAME` selects the
studies of that name, including those that run only on demand; `dry_run=true` shows what would run; `seeds=N` replaces the
number of seeds.
"""

from __future__ import annotations

import sys

from src import cli

if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        sys.exit(0)
    try:
        from src.claims.command import main  # loads torch, which --help does without

        sys.exit(main(sys.argv[1:]))
    except cli.MISTAKES as error:
        cli.fail(cli.explain(error, sys.argv[1:]))
