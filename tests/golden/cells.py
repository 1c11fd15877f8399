"""The cells of the golden test: tiny ones that together use every regime, stopping rule, architecture, optimizer and shift.

Each is a study (see conf/study), so that one command trains all of them: `write_studies` makes the files. Their data need no
network: digits, a Gaussian, and what tests/golden/files.py writes into the folder that the variable DATA_ROOT names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

Settings = Mapping[str, Any]

DEFAULT_GRID = ["split.ratio=0.1,0.3,1,3,10", "split.imbalance=1,5,20", "stopping.epochs=5,20"]
"""The Makefile's."""

CORNERS = ["split.ratio=0.1,1", "split.imbalance=1,20", "stopping.epochs=5", "seeds=8"]
"""A part of the default grid that is trained here as well, with seeds enough for verdicts."""

REGIMES = ["sequential", "combined", "d1_only", "d2_only", "reverse", "replay", "rebalanced", "chunked", "blocks"]
REGIMES += ["warm_start", "shrink_perturb", "average", "freeze", "ewc", "l2_sp", "lwf"]

KNOBS: list[Settings] = [
    {"sequential": {"reset_optimizer": False}},
    {"sequential": {"lr_factor": 0.1}},
    {"replay": {"share": 0.5, "balanced": True, "reset_optimizer": False}},
    {"rebalanced": {"share": 0.8}},
    {"chunked": {"n_chunks": 5}},
    {"blocks": {"repeats": 3, "piece": 4}},
    {"warm_start": {"reset_optimizer": False}},
    {"shrink_perturb": {"shrink": 0.8, "perturb": 0.01}},
    {"average": {"weight": 0.25}},
    {"freeze": {"first": 1}},
    {"freeze": {"pattern": "bias"}},
    {"ewc": {"strength": 10, "reset_optimizer": False}},
    {"l2_sp": {"strength": 1, "reset_optimizer": False}},
    {"lwf": {"strength": 2, "temperature": 1, "reset_optimizer": False}},
]

CHECKPOINT = "${oc.env:DATA_ROOT}/model.safetensors"


def study(*groups: str, **settings: Any) -> Settings:
    """A study: choices of groups, ``arch=cnn``, and settings; one seed, 60 digits in two unequal data sets unless given.

    Some cells have two seeds: their groups contain runs of different seeds.
    """
    choices = dict(group.split("=") for group in ("trainer=cpu", "tracking=off", "arch=mlp", *groups))
    defaults = [{f"override /{group}": choice} for group, choice in choices.items()]
    arch = {"arch": {"widths": [8]}} if choices["arch"] == "mlp" else {}
    stopping = {"stopping": {"epochs": 2}} if "stopping" not in choices else {}
    shared = {"seeds": 1, "split": {"sizes": [40, 20]}, "optimizer": {"batch_size": 8}}
    return {"defaults": defaults, **shared, **arch, **stopping, **settings}


def shifted(kind: str, amount: float) -> Settings:
    """Dataset 2 under a shift."""
    return study(
        split={"sizes": [30, 30], "shift": {"kind": kind, "amount": amount}}, regimes=["sequential", "combined"]
    )


def budget(**stopping: Any) -> Settings:
    """All regimes under a budget."""
    return study("stopping=budget", stopping=stopping, regimes=REGIMES)


CELLS: Mapping[str, Settings] = {
    # regimes and their knobs
    "regimes": study(seeds=2, regimes=REGIMES),
    "knobs": study(regimes=KNOBS, optimizer={"batch_size": 8, "schedule": "cosine", "weight_decay": 0.01}),
    "full_fisher": study("arch=linear", seeds=2, regimes=[{"ewc": {"full": True}}, "ewc"]),
    "checkpoint": study(
        stopping={"epochs": 1}, regimes=[{name: {"checkpoint": CHECKPOINT}} for name in ("sequential", "replay", "ewc")]
    ),
    "three_parts": study(
        split={"parts": 3, "sizes": [30, 20, 10], "shift": {"kind": "rotate", "amount": 20}}, regimes=REGIMES
    ),
    "empty_d2": study(split={"sizes": [40, 0]}, regimes=["sequential", "combined", "replay", "warm_start"]),
    # stopping
    "budget_epochs": budget(epochs=2, match="epochs"),
    "budget_updates": budget(updates=13, match="updates"),
    "budget_samples": budget(samples=101, match="samples"),
    "budget_marginal": budget(epochs=3, match="marginal"),
    "budget_updates_per_part": study(
        "stopping=budget",
        "optimizer=adam",
        seeds=2,
        stopping={"updates_per_part": 5},
        split={"parts": 4, "size": 80, "classes": [[0, 1], [2, 3], [4, 5], [6, 7, 8, 9]]},
        regimes=[{"sequential": {"reset_optimizer": False}}, "combined", "ewc", "lwf"],
    ),
    "early_stopping_loss": study(
        "stopping=early_stopping",
        seeds=2,
        stopping={"max_epochs": 12, "patience": 2},
        optimizer={"lr": 0.5, "batch_size": 8},
        regimes=["sequential", "combined", "replay", "l2_sp"],
    ),
    "early_stopping_accuracy": study(
        "stopping=early_stopping",
        seeds=2,
        stopping={"max_epochs": 8, "patience": 1, "monitor": "accuracy", "monitor_on": "d1"},
        regimes=["sequential", "combined", "chunked"],
        trainer={"replicas": 1},
    ),
    "convergence_loss": study(
        "stopping=convergence",
        seeds=2,
        stopping={"tolerance": 0.5, "max_epochs": 25, "check_every": 2},
        regimes=["sequential", "combined", "ewc", "warm_start"],
    ),
    "convergence_gradient": study(
        "data=gaussian",
        "arch=linear",
        "stopping=convergence",
        loss="mse",
        data={"dim": 5, "n_samples": 100, "noise": 0.5, "draw": "exact", "target_shift": 1.0},
        arch={"bias": False, "init": "zero"},
        stopping={"quantity": "gradient", "tolerance": 1e-4, "max_epochs": 300, "check_every": 10},
        optimizer={"batch_size": "full", "momentum": 0.0},
        trainer={"precision": "64", "curve_points": 3},
        split={"sizes": [20, 10]},
        regimes=["sequential", "combined", "ewc", {"ewc": {"full": True}}, "l2_sp", "lwf", "average"],
    ),
    # data and splits
    "gaussian_classes": study(
        "data=gaussian",
        "optimizer=adamw",
        data={"dim": 6, "n_samples": 300, "target": "classification", "n_classes": 3},
        arch={"widths": [5], "depth": 2},
        loss="mse",
        regimes=["sequential", "combined", {"lwf": {"strength": 0.5}}],
    ),
    "gaussian_subspaces": study(
        "data=gaussian",
        "arch=linear",
        loss="mse",
        data={"dim": 6, "n_samples": 100, "draw": "fresh", "rank": 2, "angle": 30},
        optimizer={"lr": 0.02, "batch_size": 8},
        regimes=["sequential", "combined"],
    ),
    "gaussian_covariances": study(
        "data=gaussian",
        "arch=linear",
        loss="mse",
        data={
            "dim": 2,
            "n_samples": 100,
            "draw": "pool",
            "weights": [[0, 1], [1, 1]],
            "covariances": [[[1, 0], [0, 0.5]], [[0.5, 0.1], [0.1, 1]]],
        },
        regimes=["sequential", "combined"],
    ),
    "rotated": shifted("rotate", 30),
    "permuted": shifted("permute", 0.5),
    "noisy": shifted("noise", 0.3),
    "relabelled": shifted("relabel", 0.4),
    "other_source": study(
        "data=arrays",
        data={"path": "bytes.npz"},
        split={"sizes": [40, 20], "shift": {"kind": "source", "source": "digits"}},
        regimes=["sequential", "combined"],
    ),
    "imbalanced": study(
        split={
            "size": 90,
            "ratio": 0.5,
            "imbalance": 3,
            "opposed": False,
            "label_noise": 0.2,
            "val": 0.05,
            "test": 0.3,
        },
        regimes=["sequential", "combined", "rebalanced"],
        trainer={"reuse": False},
    ),
    "priors": study(
        split={"sizes": [40, 20], "classes": [3, 5, 8], "priors": [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]},
        regimes=["sequential", "combined"],
    ),
    "labels": study(
        split={"sizes": [40, 20], "classes": [[0, 1, 2, 3], [4, 5, 6, 7]], "labels": [0, 1] * 5},
        regimes=["sequential", "combined"],
    ),
    "regression": study(
        "data=arrays",
        data={"path": "targets.npz", "x_key": "inputs", "y_key": "outputs"},
        loss="mse",
        regimes=["sequential", "combined", "l2_sp"],
    ),
    "two_arrays": study(
        "data=arrays",
        data={"path": "bytes.npz", "path2": "more_bytes.npz"},
        split={},
        stopping={"epochs": 1},
        augment=["flip"],
        regimes=["sequential", "combined"],
    ),
    "own_images": study(
        "data=image_folder",
        "arch=cnn",
        data={"path": "old", "path2": "new", "image_size": 12, "channels": 1},
        arch={"widths": [3, 4]},
        split={},
        regimes=["sequential", "combined", "freeze"],
    ),
    # networks and optimizers
    "diverges": study("arch=linear", optimizer={"lr": 1e18, "batch_size": 8, "momentum": 0.0}, loss="mse"),
    "cnn": study(
        "arch=cnn",
        "optimizer=adamw",
        seeds=2,
        arch={"widths": [4, 6]},
        optimizer={"lr": 0.01, "batch_size": 16},
        augment=["flip", "crop"],
        regimes=["sequential", "combined", "ewc", "lwf", "shrink_perturb"],
        trainer={"resident_mib": 0},
    ),
    "resnet18": study(
        "arch=resnet18",
        split={"sizes": [16, 16]},
        stopping={"epochs": 1},
        optimizer={"lr": 0.001, "batch_size": 8},
        regimes=["sequential", "combined", {"freeze": {"layers": 3}}],
    ),
    "mobilenet": study(
        "data=image_folder",
        "arch=torchvision",
        "optimizer=adam",
        data={"path": "old", "image_size": 12},
        arch={"model": "mobilenet_v3_small"},
        split={"sizes": [16, 16]},
        regimes=["sequential", "combined"],
    ),
    "squeezenet": study(
        "data=image_folder",
        "arch=torchvision",
        data={"path": "large", "image_size": 32},
        arch={"model": "squeezenet1_1"},
        split={"sizes": [8, 8]},
        optimizer={"lr": 0.01, "batch_size": 8},
        regimes=["sequential", "combined"],
    ),
}


def write_studies(folder: Path) -> None:
    """The cells as ``folder``/study/NAME.yaml, to be chosen by ``--config-dir folder study=NAME``."""
    (folder / "study").mkdir(parents=True)
    for name, settings in CELLS.items():
        text = yaml.safe_dump(dict(settings), sort_keys=False)
        (folder / "study" / f"{name}.yaml").write_text(f"# @package _global_\n{text}", encoding="utf-8")
