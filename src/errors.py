"""Errors shown to the user in one line, and the two ways to leave a cell early."""

from __future__ import annotations

import difflib
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from src.terminal import printable


class ConfigError(ValueError):
    """A mistake of the user's in the configuration: one line with the key, the value and the fix."""

    def __init__(self, key: str, value: object, problem: str) -> None:
        shown = value if isinstance(value, str) else json.dumps(value, default=str)
        line = " ".join(f"{key}={shown}: {problem}".split())
        super().__init__(printable(line))
        self.key = key
        self.problem = problem


@contextmanager
def foreign_file(key: str, value: str, file: Path, fix: str) -> Iterator[None]:
    """Report every exception of a library that reads a user's file as a ConfigError that names key, file and fix.

    Libraries raise whatever their parser runs into (struct.error, KeyError, RecursionError), so no list is complete.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, OSError | ValueError) and str(error) else f"{error!r}"
        raise ConfigError(key, value, f"cannot read {file} ({reason[:300]}); {fix}") from error


def memory_available(system: Path = Path("/")) -> int:
    """Bytes of memory that this process can still get: from the machine and, in a container or a batch job, within its limit."""
    return min([_machine_memory(system), *_left_in_cgroups(system)])


def _machine_memory(system: Path) -> int:
    """What the machine can still give, or all that it has where it does not say."""
    with suppress(OSError, StopIteration):
        lines = (system / "proc/meminfo").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _left_in_cgroups(system: Path) -> Iterator[int]:
    """What each limit of Linux's control groups, of both versions, leaves; cached files that can be dropped count as free."""
    with suppress(OSError):
        for line in (system / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            base = system / "sys/fs/cgroup" / ("memory" if controllers else "")
            names = (
                ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
            )
            group = base / path.lstrip("/")
            for folder in (group, *(above for above in group.parents if above.is_relative_to(base))):
                with suppress(OSError, ValueError):  # no such group here, or "max"
                    limit, used = (int((folder / name).read_text()) for name in names)
                    cached = re.search(r"^(?:total_)?inactive_file (\d+)$", (folder / "memory.stat").read_text(), re.M)
                    yield max(0, limit - used + (int(cached[1]) if cached else 0))


def require_loadable(file: Path, n_bytes: int = 0) -> None:
    """Raise ValueError unless `file` is a regular file whose content, and `n_bytes` that it unpacks to, fit in memory."""
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")
    if max(status.st_size, n_bytes) > (free := memory_available()):
        raise ValueError(f"it holds {max(status.st_size, n_bytes):,} bytes, and {free:,} bytes of memory are free")


def require_utf8(key: str, value: str, name: str, fix: str) -> None:
    """Raise ConfigError if `name` has bytes that are not UTF-8: YAML, JSON and databases cannot store it."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(key, value, f"{name} is not UTF-8; {fix}") from error


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`; did you mean X?`, or the list of what there is when nothing is close."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


class Interrupted(BaseException):
    """Raised by a hook of `RunControl` to leave the cell at once; finished runs and trained stages stay, the rest waits.

    Not an Exception, so that no handler of a run's failure catches it.
    """


class ClaimLost(Interrupted):
    """Raised by `RunControl.before_run`: another worker has taken the cell over, and writes its runs."""


class Pruned(BaseException):
    """Raised by `RunControl.on_progress` to end the cell for good; the text is the reason. Trained stages stay."""
