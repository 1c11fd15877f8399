"""The environment of a command and of the processes that it starts: variables, ranks, processors, memory.

Libraries read many variables that a notebook, a cluster or another program left behind. The command line decides what
runs, so a command removes those that would change it, and sets those that it relies on.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

OF_PYTHON = ("PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONINSPECT")
"""Read by Python when it starts."""

REMOVED = (
    *("PL_*", "LT_*"),  # Lightning: arguments of its Trainer, the seed
    *("SLURM_*", "JSM_*", "LSB_*", "OMPI_*", "PMI_*", "PMIX_*"),  # Lightning: its rank in a job of the cluster
    "PET_*",  # torchrun: its options
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),  # other rounding than trainer.precision says
    *("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_*"),  # tracking.* says where
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"),  # git hooks: another repository than that of the project
    *("MATPLOTLIBRC", "HYDRA_MAIN_MODULE"),
    *OF_PYTHON,
)
KEPT = ("SLURM_CONF", "SLURM_CLUSTERS")
"""They say where sbatch finds its cluster."""

TORCHRUN = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "TORCHELASTIC_*"),
)
"""Variables that torchrun sets for the processes that it starts."""

SET = {"MPLBACKEND": "Agg", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "RAY_USAGE_STATS_ENABLED": "0"}
"""Plots go to files, whatever a notebook or a matplotlibrc says."""


ONE_THREAD = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""Read by the libraries when they load: workers divide the processors among themselves (`trainer.threads` raises
it)."""


class Rank(NamedTuple):
    """The place of a process among those of a data-parallel run: `local` counts on its host."""

    rank: int = 0
    local: int = 0
    world: int = 1


def clean(variables: Mapping[str, str], *, started_by_torchrun: bool = False) -> dict[str, str]:
    """The variables without those that the command line does not ask for.

    `started_by_torchrun`: keep torchrun's variables if they are complete.
    """
    group = started_by_torchrun and "TORCHELASTIC_RUN_ID" in variables
    removed = REMOVED if group else (*REMOVED, *TORCHRUN)
    kept = {
        name: value
        for name, value in variables.items()
        if name in KEPT or not any(fnmatchcase(name, pattern) for pattern in removed)
    }
    return kept | SET


def clean_process(*, started_by_torchrun: bool = False) -> None:
    """Cleans the environment of this process, which those that it starts inherit.

    Starts the process again if Python itself has read a variable that is removed.
    """
    variables = clean(os.environ, started_by_torchrun=started_by_torchrun)
    if any(os.environ.get(name) for name in OF_PYTHON):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], variables)
    replace_variables(os.environ, variables)


def replace_variables(variables: MutableMapping[str, str], content: Mapping[str, str]) -> None:
    """Makes `variables` equal to `content`."""
    for name in set(variables) - set(content):
        del variables[name]
    variables.update(content)


@contextmanager
def temporary_variables(values: Mapping[str, str]) -> Iterator[None]:
    """Sets variables of this process, which its children inherit, and restores the user's afterwards."""
    before = {name: os.environ[name] for name in values if name in os.environ}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values.keys() - before.keys():
            os.environ.pop(name, None)
        os.environ.update(before)


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank_of_process(n_devices: int) -> Rank:
    """The place of this process in a run on `n_devices`: torchrun's, if it started one process for each device."""
    if n_devices == 1 or not under_torchrun():
        return Rank()
    return Rank(*(int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")))


def n_processors() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
