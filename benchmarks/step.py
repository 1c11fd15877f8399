"""Cost of one training step: the laboratory, plain Lightning with a DataLoader over tensors, and a raw PyTorch loop.

    python -m benchmarks.step [repeats=3] [device=cpu]

Every value is a slope, (time of a long fit - time of a short one) / (difference in steps), so that set-up does not count.
The implementations alternate; the table has medians over the repeats with their range. One thread. "laboratory" is the
complete fit of a sweep: feed, Lightning, stopping rule, curves. `per model` divides by the number of models in the group.
"""

from __future__ import annotations

import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from src.cells.resolve import resolve
from src.config import Config, compose
from src.models.build import build_model
from src.training.devices import Device, device_of
from src.training.fit import fit
from src.training.plan import make_plan

# name, overrides, epochs of the short and the long fit, group sizes of the laboratory
CASES = [
    ("MLP 64-64-10", ["split.size=640"], (2, 22), (1, 12, 20, 80)),
    ("MLP 64-256-256-10", ["split.size=640", "arch.widths=[256,256]"], (2, 12), (1, 12)),
    ("CNN 16-32, 8x8", ["split.size=640", "arch=cnn"], (1, 6), (1, 12)),
    ("ResNet-18, 8x8", ["split.size=128", "arch=resnet18"], (1, 4), (1,)),
]


def data_of(config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """The union of the first seed's data sets, as tensors."""
    train = resolve(config).streams.build(0).train
    return torch.cat([part.inputs() for part in train]), torch.cat([part.y for part in train])


def raw(config: Config, epochs: int, place: Device) -> float:
    """Seconds of a plain PyTorch loop over tensors in memory."""
    x, y = (t.to(place.torch_device) for t in data_of(config))
    model = build_model(config.arch, x.shape[1:], 10, 0).to(place.torch_device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    start = time.perf_counter()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), device=place.torch_device).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    _wait(place)
    return time.perf_counter() - start


def plain_lightning(config: Config, epochs: int, place: Device) -> float:
    """Seconds of a Lightning fit as in its documentation, with all optional features off."""
    import pytorch_lightning as pl

    class Plain(pl.LightningModule):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    x, y = data_of(config)
    module = Plain(build_model(config.arch, x.shape[1:], 10, 0))
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="gpu" if place.torch_device.type == "cuda" else "cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    start = time.perf_counter()
    trainer.fit(module, loader)
    _wait(place)
    return time.perf_counter() - start


def laboratory(config: Config, epochs: int, place: Device, n_models: int) -> float:
    """Seconds of one fit of a group of `n_models` combined stages."""
    from dataclasses import replace

    from src.stopping.epochs import EpochsStopping

    config = replace(config, stopping=EpochsStopping(name="epochs", epochs=epochs))
    factory = resolve(config).streams
    streams = {seed: factory.build(seed) for seed in range(n_models)}
    plan = make_plan(config, streams, [(config.regimes[1], seed) for seed in streams])
    nodes = list(plan.nodes.values())
    shape = nodes[0].stream.input_shape
    models = [build_model(config.arch, shape, 10, node.seed) for node in nodes]
    start = time.perf_counter()
    fit(config, nodes, models, place)
    _wait(place)
    return time.perf_counter() - start


def _wait(place: Device) -> None:
    if place.torch_device.type == "cuda":
        torch.cuda.synchronize()


def slope(seconds_of: Callable[[int], float], epochs: tuple[int, int], steps_per_epoch: int) -> float:
    """Microseconds per step without set-up."""
    short, long = seconds_of(epochs[0]), seconds_of(epochs[1])
    return (long - short) / ((epochs[1] - epochs[0]) * steps_per_epoch) * 1e6


def main(repeats: int, device: str) -> None:
    """Print one table."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*")
    table = Table(title=f"microseconds per training step, batch 64, {device}, medians of {repeats} [min, max]")
    for heading in ("model", "implementation", "us per step", "per model", "against raw", "against plain Lightning"):
        table.add_column(heading, justify="left" if heading in ("model", "implementation") else "right")
    for name, overrides, epochs, replicas in CASES:
        config = compose(["tracking=off", f"trainer={device}", "trainer.curve_points=1", *overrides])
        place = device_of(config.trainer)
        steps = -(-sum(config.split.dataset_sizes()) // 64)
        fits: dict[str, tuple[Callable[[int], float], int]] = {
            "raw PyTorch": (lambda e, c=config, p=place: raw(c, e, p), 1),
            "plain Lightning": (lambda e, c=config, p=place: plain_lightning(c, e, p), 1),
        }
        for n in replicas:
            fits[f"laboratory, {n} model{'s' * (n > 1)}"] = (
                lambda e, c=config, p=place, n=n: laboratory(c, e, p, n),
                n,
            )
        values: dict[str, list[float]] = {label: [] for label in fits}
        for repeat in range(repeats + 1):
            for label, (run, _) in fits.items():
                value = slope(run, epochs, steps)
                if repeat:  # the first round warms up
                    values[label].append(value)
        median = {label: statistics.median(v) for label, v in values.items()}
        for label, (_, n) in fits.items():
            spread = f"{median[label]:,.0f} [{min(values[label]):,.0f}, {max(values[label]):,.0f}]"
            each = median[label] / n
            against = [f"{each / median[other]:.2f}" for other in ("raw PyTorch", "plain Lightning")]
            table.add_row(name if label == "raw PyTorch" else "", label, spread, f"{each:,.0f}", *against)
        table.add_section()
    Console(width=120).print(table)


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    main(int(given.get("repeats", "3")), given.get("device", "cpu"))
