"""Workers as jobs of Slurm: submitit submits them, one array, and each job runs the workers of one machine.

A job whose time is nearly up, or that has to make room, gives its cells back and queues itself again (submitit's way).
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any, Literal

from src.config import SlurmLauncher
from src.errors import ConfigError
from src.io import write_atomically
from src.sweep.folder import GRID, SweepFolder
from src.sweep.workers.local import MAX_DEATHS, python_path
from src.sweep.workers.pool import Crew

WARNING_SECONDS = 120
"""A job is told so long before its time is up, and has half of it to give its cells back."""

TERMINATED_SECONDS = 20.0
"""After SIGTERM, Slurm kills what is left of a job in 30 s, as it is usually set up."""

MAX_REQUEUES = 1000


class WorkerJob:
    """What a job runs. It is pickled by submitit, so it holds only what says which sweep it serves."""

    def __init__(self, sweep: str, multirun: str, n_workers: int | Literal["auto"], search: str = GRID) -> None:
        self.sweep, self.multirun, self.n_workers, self.search = sweep, multirun, n_workers, search

    def __call__(self) -> None:
        """Works until nothing is left."""
        crew = Crew(SweepFolder(Path(self.multirun), self.sweep), self.n_workers, self.search)
        self._crew = crew
        signal.signal(signal.SIGTERM, lambda *_: crew.let_go(TERMINATED_SECONDS))
        crew.work()

    def checkpoint(self) -> Any:
        """Called by submitit when time is nearly up: lets go of the cells, and says how the job is to go on later."""
        from submitit.helpers import DelayedSubmission

        self._crew.let_go(WARNING_SECONDS / 2)
        return DelayedSubmission(WorkerJob(self.sweep, self.multirun, self.n_workers, self.search))


class SlurmWorkers:
    """The jobs of a sweep, or of one of its searches; see `src.sweep.workers.local.Workers`.

    Jobs of an earlier command for the same that still live count.

    Raises ConfigError where submitit or Slurm is missing.
    """

    def __init__(
        self, folder: SweepFolder, launcher: SlurmLauncher, n_workers: int | Literal["auto"], search: str = GRID
    ) -> None:
        self._launcher = launcher
        self._folder = folder.logs.absolute() / ("jobs" if search == GRID else f"jobs-{search}")
        self._job = WorkerJob(folder.sweep, str(folder.multirun.absolute()), n_workers, search)
        self._executor = _executor(self._folder, folder.sweep, launcher)
        self._submitted = self._earlier_jobs()
        self._jobs: list[Any] = [job for job in self._submitted if not job.done()]
        self._n_deaths = self._n_ended = 0

    @property
    def detached(self) -> bool:
        """Whether the command leaves once the jobs are submitted."""
        return self._launcher.detached

    @property
    def hopeless(self) -> bool:
        """Whether jobs have failed so often that no more are submitted."""
        return not self._jobs and self._n_deaths >= MAX_DEATHS

    def keep_running(self, n_waiting: int, n_ended: int) -> int:
        """Submits jobs as long as cells wait, as many as the launcher allows."""
        if n_ended > self._n_ended:
            self._n_ended, self._n_deaths = n_ended, 0
        ended = [job for job in self._jobs if job.done()]
        n_died = sum(job.exception() is not None for job in ended)
        self._n_deaths += n_died
        self._jobs = [job for job in self._jobs if job not in ended]
        n_wanted = min(self._launcher.jobs, n_waiting + len(self._jobs)) - len(self._jobs)
        if n_wanted > 0 and self._n_deaths < MAX_DEATHS:
            self._submit(n_wanted)
        return n_died

    def interrupt(self) -> None:
        """Cancels the jobs: Slurm's SIGTERM has their workers give the cells back."""
        for job in self._jobs:
            job.cancel(check=False)

    def kill(self) -> None:
        """The same: Slurm ends after a while what does not leave."""
        self.interrupt()

    def wait(self, seconds: float) -> bool:
        """See `Workers.wait`."""
        if not self._all_done():
            time.sleep(seconds)
        return self._all_done()

    def log(self, slot: int) -> Path:
        """What a job printed; its workers write beside it, in logs/."""
        return Path(self._submitted[min(slot, len(self._submitted) - 1)].paths.stderr)

    def _all_done(self) -> bool:
        return all(job.done() for job in self._jobs)

    def _submit(self, n_jobs: int) -> None:
        """Submits further jobs as one array, and notes their numbers for later commands."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError
        from submitit.helpers import environment_variables

        try:
            with environment_variables(PYTHONPATH=python_path()):
                jobs = self._executor.submit_array([self._job] * n_jobs)
        except (FailedJobError, FailedSubmissionError) as error:
            problem = " ".join(str(error).split())
            raise ConfigError("launcher", "slurm", f"sbatch refuses the jobs ({problem}); see launcher.*") from error
        self._jobs += jobs
        self._submitted += jobs
        content = {"cluster": self._launcher.cluster, "jobs": [job.job_id for job in self._submitted]}
        write_atomically(self._folder / "submitted.json", json.dumps(content, indent=1) + "\n")

    def _earlier_jobs(self) -> list[Any]:
        """The jobs that earlier commands submitted to the same cluster."""
        import submitit

        path = self._folder / "submitted.json"
        body = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if body.get("cluster") != self._launcher.cluster:
            return []
        kind = {"slurm": submitit.SlurmJob, "local": submitit.LocalJob}[self._launcher.cluster]
        return [kind(self._folder, job_id) for job_id in body["jobs"]]


def _executor(folder: Path, sweep: str, launcher: SlurmLauncher) -> Any:
    """submitit's executor with the launcher's settings; ConfigError where it cannot be had."""
    try:
        import submitit
    except ImportError:
        fix = "make setup installs it, or .venv/bin/python -m pip install submitit"
        raise ConfigError("launcher", "slurm", f"needs the extra package submitit, which is missing; {fix}") from None
    options = [option.partition("=") for option in launcher.extra]
    extra = {name: value if equals else True for name, equals, value in options}
    try:
        executor = submitit.AutoExecutor(folder, cluster=launcher.cluster, slurm_max_num_timeout=MAX_REQUEUES)
    except RuntimeError as error:  # it looks for srun
        fix = "start the sweep where sbatch and srun are, or try it here with launcher.cluster=local"
        raise ConfigError("launcher", "slurm", f"this is no machine of a Slurm cluster; {fix}") from error
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
