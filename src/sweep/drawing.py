"""The maps of a command, drawn while the command prints its table and reports its cells.

They are drawn by children of the process that the command's workers were forked from, which has loaded what they need;
after a command without workers, by the command itself.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from src.comparison.maps import difference_maps, map_names
from src.comparison.verdicts import CellVerdict, by_pair
from src.environment import n_processors
from src.io import write_atomically
from src.sweep import fork_server


class MapDrawing:
    """The maps of all pairs of regimes: begun at once, finished by `finish`.

    `tables`: files with the numbers of the maps. They are written after the maps, so where they have this content
    already, the maps are up to date.
    """

    def __init__(self, verdicts: Sequence[CellVerdict], folder: Path, tables: Mapping[str, bytes]) -> None:
        is_written = all((folder / name).exists() for name in (*map_names(verdicts), *tables))
        is_current = is_written and all((folder / name).read_bytes() == text for name, text in tables.items())
        pairs = [] if is_current else list(by_pair(verdicts).values())
        self._tables = {} if is_current else tables
        n = min(len(pairs), n_processors()) if fork_server.is_started() else 1
        self._folder = folder.absolute()
        self._shares = [[verdict for pair in pairs[start::n] for verdict in pair] for start in range(n)]
        self._processes: list[ForkServerProcess] = []
        if fork_server.is_started():
            with suppress(OSError, EOFError):  # the fork server dies at this moment: `finish` draws
                for share in self._shares:
                    self._processes.append(_started(share, self._folder))

    def finish(self) -> None:
        """Waits for the processes, draws what they did not, and writes the tables; raises what prevents that."""
        for number, share in enumerate(self._shares):
            if number < len(self._processes):
                self._processes[number].join()
                if self._processes[number].exitcode == 0:
                    continue
            difference_maps(share, self._folder, title=self._folder.name)
        for name, text in self._tables.items():
            write_atomically(self._folder / name, text)


def _started(share: Sequence[CellVerdict], folder: Path) -> ForkServerProcess:
    process = multiprocessing.get_context(fork_server.METHOD).Process(target=_draw, args=(share, folder), daemon=True)
    process.start()
    return process


def _draw(share: Sequence[CellVerdict], folder: Path) -> None:
    """A process of `MapDrawing`. Ctrl-C ends it: nobody waits for its maps then."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        difference_maps(share, folder, title=folder.name)
    except Exception:  # the command draws these maps again, and raises what prevents it
        sys.exit(1)
