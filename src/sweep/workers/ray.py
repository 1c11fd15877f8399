"""Workers as tasks of Ray, which places and spreads them, and starts one again elsewhere when its node dies.

The cells of a dead node return to the queue when the shared folder releases their locks.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from src.config import Config, RayLauncher, TrainerConfig
from src.environment import ONE_THREAD, clean, n_processors, replace_variables
from src.errors import ConfigError
from src.sweep.folder import GRID, SweepFolder
from src.sweep.workers.local import MAX_DEATHS, Workers, python_path

OBJECT_STORE_BYTES = 100 * 2**20
"""Ray's minimum, about: a worker returns nothing, and results are in the folder."""

RESOURCE_UNIT = 1e-4
"""Ray counts resources in these."""


def request(launcher: RayLauncher, trainer: TrainerConfig, *, on_gpus: bool) -> dict[str, float]:
    """The resources that Ray reserves for one worker: a slot of a GPU, or all devices of a data-parallel run."""
    resources: dict[str, float] = {"CPU": launcher.cpus * trainer.devices}
    if on_gpus:
        share = math.floor(1 / trainer.slots / RESOURCE_UNIT) * RESOURCE_UNIT
        resources["GPU"] = trainer.devices if trainer.devices > 1 else round(share, 4)
    if launcher.mem is not None:
        resources["memory"] = int(launcher.mem * 2**30)
    return resources


def capacity(nodes: Iterable[Mapping[str, Any]], resources: Mapping[str, float]) -> int:
    """Number of workers that the live nodes hold. `nodes`: as `ray.nodes` lists them."""
    return sum(
        int(min(node["Resources"].get(name, 0) / amount for name, amount in resources.items()))
        for node in nodes
        if node["Alive"]
    )


class RayWorkers(Workers):
    """The tasks of a sweep's grid or of one of its searches; see `src.sweep.workers.local.Workers`.

    With ``n_workers=auto`` there are as many as the cluster holds, counted again as nodes come and go. A given number
    is submitted whatever the cluster holds, so that Ray's autoscaler sees the demand. Raises ConfigError where Ray or
    its cluster is missing or too small.
    """

    detached = False

    def __init__(self, folder: SweepFolder, config: Config, engine: str, search: str = GRID) -> None:
        launcher, trainer = cast(RayLauncher, config.launcher), config.trainer
        self._folder, self._n_workers = folder, config.n_workers
        self._ray = _connect(launcher)
        has_gpus = any(node["Resources"].get("GPU") for node in self._ray.nodes() if node["Alive"])
        on_gpus = trainer.name != "cpu" and (has_gpus or trainer.name == "gpu")
        self._resources = request(launcher, trainer, on_gpus=on_gpus)
        self._as_group = trainer.devices > 1
        if launcher.address == "local" and not self._capacity():
            problem = f"a worker needs {self._resources}, which this machine lacks; lower launcher.* or trainer.devices"
            raise ConfigError("launcher", "ray", problem)
        where = SweepFolder(folder.multirun.absolute(), folder.sweep)
        self._arguments = (where, search, engine)
        self._tasks: dict[int, Any] = {}
        self._groups: dict[int, Any] = {}
        self._n_deaths = self._n_ended = self._most_useful = 0

    @property
    def hopeless(self) -> bool:
        return not self._tasks and self._n_deaths >= MAX_DEATHS

    def keep_running(self, n_useful: int, n_ended: int) -> int:
        if n_ended > self._n_ended:
            self._n_ended, self._n_deaths = n_ended, 0
        self._most_useful = max(self._most_useful, n_useful)  # no more than can share, while none has started yet
        n_died = self._remove_ended()
        self._n_deaths += n_died
        n_workers = self._capacity() or 1 if self._n_workers == "auto" else self._n_workers
        n_wanted = min(n_workers, n_useful + len(self._tasks), self._most_useful)
        for slot in range(n_wanted):
            if slot not in self._tasks and len(self._tasks) < n_wanted and self._n_deaths < MAX_DEATHS:
                self._tasks[slot] = self._submit(slot)
        return n_died

    def interrupt(self) -> None:
        """Cancels the tasks: Ray sends SIGINT to those that run."""
        for task in self._tasks.values():
            self._ray.cancel(task)

    def kill(self) -> None:
        for task in self._tasks.values():
            self._ray.cancel(task, force=True)

    def wait(self, seconds: float) -> bool:
        return not self._tasks or not self._pending(seconds)

    def log(self, slot: int) -> Path:
        return self._folder.logs / f"ray-{slot}.log"

    def _capacity(self) -> int:
        return capacity(self._ray.nodes(), self._resources)

    def _pending(self, seconds: float) -> list[Any]:
        """The tasks that have not ended after `seconds`."""
        tasks = list(self._tasks.values())
        pending: list[Any] = self._ray.wait(tasks, num_returns=len(tasks), timeout=seconds)[1]
        return pending

    def _remove_ended(self) -> int:
        """Forgets the tasks that have ended; returns the number that failed."""
        pending = self._pending(0) if self._tasks else []
        n_failed = 0
        for slot, task in list(self._tasks.items()):
            if task in pending:
                continue
            del self._tasks[slot]
            if slot in self._groups:
                self._ray.util.remove_placement_group(self._groups.pop(slot))
            try:
                self._ray.get(task)
            except self._ray.exceptions.RayError as error:
                n_failed += 1
                with self.log(slot).open("a", encoding="utf-8") as log:
                    log.write(f"{str(error).strip()}\n")
        return n_failed

    def _submit(self, slot: int) -> Any:
        """Submits one worker. Several devices are a placement group, which it keeps while it is retried."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self._folder.logs.mkdir(parents=True, exist_ok=True)
        strategy: Any = "SPREAD"
        if self._as_group:
            self._groups[slot] = self._ray.util.placement_group([self._resources], strategy="STRICT_PACK")
            strategy = PlacementGroupSchedulingStrategy(self._groups[slot], placement_group_bundle_index=0)
        task = self._ray.remote(
            num_cpus=self._resources["CPU"],
            num_gpus=self._resources.get("GPU", 0),
            memory=self._resources.get("memory"),
            max_retries=MAX_DEATHS,  # of a worker or node that dies; an exception ends the task
            max_calls=1,  # a process for each worker
            scheduling_strategy=strategy,
            runtime_env={"env_vars": dict.fromkeys(ONE_THREAD, "1") | {"PYTHONPATH": python_path()}},
        )(work_in_task)
        return task.remote(*self._arguments, self.log(slot).absolute(), os.getcwd(), clean(os.environ))


def work_in_task(
    folder: SweepFolder, search: str, engine: str, log: Path, directory: str, variables: Mapping[str, str]
) -> None:
    """One task. `directory`, `variables`: those of the command; a variable that the node has keeps the node's value."""
    os.chdir(directory)
    replace_variables(os.environ, clean({**variables, **os.environ}))
    from src.sweep.workers.worker import work_logged

    work_logged(folder, search, engine, log)


def _connect(launcher: RayLauncher) -> Any:
    """The module ray, connected to the launcher's cluster; ``local``: one of its own, which ends with this process."""
    is_local = launcher.address == "local"
    if is_local:
        # Ray listens on all interfaces, so its cluster asks for a token, which Ray reads at import.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError:
        raise ConfigError("launcher", "ray", "needs the extra package ray, which is missing; run make ray") from None
    if ray.is_initialized():  # by an earlier part of this command
        return ray
    of_cluster = {"num_cpus": n_processors(), "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    try:
        ray.init(launcher.address, logging_level="warning", **(of_cluster if is_local else {}))
    except Exception as error:  # Ray raises no narrower one where its processes do not start
        fix = "start one by ray start --head, with this project's Python, or set launcher.address=local"
        if is_local:
            fix = "try again where the machine is busy, since Ray waits 30 s for a start, or set launcher=local"
        problem = f"cannot be reached ({' '.join(str(error).split())}); {fix}"
        raise ConfigError("launcher.address", launcher.address, problem) from error
    return ray
