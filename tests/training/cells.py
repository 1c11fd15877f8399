"""Tiny cells for the tests of training: composed, planned and executed in memory, without the files of a run."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from src.cells.resolve import resolve
from src.config import Config, compose
from src.training.control import RunControl
from src.training.devices import Device, device_of
from src.training.execute import Execution, execute
from src.training.plan import StagePlan, make_plan
from src.training.result import Curves, StageResult
from src.training.store.store import Store

CPU = Device(torch.device("cpu"), torch.float32)


class OnStage(RunControl):
    """Calls a function wherever a cell can stop."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def on_stage(self) -> None:
        self._call()


def tiny(*overrides: str) -> Config:
    """A cell of 60 digits, two epochs, three seeds, on one CPU thread."""
    base = ["trainer=cpu", "tracking=off", "split.size=60", "seeds=3"]
    short = [] if any(word.startswith("stopping") for word in overrides) else ["stopping.epochs=2"]
    return compose([*base, *short, *overrides])


def with_replicas(config: Config, replicas: int) -> Config:
    """The same cell, trained in groups of limited size."""
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, replicas=replicas))


def planned(config: Config) -> StagePlan:
    """The plan of all runs of the cell."""
    factory = resolve(config).streams
    streams = {seed: factory.build(seed) for seed in config.seeds}
    return make_plan(config, streams, [(regime, seed) for regime in config.regimes for seed in config.seeds])


def executed(config: Config, root: Path | None = None, plan: StagePlan | None = None) -> tuple[StagePlan, Execution]:
    """The plan of the cell and its execution; `root`: folder of the stage store; default: a temporary one."""
    plan = planned(config) if plan is None else plan
    place = device_of(config.trainer)
    if root is not None:
        return plan, execute(config, plan, Store(root), place)
    with tempfile.TemporaryDirectory() as scratch:
        return plan, execute(config, plan, Store(Path(scratch)), place)


def same_bits(a: np.ndarray | torch.Tensor, b: np.ndarray | torch.Tensor) -> bool:
    """Equal in type, shape and every bit (a NaN equals itself)."""
    a, b = torch.as_tensor(a).contiguous(), torch.as_tensor(b).contiguous()
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8))


def differences(a: StageResult, b: StageResult) -> list[str]:
    """Differences between two results of one stage, bit for bit, without seconds, group and split."""
    found = [] if a.weights.keys() == b.weights.keys() else ["names of weights"]
    found += [name for name in a.weights if not same_bits(a.weights[name], b.weights[name])]
    if a.optimizer is not None and b.optimizer is not None:
        found += [] if a.optimizer.keys() == b.optimizer.keys() else ["names of optimizer state"]
        found += [name for name in a.optimizer if not same_bits(a.optimizer[name], b.optimizer[name])]
    found += [
        name
        for name, x, y in zip(_curve_names(a.curves), _arrays(a.curves), _arrays(b.curves), strict=True)
        if not same_bits(x, y)
    ]
    mine, other = (
        {k: v for k, v in dataclasses.asdict(r.ledger).items() if k not in ("seconds", "group", "split")}
        for r in (a, b)
    )
    return found + [f"{key}: {mine[key]} != {other[key]}" for key in mine if mine[key] != other[key]]


def _curve_names(curves: Curves) -> list[str]:
    pools = range(len(curves.recall))
    return ["steps", "train_loss", *(f"recall {p}" for p in pools), *(f"loss {p}" for p in pools)]


def _arrays(curves: Curves) -> Sequence[np.ndarray]:
    return [curves.steps, curves.train_loss, *curves.recall, *curves.loss]
