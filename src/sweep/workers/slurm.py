"""Workers as jobs of Slurm: submitit submits one array, and each job runs the worker pool of one machine.

A job whose time is nearly up, or that Slurm preempts, gives its cells back and is requeued by submitit.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from src.config import Config, SlurmLauncher
from src.errors import ConfigError
from src.io import read_json_or, write_atomically
from src.sweep.engine import DEFAULT_ENGINE
from src.sweep.folder import GRID, SweepFolder
from src.sweep.workers.local import MAX_DEATHS, Workers, python_path
from src.sweep.workers.pool import WorkerPool

WARNING_SECONDS = 120
"""Slurm signals a job so long before its time is up; it has half of that to give its cells back."""

TERMINATED_SECONDS = 20.0
"""After SIGTERM, Slurm usually kills a job within 30 s."""

MAX_REQUEUES = 1000


@dataclass
class WorkerJob:
    """The work of one job. submitit pickles it, so it only names the sweep."""

    sweep: str
    multirun: str
    n_workers: int | Literal["auto"]
    search: str = GRID
    engine: str = DEFAULT_ENGINE

    def __call__(self) -> None:
        """Works until nothing is left."""
        folder = SweepFolder(Path(self.multirun), self.sweep)
        self._pool = pool = WorkerPool(folder, self.n_workers, self.search, self.engine)
        signal.signal(signal.SIGTERM, lambda *_: pool.shutdown(TERMINATED_SECONDS))
        pool.work()

    def checkpoint(self) -> Any:
        """Called by submitit when time is nearly up: gives the cells back and returns the job to queue again."""
        from submitit.helpers import DelayedSubmission

        self._pool.shutdown(WARNING_SECONDS / 2)
        return DelayedSubmission(dataclasses.replace(self))


class SlurmWorkers(Workers):
    """The jobs of a sweep's grid or of one of its searches; see `src.sweep.workers.local.Workers`.

    Live jobs of an earlier command count. Raises ConfigError where submitit or Slurm is missing.
    """

    def __init__(self, folder: SweepFolder, config: Config, engine: str, search: str = GRID) -> None:
        self._launcher = cast(SlurmLauncher, config.launcher)
        self._folder = folder.logs.absolute() / ("jobs" if search == GRID else f"jobs-{search}")
        self._job = WorkerJob(folder.sweep, str(folder.multirun.absolute()), config.n_workers, search, engine)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # a job runs the pickles there
        self._executor = _executor(self._folder, folder.sweep, self._launcher)
        self._submitted = self._earlier_jobs()
        self._jobs: list[Any] = [job for job in self._submitted if not job.done()]
        self._n_deaths = self._n_ended = 0

    @property
    def detached(self) -> bool:
        return self._launcher.detached

    @property
    def hopeless(self) -> bool:
        return not self._jobs and self._n_deaths >= MAX_DEATHS

    def keep_running(self, n_useful: int, n_ended: int) -> int:
        if n_ended > self._n_ended:
            self._n_ended, self._n_deaths = n_ended, 0
        ended = [job for job in self._jobs if job.done()]
        n_died = sum(job.exception() is not None for job in ended)
        self._n_deaths += n_died
        self._jobs = [job for job in self._jobs if job not in ended]
        n_wanted = min(self._launcher.jobs, n_useful + len(self._jobs)) - len(self._jobs)
        if n_wanted > 0 and self._n_deaths < MAX_DEATHS:
            self._submit(n_wanted)
        return n_died

    def interrupt(self) -> None:
        """Cancels the jobs: on Slurm's SIGTERM their workers give the cells back."""
        for job in self._jobs:
            job.cancel(check=False)

    def kill(self) -> None:
        """The same: Slurm kills the jobs that do not exit."""
        self.interrupt()

    def wait(self, seconds: float) -> bool:
        if not self._all_done():
            time.sleep(seconds)
        return self._all_done()

    def log(self, slot: int) -> Path:
        """The output of a job; its workers write to logs/."""
        return Path(self._submitted[min(slot, len(self._submitted) - 1)].paths.stderr)

    def _all_done(self) -> bool:
        return all(job.done() for job in self._jobs)

    def _submit(self, n_jobs: int) -> None:
        """Submits further jobs as one array and records their ids for later commands."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError
        from submitit.helpers import environment_variables

        try:
            with environment_variables(PYTHONPATH=python_path()):
                jobs = self._executor.submit_array([self._job] * n_jobs)
        except (FailedJobError, FailedSubmissionError) as error:
            problem = " ".join(str(error).split())
            raise ConfigError("launcher", "slurm", f"sbatch refuses the jobs ({problem}); check launcher.*") from error
        self._jobs += jobs
        self._submitted += jobs
        content = {"cluster": self._launcher.cluster, "jobs": [job.job_id for job in self._submitted]}
        write_atomically(self._folder / "submitted.json", json.dumps(content, indent=1) + "\n")

    def _earlier_jobs(self) -> list[Any]:
        """The jobs that earlier commands submitted to the same cluster."""
        import submitit

        path = self._folder / "submitted.json"
        body = read_json_or(path)
        if body.get("cluster") != self._launcher.cluster:
            return []
        kind = {"slurm": submitit.SlurmJob, "local": submitit.LocalJob}[self._launcher.cluster]
        return [kind(self._folder, job_id) for job_id in body["jobs"]]


def _executor(folder: Path, sweep: str, launcher: SlurmLauncher) -> Any:
    """submitit's executor with the launcher's settings. Raises ConfigError where it is not available."""
    try:
        import submitit
    except ImportError:
        fix = "make setup installs it, or .venv/bin/python -m pip install submitit"
        raise ConfigError("launcher", "slurm", f"needs the extra package submitit, which is missing; {fix}") from None
    options = [option.partition("=") for option in launcher.extra]
    extra = {name: value if equals else True for name, equals, value in options}
    try:
        executor = submitit.AutoExecutor(folder, cluster=launcher.cluster, slurm_max_num_timeout=MAX_REQUEUES)
    except RuntimeError as error:  # there is no srun
        fix = "start the sweep where sbatch and srun are installed, or try launcher.cluster=local"
        raise ConfigError("launcher", "slurm", f"this machine belongs to no Slurm cluster; {fix}") from error
    executor.update_parameters(
        name=f"sweep-{sweep}",
        timeout_min=launcher.minutes,
        cpus_per_task=launcher.cpus,
        gpus_per_node=launcher.gpus or None,
        mem_gb=launcher.mem,
        slurm_partition=launcher.partition,
        slurm_account=launcher.account,
        slurm_signal_delay_s=WARNING_SECONDS,
        slurm_additional_parameters=extra or None,
    )
    return executor
