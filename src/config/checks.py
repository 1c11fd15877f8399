"""Contradictions between settings, refused before anything is loaded or trained."""

from __future__ import annotations

import math
import re

from src.config.schema import Config, SlurmLauncher
from src.data.config import GaussianData, SplitConfig
from src.errors import ConfigError
from src.urls import without_password


def check(config: Config) -> None:
    """Refuses what contradicts itself; what depends on the data's content is refused by `src.data.split`."""
    config.arch.check()
    _check_split(config.split)
    optimizer = config.optimizer
    if optimizer.name != "sgd" and optimizer.momentum:
        raise ConfigError("optimizer.momentum", optimizer.momentum, f"has no effect with optimizer={optimizer.name}")
    regression = isinstance(config.data, GaussianData) and config.data.target == "regression"
    if regression and config.loss != "mse":
        raise ConfigError("loss", config.loss, "needs classes; a regression target takes loss=mse")
    if isinstance(config.data, GaussianData):
        _check_gaussian(config.data, config.split)
    config.stopping.check(config.split.dataset_sizes(), is_regression=regression)
    if len(set(config.augment)) < len(config.augment):
        raise ConfigError("augment", list(config.augment), "names one twice; leave it out")
    uri, password = without_password(config.tracking.uri or "")
    if password is not None:
        fix = "give it in MLFLOW_TRACKING_PASSWORD (a server) or PGPASSWORD (a database) instead"
        raise ConfigError("tracking.uri", uri, f"has a password, which files would keep; {fix}")
    trainer = config.trainer
    if trainer.name == "ddp" and trainer.devices < 2:
        raise ConfigError("trainer.devices", trainer.devices, "trainer=ddp needs at least 2, e.g. trainer.devices=2")
    if trainer.precision == "16-mixed" and trainer.name == "cpu":
        raise ConfigError("trainer.precision", trainer.precision, "needs a GPU; on a CPU take bf16-mixed or 32")
    if isinstance(config.launcher, SlurmLauncher):
        _check_slurm(config.launcher, config)


def _check_slurm(launcher: SlurmLauncher, config: Config) -> None:
    for option in launcher.extra:
        if not re.fullmatch(r"[a-z][a-z-]*(=.+)?", option):
            problem = "is no option of sbatch; write name=value without dashes, e.g. launcher.extra=['qos=high']"
            raise ConfigError("launcher.extra", option, problem)
    if 0 < launcher.gpus < config.trainer.devices and config.trainer.name != "cpu":
        problem = f"a run asks for trainer.devices={config.trainer.devices}; give each job at least as many"
        raise ConfigError("launcher.gpus", launcher.gpus, problem)


def _check_gaussian(data: GaussianData, split: SplitConfig) -> None:
    if data.target == "classification":
        plain = {"draw": "pool", "target_shift": 0, "weights": None, "covariances": None, "rank": None}
        for name, value in plain.items():
            if getattr(data, name) != value:
                raise ConfigError(f"data.{name}", getattr(data, name), "needs data.target=regression")
    if data.weights is not None:
        if data.target_shift:
            raise ConfigError("data.target_shift", data.target_shift, "contradicts data.weights; give one of the two")
        if len(data.weights) != split.parts or any(len(row) != data.dim for row in data.weights):
            shape = f"{split.parts} x {data.dim}, a row of data.dim numbers for each data set"
            raise ConfigError("data.weights", data.weights, f"must be {shape}")
    if data.target_shift and data.dim < 2:
        raise ConfigError(
            "data.target_shift", data.target_shift, "is orthogonal to the target; set data.dim to 2 or more"
        )
    if data.rank is None and data.angle:
        raise ConfigError("data.angle", data.angle, "is between subspaces; set data.rank to their dimension")
    if data.rank is not None and 2 * data.rank > data.dim:
        raise ConfigError("data.rank", data.rank, f"two such subspaces need data.dim={2 * data.rank} or more")
    if data.covariances is not None:
        if data.rank is not None:
            raise ConfigError("data.rank", data.rank, "contradicts data.covariances; give one of the two")
        if len(data.covariances) != split.parts:
            n = len(data.covariances)
            raise ConfigError("data.covariances", f"{n} matrices", f"must be one for each of {split.parts} data sets")
        for matrix in data.covariances:
            _check_covariance(matrix, data.dim)
    if data.draw == "exact":
        for part, size in enumerate(split.dataset_sizes()):
            if 0 < size < (data.rank or data.dim) and data.covariances is None:
                fix = f"data.draw=exact needs at least {data.rank or data.dim} samples in Dataset {part + 1}"
                raise ConfigError("split.sizes", list(split.dataset_sizes()), fix)


def _check_covariance(matrix: tuple[tuple[float, ...], ...], dim: int) -> None:
    if len(matrix) != dim or any(len(row) != dim for row in matrix):
        raise ConfigError("data.covariances", matrix, f"must be {dim} x {dim}, as data.dim says")
    if any(matrix[i][j] != matrix[j][i] for i in range(dim) for j in range(i)):
        raise ConfigError("data.covariances", matrix, "must be symmetric")
    import numpy as np  # only here: most commands compose without it

    values = np.linalg.eigvalsh(np.array(matrix))
    if values[0] < -1e-12 * abs(values[-1]):
        raise ConfigError(
            "data.covariances", matrix, f"has a negative eigenvalue ({values[0]:.3g}); it is no covariance"
        )


def _check_split(split: SplitConfig) -> None:
    for key in ("size", "ratio"):
        if split.sizes is not None and getattr(split, key) is not None:
            raise ConfigError(f"split.{key}", getattr(split, key), "contradicts split.sizes; give one of the two")
    if split.sizes is not None:
        if len(split.sizes) != split.parts:
            fix = f"must list {split.parts} sizes, one for each data set, or set split.parts={len(split.sizes)}"
            raise ConfigError("split.sizes", list(split.sizes), fix)
        if split.sizes[0] == 0:
            raise ConfigError("split.sizes", list(split.sizes), "Dataset 1 is empty; its size must be at least 1")
    if split.parts > 2 and split.ratio is not None:
        raise ConfigError("split.ratio", split.ratio, "is between two data sets; with split.parts > 2 use split.sizes")
    if split.sizes is None and min(split.dataset_sizes()) < 1:
        raise ConfigError(
            "split.ratio", split.ratio, f"leaves a data set of size {split.dataset_sizes()}; raise split.size"
        )
    if split.val + (split.test or 0) >= 1:
        raise ConfigError("split.val", split.val, f"with split.test={split.test} leaves nothing to train on; lower it")
    if split.priors is not None:
        if split.imbalance != 1:
            raise ConfigError("split.imbalance", split.imbalance, "contradicts split.priors; give one of the two")
        if len(split.priors) != split.parts:
            raise ConfigError("split.priors", split.priors, f"must list {split.parts} priors, one for each data set")
        for prior in split.priors:
            if not math.isclose(sum(prior), 1, abs_tol=1e-6):
                raise ConfigError("split.priors", list(prior), f"sums to {sum(prior):g}; a prior must sum to 1")
    if split.classes is not None:
        nested = [subset for subset in split.classes if isinstance(subset, tuple)]
        if nested and len(nested) != split.parts:
            raise ConfigError("split.classes", split.classes, f"must list {split.parts} subsets, one for each data set")
        subsets = nested or [tuple(c for c in split.classes if isinstance(c, int))]
        for subset in subsets:
            if len(set(subset)) < len(subset) or not subset:
                raise ConfigError("split.classes", split.classes, "must list different classes, at least one")
    if split.labels is not None:
        if len(set(split.labels)) < 2 or sorted(set(split.labels)) != list(range(max(split.labels) + 1)):
            fix = "must number its labels 0, 1, ... without a gap, two or more"
            raise ConfigError("split.labels", list(split.labels), fix)
        if split.shift.kind == "relabel":
            raise ConfigError("split.labels", list(split.labels), "contradicts split.shift.kind=relabel; drop one")
    shift = split.shift
    if shift.kind == "source" and shift.source is None:
        raise ConfigError("split.shift.source", None, "split.shift.kind=source needs a source's name or path")
    if shift.kind != "source" and shift.source is not None:
        raise ConfigError("split.shift.source", shift.source, "has no effect; set split.shift.kind=source")
    if shift.kind in ("none", "source") and shift.amount != 0:
        fix = "set split.shift.kind to rotate, permute, noise or relabel"
        raise ConfigError("split.shift.amount", shift.amount, f"has no effect with kind={shift.kind}; {fix}")
    if shift.kind in ("permute", "relabel") and shift.amount > 1:
        raise ConfigError("split.shift.amount", shift.amount, f"is a share with kind={shift.kind}: at most 1")
    if shift.kind == "rotate" and shift.amount > 360:
        raise ConfigError("split.shift.amount", shift.amount, "is in degrees: at most 360")
