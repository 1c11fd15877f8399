"""The plain baseline for a grid: a Lightning Trainer per run, a DataLoader over tensors, MLflow on SQLite, checkpoints.

    python -m benchmarks.plain [folder=DIR] [per_stratum=3] [ratios= imbalances= epochs= seeds= size=]

Trains a sample of the grid's runs, `per_stratum` of every (epochs, regime), spread evenly over ratios, imbalances and seeds,
one after another in this process, and prints their seconds as JSON. `benchmarks.grid` scales them to the whole grid.
"""

from __future__ import annotations

import itertools
import json
import logging
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import MLFlowLogger
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from benchmarks.harness import GRID_FLAGS, Grid, flags, grid_of
from src.cells.resolve import resolve
from src.config import Config, compose
from src.data.stream import Samples, Stream
from src.models.build import build_model

REPLAYED = 0.1


class PlainModule(pl.LightningModule):
    """A classifier that trains on `stages`, `epochs` of each, in the style of Lightning's documentation."""

    def __init__(self, model: nn.Module, stages: list[DataLoader[Any]], epochs: int, *, freeze: bool) -> None:
        super().__init__()
        self.model, self.stages, self.epochs, self.freezes = model, stages, epochs, freeze

    def train_dataloader(self) -> DataLoader[Any]:
        """Data of the current stage; the Trainer reloads it at every stage's start (`reload_dataloaders_every_n_epochs`)."""
        return self.stages[min(self.current_epoch // self.epochs, len(self.stages) - 1)]

    def on_train_epoch_start(self) -> None:
        """Freeze the first layer when the second stage begins."""
        if self.freezes and self.current_epoch == self.epochs:
            next(m for m in self.model.modules() if isinstance(m, nn.Linear)).requires_grad_(False)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Cross entropy, logged once an epoch."""
        loss = nn.functional.cross_entropy(self.model(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Accuracy and loss."""
        self._log_metrics("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Accuracy and loss."""
        del batch_idx
        self._log_metrics("test", batch)

    def _log_metrics(self, of: str, batch: tuple[Tensor, Tensor]) -> None:
        outputs = self.model(batch[0])
        self.log(f"{of}/loss", nn.functional.cross_entropy(outputs, batch[1]))
        self.log(f"{of}/accuracy", (outputs.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def stages_of(regime: str, stream: Stream) -> list[Dataset[Any]]:
    """The data of every stage of a regime."""
    first, second = (_dataset(samples) for samples in stream.train)
    if regime == "combined":
        return [ConcatDataset([first, second])]
    if regime == "replay":
        n_old = round(REPLAYED * len(second))
        old = Subset(first, torch.randint(len(first), (n_old,)).tolist())
        return [first, ConcatDataset([old, Subset(second, range(len(second) - n_old))])]
    return [first, second]


def _dataset(samples: Samples) -> TensorDataset:
    return TensorDataset(samples.inputs(), samples.y)


def train(config: Config, regime: str, seed: int, epochs: int, folder: Path) -> float:
    """Seconds of one run, from its data to the end of its test."""
    start = time.perf_counter()
    stream = resolve(config).streams.build(seed)
    torch.manual_seed(seed)
    loaders = [DataLoader(data, batch_size=64, shuffle=True) for data in stages_of(regime, stream)]
    model = build_model(config.arch, stream.input_shape, stream.n_outputs, seed)
    module = PlainModule(model, loaders, epochs, freeze=regime == "freeze")
    logger = MLFlowLogger("plain", run_name=f"{regime}-{seed}", tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    logger.log_hyperparams({"regime": regime, "seed": seed, "epochs": epochs, **config.axes()})
    trainer = pl.Trainer(
        max_epochs=epochs * len(loaders),
        reload_dataloaders_every_n_epochs=epochs,
        logger=logger,
        default_root_dir=folder,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    held_out = (DataLoader(_dataset(part.pools[0]), batch_size=1024) for part in (stream.val, stream.test))
    val, test = held_out
    trainer.fit(module, val_dataloaders=val)
    trainer.test(module, test, verbose=False)
    return time.perf_counter() - start


def strata(grid: Grid, per_stratum: int) -> dict[str, list[tuple[float, float, int]]]:
    """The runs to measure: for every ``regime/epochs``, (ratio, imbalance, seed) spread evenly over the grid."""
    places = list(itertools.product(grid.ratios, grid.imbalances, range(grid.seeds)))
    n = min(per_stratum, len(places))
    chosen = [places[(2 * k + 1) * len(places) // (2 * n)] for k in range(n)]
    return {f"{regime}/{epochs}": chosen for epochs in grid.epochs for regime in grid.regimes}


def main() -> None:
    """Print ``{"seconds": {stratum: [...]}, "composing": s}``; the time of Hydra, which the baseline would not need, is
    separate. The first run is repeated: its first time is start-up (it creates the database and loads modules)."""
    given = flags({"folder": "", "per_stratum": "3", **GRID_FLAGS}, __doc__ or "")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    grid = grid_of(given)
    seconds: dict[str, list[float]] = {}
    composing = 0.0
    warm = False
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(given["folder"] or scratch)
        for stratum, places in strata(grid, int(given["per_stratum"])).items():
            regime, epochs = stratum.split("/")
            for ratio, imbalance, seed in places:
                start = time.perf_counter()
                cell = [f"split.size={grid.size}", f"split.ratio={ratio:g}", f"split.imbalance={imbalance:g}"]
                config = compose([*cell, f"stopping.epochs={epochs}"])
                composing += time.perf_counter() - start
                if not warm:
                    train(config, regime, seed, int(epochs), folder)
                    warm = True
                seconds.setdefault(stratum, []).append(train(config, regime, seed, int(epochs), folder))
    print(json.dumps({"seconds": seconds, "composing": composing}))


if __name__ == "__main__":
    main()
