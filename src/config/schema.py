"""The schema: what a run may be told, as typed and frozen dataclasses. Defaults live in conf/ alone; a key that was added
later has one here too, which stands for it in files that were written before."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from src.config.typed import bounds

DEFAULT_SIZE = 400
DEFAULT_RATIO = 1.0

# ------------------------------------------------------------------------------------------------ data


@dataclass(frozen=True, kw_only=True, slots=True)
class DigitsData:
    """scikit-learn's 1,797 real 8x8 images of digits: embedded, no download."""

    name: Literal["digits"]
    root: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchvisionData:
    """A data set that torchvision downloads into `root` on first use, or finds there."""

    name: Literal["mnist", "fashion_mnist", "cifar10"]
    root: str
    download: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFolderData:
    """The user's own images, one folder per class: `path` alone to split, or `path` and `path2` as Dataset 1 and 2."""

    name: Literal["image_folder"]
    root: str
    path: str
    path2: str | None
    image_size: int = field(metadata=bounds(ge=1, le=1024))
    channels: Literal[1, 3]


@dataclass(frozen=True, kw_only=True, slots=True)
class ArraysData:
    """A .npz file with `x` [n, ...] and `y` [n]; `path2` holds Dataset 2; images are resized to `image_size` if given."""

    name: Literal["arrays"]
    root: str
    path: str
    path2: str | None
    image_size: int | None = field(metadata=bounds(ge=1, le=1024))
    x_key: str
    y_key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GaussianData:
    """x ~ N(0, I_d), a linear target plus noise of standard deviation `noise`: the linear lab.

    For regression, data sets may differ: `target_shift` is the distance between the true weights of Dataset 1 and those
    of every other, or `weights` lists them; `covariances` lists the inputs' covariance for each data set; or the inputs of
    each fill a subspace of dimension `rank`, Dataset 2's at `angle` degrees to Dataset 1's (all principal angles; twice
    that in Dataset 3).
    """

    name: Literal["gaussian"]
    root: str
    dim: int = field(metadata=bounds(ge=1))
    n_samples: int = field(metadata=bounds(ge=2))
    noise: float = field(metadata=bounds(ge=0))
    target: Literal["regression", "classification"]
    n_classes: int = field(metadata=bounds(ge=2))
    draw: Literal["pool", "fresh", "exact"]
    """``pool``: all seeds draw from the same `n_samples`. ``fresh``: every seed has `n_samples` of its own, so seeds are
    independent. ``exact``: fresh, and each data set's training inputs are made to have exactly its covariance C, and its
    noise to be orthogonal to them: the mean squared error is then the quadratic with Hessian 2 C around its true weights."""
    target_shift: float = field(metadata=bounds(ge=0))
    weights: tuple[tuple[float, ...], ...] | None
    covariances: tuple[tuple[tuple[float, ...], ...], ...] | None
    rank: int | None = field(metadata=bounds(ge=1))
    angle: float = field(metadata=bounds(ge=0, le=90))


DataConfig = DigitsData | TorchvisionData | ImageFolderData | ArraysData | GaussianData

# ------------------------------------------------------------------------------------------------ architecture


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearArch:
    """`init`: weights drawn by the seed, or all zero."""

    name: Literal["linear"]
    bias: bool
    init: Literal["default", "zero"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MlpArch:
    """Hidden layers of `widths` units; `depth` repeats a single width that many times."""

    name: Literal["mlp"]
    widths: tuple[int, ...] = field(metadata=bounds(ge=1))
    depth: int | None = field(metadata=bounds(ge=1))


@dataclass(frozen=True, kw_only=True, slots=True)
class CnnArch:
    """3x3 convolutions of `widths` channels, each followed by ReLU and 2x2 max-pooling, then a linear head."""

    name: Literal["cnn"]
    widths: tuple[int, ...] = field(metadata=bounds(ge=1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Resnet18Arch:
    """torchvision's ResNet-18 with the 3x3 stem without pooling that fits images of about 32x32."""

    name: Literal["resnet18"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchvisionArch:
    """Any classification model of torchvision, by its name, without pretrained weights."""

    name: Literal["torchvision"]
    model: str


ArchConfig = LinearArch | MlpArch | CnnArch | Resnet18Arch | TorchvisionArch

# ------------------------------------------------------------------------------------------------ split


@dataclass(frozen=True, kw_only=True, slots=True)
class ShiftConfig:
    """How Dataset 2 (and its test set) differs from Dataset 1 beyond its class balance.

    `amount`: degrees (rotate), share of pixels (permute), standard deviation on the 0-1 pixel scale (noise), share of
    classes whose labels are exchanged (relabel). `source`: another source with the same classes (kind ``source``): a
    name (digits, mnist, fashion_mnist, cifar10), a .npz file or a folder of class folders.
    """

    kind: Literal["none", "rotate", "permute", "noise", "relabel", "source"]
    amount: float = field(metadata=bounds(ge=0))
    source: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """How a source becomes a stream: see DESIGN's definitions, repeated in docs/DEFINITIONS.md."""

    parts: int = field(metadata=bounds(ge=2))
    size: int | None = field(metadata=bounds(ge=1))
    ratio: float | None = field(metadata=bounds(gt=0))
    sizes: tuple[int, ...] | None = field(metadata=bounds(ge=0))
    val: float = field(metadata=bounds(gt=0, lt=1))
    test: float | None = field(metadata=bounds(gt=0, lt=1))
    imbalance: float = field(metadata=bounds(ge=1))
    opposed: bool
    priors: tuple[tuple[float, ...], ...] | None = field(metadata=bounds(ge=0, le=1))
    classes: tuple[int, ...] | tuple[tuple[int, ...], ...] | None = field(metadata=bounds(ge=0))
    labels: tuple[int, ...] | None = field(default=None, metadata=bounds(ge=0))
    """The label of every class of the source, in order; classes that share one are told apart by no output."""
    label_noise: float = field(metadata=bounds(ge=0, lt=1))
    shift: ShiftConfig

    def dataset_sizes(self) -> tuple[int, ...]:
        """Number of training samples of each data set of the stream: |D1|, |D2|, ..."""
        if self.sizes is not None:
            return self.sizes
        size = DEFAULT_SIZE if self.size is None else self.size
        ratio = DEFAULT_RATIO if self.ratio is None else self.ratio
        if self.parts == 2:
            n_second = round(size * ratio / (1 + ratio))
            return (size - n_second, n_second)
        whole, rest = divmod(size, self.parts)
        return tuple(whole + (part < rest) for part in range(self.parts))


# ------------------------------------------------------------------------------------------------ stopping


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochsStopping:
    """Every stage makes `epochs` passes over its own data."""

    name: Literal["epochs"]
    epochs: int = field(metadata=bounds(ge=1))


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetStopping:
    """A fixed amount of training, given as exactly one of `epochs` of sequential, `updates`, `samples` or
    `updates_per_part`.

    `match` says in which unit every regime of the cell gets the same: ``epochs`` (each stage its own passes),
    ``updates`` or ``samples`` (the total of sequential, divided over the stages by mixture size, remainder to the last),
    ``marginal`` (stages on Dataset 1 alone are sunk cost; all else gets epochs * ceil(n2 / B) updates).
    `updates_per_part`: sequential makes so many in every stage, whatever its size; every regime gets the total, divided
    over its stages in equal parts.
    """

    name: Literal["budget"]
    epochs: int | None = field(metadata=bounds(ge=1))
    updates: int | None = field(metadata=bounds(ge=1))
    samples: int | None = field(metadata=bounds(ge=1))
    updates_per_part: int | None = field(default=None, metadata=bounds(ge=1))
    match: Literal["epochs", "updates", "samples", "marginal"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlyStopping:
    """Stop when the monitored validation figure has not improved for `patience` epochs; the best weights are restored."""

    name: Literal["early_stopping"]
    max_epochs: int = field(metadata=bounds(ge=1))
    patience: int = field(metadata=bounds(ge=1))
    monitor: Literal["loss", "accuracy"]
    monitor_on: str
    """`own` (the validation set of the stage's own mixture), `d1`, `d2`, ... or `union`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvergenceStopping:
    """Stop when the training loss, or the norm of its gradient, over the stage's own data is at most `tolerance`."""

    name: Literal["convergence"]
    quantity: Literal["loss", "gradient"]
    tolerance: float = field(metadata=bounds(gt=0))
    max_epochs: int = field(metadata=bounds(ge=1))
    check_every: int = field(metadata=bounds(ge=1))
    """Epochs between two checks: the figure takes a pass over the stage's data."""


StoppingConfig = EpochsStopping | BudgetStopping | EarlyStopping | ConvergenceStopping

# ------------------------------------------------------------------------------------------------ the rest


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    name: Literal["sgd", "adam", "adamw"]
    lr: float = field(metadata=bounds(gt=0))
    batch_size: int | Literal["full"] = field(metadata=bounds(ge=1))
    momentum: float = field(metadata=bounds(ge=0, lt=1))
    weight_decay: float = field(metadata=bounds(ge=0))
    schedule: Literal["constant", "cosine"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerConfig:
    name: Literal["auto", "cpu", "gpu", "ddp"]
    devices: int = field(metadata=bounds(ge=1))
    slots: int = field(metadata=bounds(ge=1))
    """Workers that share one GPU."""
    threads: int = field(metadata=bounds(ge=1))
    precision: Literal["32", "64", "bf16-mixed", "16-mixed"]
    replicas: int | Literal["auto"] = field(metadata=bounds(ge=1))
    deterministic: bool
    curve_points: int = field(metadata=bounds(ge=1))
    """At most so many points of the validation curves per stage; the last is always among them."""
    resident_mib: int = field(metadata=bounds(ge=0))
    """Training data up to this size live on the device as tensors; more is streamed through a DataLoader (0: all)."""
    reuse: bool
    """Equal stages are trained once and found in the store; false: every run trains all of its own stages."""
    checkpoint_seconds: float = field(default=60, metadata=bounds(ge=0))
    """How often it is kept how far a stage has come; 0: never. (Defaults here: for cells written before there was this.)"""
    store_gib: float = field(default=20, metadata=bounds(ge=0))
    """Size of the stage store; 0: no limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingConfig:
    name: Literal["local", "server", "off"]
    uri: str | None
    experiment: str
    batched: bool
    """Everything a run has to say in one write; false: a write for every value, as most loggers do it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalLauncher:
    """Workers are processes of the machine that the command runs on."""

    name: Literal["local"]

    @property
    def detached(self) -> bool:
        """Whether the command leaves while workers work."""
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class SlurmLauncher:
    """Workers run in `jobs` jobs of Slurm, one array, submitted with submitit.

    `gpus`, `cpus`, `mem` (GiB): of each job; `minutes`: its time limit; `extra`: further options of sbatch, ``name=value``.
    `cluster=local`: the same jobs as processes of this machine. `wait`: the command stays until the sweep is done.
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
        """Whether the command leaves while workers work."""
        return not self.wait


LauncherConfig = LocalLauncher | SlurmLauncher


@dataclass(frozen=True, slots=True, order=True)
class RegimeConfig:
    """A regime and its knobs that differ from the catalog's defaults, sorted by name: equal recipes are equal objects."""

    name: str
    knobs: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """The regime as it is shown and stored: ``sequential``, ``replay(share=0.05)``."""
        shown = {key: value[:8] if key == "checkpoint" else value for key, value in self.content().items()}
        inner = ",".join(f"{key}={value}" for key, value in shown.items())
        return f"{self.name}({inner})" if inner else self.name

    def content(self) -> dict[str, Any]:
        """The knobs by what they stand for: of a file ``path@digest`` the digest, wherever it lies."""
        return {key: value.rpartition("@")[2] if key == "checkpoint" else value for key, value in self.knobs}


def _content(group: Any) -> dict[str, Any]:
    """A group as plain values, without keys at a default of the schema's: such keys came later, and what was finished
    before them keeps its address."""
    later = {f.name for f in dataclasses.fields(group) if getattr(group, f.name) == f.default}
    return {key: value for key, value in dataclasses.asdict(group).items() if key not in later}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One cell: what is fixed inside it, and the regimes and seeds that are compared."""

    data: DataConfig
    arch: ArchConfig
    split: SplitConfig
    stopping: StoppingConfig
    optimizer: OptimizerConfig
    trainer: TrainerConfig
    tracking: TrackingConfig
    launcher: LauncherConfig
    loss: Literal["cross_entropy", "mse"]
    augment: tuple[Literal["flip", "crop"], ...] = ()
    """What is done to the pictures of a training batch, anew for each draw: see `src.data.augment`."""
    regimes: tuple[RegimeConfig, ...]
    seeds: tuple[int, ...]
    sweep: str
    multirun: str
    storage: str | None
    n_workers: int | Literal["auto"] = field(metadata=bounds(ge=1))
    dry_run: bool

    def recipe(self) -> dict[str, Any]:
        """What the result of a run depends on, as plain JSON: no paths, devices, workers, tracking or storage."""
        data = dataclasses.asdict(self.data)
        for where in ("root", "path", "path2", "download"):
            data.pop(where, None)  # the content is hashed instead: the source's digest
        trainer = {"precision": self.trainer.precision, "threads": self.trainer.threads}
        split = _content(self.split)
        split["sizes"] = list(self.split.dataset_sizes())  # size and ratio are another way to say sizes
        del split["size"], split["ratio"]
        return {
            "data": data,
            "arch": dataclasses.asdict(self.arch),
            "split": split,
            "stopping": _content(self.stopping),
            "optimizer": dataclasses.asdict(self.optimizer),
            "trainer": trainer,
            "loss": self.loss,
            **({"augment": sorted(self.augment)} if self.augment else {}),  # a later key, as in `_content`
        }

    def axes(self) -> dict[str, str | float | int]:
        """The short names under which every MLflow run repeats the cell's place in the grid."""
        sizes = self.split.dataset_sizes()
        ratio = self.split.ratio if self.split.sizes is None else (sizes[1] / sizes[0] if sizes[0] else math.inf)
        shift = self.split.shift
        if shift.kind == "none":
            shift_label = "none"
        else:
            shift_label = f"source:{shift.source}" if shift.kind == "source" else f"{shift.kind}:{shift.amount:g}"
        stopping = self.stopping
        epochs: int | str
        if isinstance(stopping, EpochsStopping):
            epochs = stopping.epochs
        elif isinstance(stopping, BudgetStopping):
            epochs = stopping.epochs if stopping.epochs is not None else "-"
        else:
            epochs = stopping.max_epochs
        return {
            "ratio": DEFAULT_RATIO if ratio is None else ratio,
            "imbalance": self.split.imbalance,
            "shift": shift_label,
            "epochs": epochs,
            "arch": self.arch.name if not isinstance(self.arch, TorchvisionArch) else self.arch.model,
            "data": self.data.name,
        }

    @property
    def n_parts(self) -> int:
        """Number of data sets in the stream."""
        return self.split.parts
