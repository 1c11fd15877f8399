"""The schema of the configuration as typed, frozen dataclasses. Defaults live in conf/ alone; only a key that was added
later has a default here too, which applies to configurations saved before."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from src.axes import AxisValue
from src.config.plugins import digests
from src.config.regimes import changed_optimizer
from src.config.tune import OFF, TuneConfig
from src.data.sources.base import SourceConfig
from src.data.split_config import DEFAULT_RATIO, SplitConfig
from src.errors import ConfigError
from src.io import digest
from src.models.architecture import Architecture
from src.optimizers import OptimizerConfig
from src.regimes.catalog import RegimeConfig
from src.stopping.rule import StoppingRule
from src.typed import as_dict, bounds, content

SCHEMA_VERSION = 1
"""Part of every content hash: raise it when the meaning of a stored result changes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerConfig:
    name: Literal["auto", "cpu", "gpu", "ddp"]
    devices: int = field(metadata=bounds(ge=1))
    slots: int = field(metadata=bounds(ge=1))
    """Workers that share one GPU."""
    threads: int = field(metadata=bounds(ge=1))
    precision: Literal["32", "tf32", "64", "bf16-mixed", "16-mixed"]
    replicas: int | Literal["auto"] = field(metadata=bounds(ge=1))
    deterministic: bool
    curve_points: int = field(metadata=bounds(ge=1))
    """Largest number of points of each validation curve per stage; the last point is always included."""
    resident_mib: int = field(metadata=bounds(ge=0))
    """Training data up to this size live on the device as tensors; more is streamed through a DataLoader (0: all)."""
    reuse: bool
    """Equal stages are trained once and found in the store; false: every run trains all of its own stages."""
    checkpoint_seconds: float = field(default=60, metadata=bounds(ge=0))
    """Time between two resume points of a stage; 0: none. (Defaults are for cells written before this setting.)"""
    store_gib: float = field(default=20, metadata=bounds(ge=0))
    """Size of the stage store; 0: no limit."""
    graph: Literal["auto", "off"] = "auto"
    """Whether updates on a GPU are recorded as a CUDA graph where they can be; no effect on a CPU."""
    compile: bool = False
    """Whether training calls the network through torch.compile, whose last bits are its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingConfig:
    name: Literal["local", "server", "off"]
    uri: str | None
    experiment: str | None
    """None: one for each sweep, named after it."""

    def of_sweep(self, sweep: str) -> TrackingConfig:
        """With the experiment of a sweep."""
        return self if self.experiment is not None else dataclasses.replace(self, experiment=sweep)


@dataclass(frozen=True, kw_only=True, slots=True)
class LauncherConfig:
    """Where workers run; `local`: as processes of the machine that the command runs on."""

    name: str

    @property
    def detached(self) -> bool:
        """Whether the command leaves while workers work."""
        return False

    def check(self, trainer: TrainerConfig) -> None:
        """Raises ConfigError for a setting that contradicts another one."""

    def resources(self, gpus: int, cpus: int) -> tuple[int, int, int]:
        """Number of machines, and the GPUs and processors of each; `gpus`, `cpus`: those of this machine."""
        return 1, gpus, cpus


@dataclass(frozen=True, kw_only=True, slots=True)
class SlurmLauncher(LauncherConfig):
    """Workers run in `jobs` jobs of Slurm, one array, submitted with submitit.

    `gpus`, `cpus`, `mem` (GiB): of each job; `minutes`: its time limit; `extra`: further options of sbatch,
    ``name=value``. `cluster=local`: the same jobs as processes of this machine. `wait`: the command stays until the
    sweep is done.
    """

    name: Literal["slurm"]
    cluster: Literal["slurm", "local"]
    jobs: int = field(metadata=bounds(ge=1))
    partition: str | None
    account: str | None
    minutes: int = field(metadata=bounds(ge=5))
    gpus: int = field(metadata=bounds(ge=0))
    cpus: int = field(metadata=bounds(ge=1))
    mem: float | None = field(metadata=bounds(gt=0))
    extra: tuple[str, ...]
    wait: bool

    @property
    def detached(self) -> bool:
        return not self.wait

    def check(self, trainer: TrainerConfig) -> None:
        for option in self.extra:
            if not re.fullmatch(r"[a-z][a-z-]*(=.+)?", option):
                problem = (
                    "is no option of sbatch; write name=value without dashes, e.g. \"launcher.extra=['qos=high']\""
                )
                raise ConfigError("launcher.extra", option, problem)
        if 0 < self.gpus < trainer.devices and trainer.name != "cpu":
            problem = f"a run asks for trainer.devices={trainer.devices}; give each job at least as many"
            raise ConfigError("launcher.gpus", self.gpus, problem)

    def resources(self, gpus: int, cpus: int) -> tuple[int, int, int]:
        del gpus, cpus
        return self.jobs, self.gpus, self.cpus


@dataclass(frozen=True, kw_only=True, slots=True)
class RayLauncher(LauncherConfig):
    """Workers are tasks of the Ray cluster at `address`: ``local`` (one for this command), ``auto`` or ``host:port``.

    `cpus`: for each device of a worker; `mem` (GiB): for each worker.
    """

    name: Literal["ray"]
    address: str
    cpus: int = field(metadata=bounds(ge=1))
    mem: float | None = field(metadata=bounds(gt=0))

    def check(self, trainer: TrainerConfig) -> None:
        if not re.fullmatch(r"local|auto|[^:/]+:\d+", self.address):
            problem = "is no address of a cluster; write local, auto or HOST:PORT, on a node of that cluster"
            raise ConfigError("launcher.address", self.address, problem)

    def resources(self, gpus: int, cpus: int) -> tuple[int, int, int]:
        return 1, gpus, max(1, cpus // self.cpus)


LAUNCHERS: dict[str, type[LauncherConfig]] = {"local": LauncherConfig, "slurm": SlurmLauncher, "ray": RayLauncher}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One cell: what is fixed inside it, and the regimes and seeds that are compared."""

    data: SourceConfig
    arch: Architecture
    split: SplitConfig
    stopping: StoppingRule
    optimizer: OptimizerConfig
    trainer: TrainerConfig
    tracking: TrackingConfig
    launcher: LauncherConfig
    loss: Literal["cross_entropy", "mse"]
    head: Literal["full", "grow"] = "full"
    """Whether the head has an output for every class from the start, or gets one when its class appears."""
    online: bool = False
    """Whether each training sample is scored just before the update that trains on it: `online_accuracy`."""
    label_smoothing: float = field(default=0.0, metadata=bounds(ge=0, lt=1))
    """Share of each training label that is spread over all classes; scores use the labels themselves."""
    augment: tuple[Literal["flip", "crop"], ...] = ()
    """Random changes of the images of a training batch at every draw: see `src.data.augment`."""
    plugins: tuple[str, ...] = ()
    """Python files with variants of the user's own, each as ``path@digest``: see `src.config.plugins`."""
    tune: TuneConfig = OFF
    """Whether every regime first gets settings of its own, by trials on validation data."""
    regimes: tuple[RegimeConfig, ...]
    seeds: tuple[int, ...]
    baseline: str | None = None
    """Label of the regime that each of the others is compared with; None compares all pairs."""
    margin: float | None = field(default=None, metadata=bounds(gt=0))
    """Also tested: whether a regime is worse by less, in the metric's own unit (accuracy: 0.01 is a point)."""
    sweep: str
    multirun: str
    storage: str | None
    n_workers: int | Literal["auto"] = field(metadata=bounds(ge=1))
    dry_run: bool

    def recipe(self) -> dict[str, Any]:
        """What the result of a run depends on, as plain JSON: no paths, devices, workers, tracking or storage."""
        data = {key: value for key, value in as_dict(self.data).items() if key not in self.data.where}
        trainer = {"precision": self.trainer.precision, "threads": self.trainer.threads}
        trainer |= {"compile": True} if self.trainer.compile else {}  # a later key, as in `content`
        split = content(self.split)
        split["sizes"] = list(self.split.dataset_sizes())  # size and ratio are another way to say sizes
        del split["size"], split["ratio"]
        return {
            "data": data,
            "arch": self.arch.content(),
            "split": split,
            "stopping": content(self.stopping),
            "optimizer": self.optimizer.content(),
            "trainer": trainer,
            "loss": self.loss,
            **({"head": self.head} if self.head != "full" else {}),
            **({"online": True} if self.online else {}),
            **({"label_smoothing": self.label_smoothing} if self.label_smoothing else {}),
            **({"augment": sorted(self.augment)} if self.augment else {}),  # a later key, as in `content`
            **({"plugins": digests(self.plugins)} if self.plugins else {}),
            **({"tune": self.tune.recipe()} if self.tune != OFF else {}),
        }

    def of(self, regime: RegimeConfig) -> Config:
        """The settings under which the regime trains."""
        return dataclasses.replace(self, optimizer=changed_optimizer(self.optimizer, regime))

    def axes(self) -> dict[str, AxisValue]:
        """The value of the cell on every axis of `src.axes.AXES`."""
        sizes = self.split.dataset_sizes()
        ratio = self.split.ratio if self.split.sizes is None else (sizes[1] / sizes[0] if sizes[0] else math.inf)
        return {
            "ratio": DEFAULT_RATIO if ratio is None else ratio,
            "imbalance": self.split.imbalance,
            "shift": self.split.shift.label,
            "epochs": self.stopping.epochs_label,
            "arch": self.arch.label + ("" if self.arch.weights is None else f"({self.arch.content()['weights'][:8]})"),
            "data": self.data.label,
            **({"tune": self.tune.name} if self.tune != OFF else {}),
        }


def cell_hash(config: Config, source_digest: str) -> str:
    """Names the cell: its recipe, the content of its data and the schema; regime and seed are left out."""
    return digest({"schema": SCHEMA_VERSION, "recipe": config.recipe(), "source": source_digest})


def run_hash(cell: str, regime: RegimeConfig, seed: int) -> str:
    """Names one run of a cell."""
    return digest({"cell": cell, "regime": regime.name, "knobs": regime.content(), "seed": seed})
