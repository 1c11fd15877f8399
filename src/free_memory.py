"""The memory that this process can still get, and files too large for it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def memory_available(system: Path = Path("/")) -> int:
    """Bytes that this process can still get from the machine, within the limit of a container or a batch job."""
    return min([_machine_memory(system), *_left_in_cgroups(system)])


def _machine_memory(system: Path) -> int:
    """What the machine can still give, or all that it has where it does not say."""
    with suppress(OSError, StopIteration):
        lines = (system / "proc/meminfo").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _left_in_cgroups(system: Path) -> Iterator[int]:
    """What each limit of Linux's control groups (v1, v2) leaves; cached files that can be dropped count as free."""
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
    """Raise ValueError unless `file` is regular and its content and `n_bytes`, its unpacked size, fit in memory."""
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")
    if max(status.st_size, n_bytes) > (free := memory_available()):
        raise ValueError(f"it holds {max(status.st_size, n_bytes):,} bytes, and {free:,} bytes of memory are free")
