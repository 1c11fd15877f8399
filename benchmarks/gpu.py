"""Training rates on a GPU: the laboratory, a raw loop and a raw CUDA graph of the same model, in turns, in one call.

    python -m benchmarks.gpu [device=cuda] [cases=resnet18/64/bf16-mixed/1+4+16,...] [workers=1,2,4] [repeats=3]
                             [seconds=2] [warm_up=1] [steps=64] [side=32] [channels=3] [product=8192]

A case is model/batch/precision/sizes of groups. Every value is the rate of one window of at least `seconds` inside one long
fit (feed, Lightning, stopping rule, as in a sweep), after `warm_up`, synchronised at both ends; the rows of a case take
turns, `repeats` times. A row whose values spread by more than 20 % of their median shows no median. FLOPs are those of
`src.evaluation.flops` (a multiply-add is two operations); the peak is that of square matrix products in the same call.
Then several processes on one device, with and without CUDA MPS where it starts without privileges. Needs neither Hydra nor
MLflow. At most ten minutes on a GPU; `device=cpu` runs the same code.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import logging
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import yaml

from benchmarks.harness import flags, show
from benchmarks.raw_loops import matrix_products, raw_loop, waiting
from benchmarks.windows import Window, WindowTimer, derived, shown
from src.config import Config, parse
from src.data.source import Source
from src.data.split import load
from src.evaluation.flops import training_flops
from src.io import CONF_DIR
from src.models.build import build_model
from src.stopping.epochs import EpochsStopping
from src.training import fit as fit_module
from src.training.devices import device_of
from src.training.monitor import StageMonitor
from src.training.plan import Node, make_plan

FLAGS = {
    "device": "cuda",
    "cases": "resnet18/64/bf16-mixed/1+4+16,resnet18/512/bf16-mixed/1+4,cnn/64/32/1+16+64+256,cnn/64/bf16-mixed/16+64,"
    "mlp/64/32/1+64+512",
    "workers": "1,2,4",
    "repeats": "3",
    "seconds": "2",
    "warm_up": "1",
    "steps": "64",
    "side": "32",
    "channels": "3",
    "product": "8192",
}
ENDLESS = 10**6
"""Epochs of a fit that ends with its window."""
RAW, GRAPH, ONE_BY_ONE = "raw eager loop", "raw graph loop", "laboratory, graph=off"


@dataclass(frozen=True)
class Case:
    """A model at one batch size and precision, and the sizes of the groups that train it."""

    arch: str
    batch: int
    precision: str
    groups: tuple[int, ...]

    @property
    def title(self) -> str:
        return f"{self.arch}, batch {self.batch}, precision {self.precision}"


@dataclass
class Row:
    """The rates of one implementation, of all its models together, in updates per second, and its largest memory."""

    name: str
    n_models: int
    rates: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    problem: str = ""
    capture: str = ""
    """How the laboratory's updates ran on a GPU: as a graph, or why eagerly."""

    @property
    def label(self) -> str:
        how = f" ({self.capture})" if self.capture and self.name != ONE_BY_ONE else ""
        return f"{self.name}, {self.n_models} model{'s' * (self.n_models > 1)}{how}"


def cases_of(text: str) -> list[Case]:
    """The cases of the command line."""
    words = [word.split("/") for word in text.split(",")]
    return [Case(arch, int(b), precision, tuple(map(int, groups.split("+")))) for arch, b, precision, groups in words]


def configured(case: Case, images: Path, given: Mapping[str, str], **trainer: Any) -> Config:
    """Compose conf/config.yaml with this benchmark's choices, without Hydra, which the machine may lack."""
    top = yaml.safe_load((CONF_DIR / "config.yaml").read_text())
    groups = {name: choice for entry in top["defaults"] if isinstance(entry, dict) for name, choice in entry.items()}
    chosen: dict[str, Any] = {name: choice for name, choice in groups.items() if choice and "/" not in name}
    chosen |= {"data": "arrays", "arch": case.arch, "trainer": "cpu" if given["device"] == "cpu" else "gpu"}
    mapping = {key: value for key, value in top.items() if key not in ("defaults", "hydra")}
    for group, choice in chosen.items():
        mapping[group] = yaml.safe_load((CONF_DIR / group / f"{choice}.yaml").read_text())
    mapping["data"] |= {"root": str(images.parent), "path": str(images)}
    mapping["split"] |= {"size": case.batch * int(given["steps"]), "val": 0.02, "test": 0.02}
    mapping["trainer"] |= {"precision": case.precision, "curve_points": 1, **trainer}
    mapping["optimizer"]["batch_size"] = case.batch
    mapping["regimes"] = ["combined"]
    return parse(mapping)


def draw_images(path: Path, n: int, side: int, channels: int) -> Path:
    """Write `n` random images of ten classes, for each class around a pattern of its own."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 10
    patterns = rng.integers(0, 128, (10, channels, side, side), dtype=np.uint8)
    np.savez(path, x=patterns[y] + rng.integers(0, 128, (n, channels, side, side), dtype=np.uint8), y=y)
    return path


def nodes_of(config: Config, n: int) -> list[Node]:
    """The combined stage of `n` seeds; the seeds share a few streams, because drawing data is slow."""
    loaded: dict[object, Source] = {}
    factory = load(config.data, config.split, Path(config.multirun) / ".cache", loaded)
    streams = {seed: factory.build(seed) for seed in range(min(n, 4))}
    longer = dataclasses.replace(
        config, split=factory.split, stopping=EpochsStopping(name="epochs", epochs=ENDLESS), multirun=config.multirun
    )
    few = list(make_plan(longer, streams, [(config.regimes[0], seed) for seed in streams]).nodes.values())
    return [few[k % len(few)] for k in range(n)]


class _WindowClosed(Exception):
    def __init__(self, window: Window, capture: str) -> None:
        super().__init__("the window has closed")
        self.window, self.capture = window, capture


def laboratory(config: Config, nodes: Sequence[Node], timer: WindowTimer) -> tuple[Window, str]:
    """The window of one fit of a group: updates of all its models, and how they ran."""

    class TimedMonitor(StageMonitor):
        def on_train_batch_end(self, *arguments: Any) -> None:
            super().on_train_batch_end(*arguments)
            if (window := timer.tick(self.module.n_done)) is not None:
                raise _WindowClosed(window, ": ".join(filter(None, self.module.capture)))

    device = device_of(config.trainer)
    shape, n_outputs = nodes[0].stream.input_shape, nodes[0].stream.n_outputs
    models = [build_model(config.arch, shape, n_outputs, seed) for seed in range(min(len(nodes), 4))]
    models += [copy.deepcopy(models[k % 4]) for k in range(len(models), len(nodes))]
    endless = dataclasses.replace(config, stopping=EpochsStopping(name="epochs", epochs=ENDLESS))
    try:
        with patch.object(fit_module, "StageMonitor", TimedMonitor):
            fit_module.fit(endless, nodes, models, device)
    except _WindowClosed as closed:
        window, capture = closed.window, closed.capture
    return dataclasses.replace(window, updates=window.updates * len(nodes)), capture


def measure(case: Case, images: Path, given: Mapping[str, str], until: float = math.inf) -> list[Row]:
    """The rows of a case, in turns. A turn starts only if the time of the last one is left `until` (`time.monotonic`)."""
    config = configured(case, images, given)
    device = device_of(config.trainer)
    wait = waiting(device.torch_device)
    nodes = nodes_of(config, max(case.groups))
    steps = min(32, int(given["steps"]))

    def timer() -> WindowTimer:
        return WindowTimer(float(given["warm_up"]), float(given["seconds"]), wait)

    def raw(graph: bool) -> tuple[Window, str]:
        return timer().of(raw_loop(config, nodes[0], device, graph=graph), steps), ""

    def ours(config: Config, n: int) -> tuple[Window, str]:
        return laboratory(config, nodes[:n], timer())

    rows: list[tuple[Row, Callable[[], tuple[Window, str]]]] = [
        (Row(RAW, 1), functools.partial(raw, False)),
        (Row(GRAPH, 1), functools.partial(raw, True)),
        (Row(ONE_BY_ONE, 1), functools.partial(ours, configured(case, images, given, graph="off"), 1)),
        *((Row("laboratory", n), functools.partial(ours, config, n)) for n in case.groups),
    ]
    last = 0.0
    for _ in range(int(given["repeats"])):
        started = time.monotonic()
        if started + last > until:
            break
        for row, window in rows:
            if not row.problem:
                _one(row, window, device.torch_device)
        last = time.monotonic() - started
    return [row for row, _ in rows]


def _one(row: Row, window: Callable[[], tuple[Window, str]], device: torch.device) -> None:
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    try:
        found, row.capture = window()
        row.rates.append(found.rate)
    except torch.cuda.OutOfMemoryError:
        row.problem = "does not fit into the memory"
    if on_gpu:
        row.peak_mib = max(row.peak_mib, torch.cuda.max_memory_allocated(device) / 2**20)
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()


def peak_of(precision: str, given: Mapping[str, str]) -> list[float]:
    """Operations per second of matrix products, one value a window."""
    device = torch.device("cpu" if given["device"] == "cpu" else "cuda")
    train, operations = matrix_products(device, precision, int(given["product"]))
    windows = (
        WindowTimer(float(given["warm_up"]), float(given["seconds"]), waiting(device)).of(train, 8)
        for _ in range(int(given["repeats"]))
    )
    return [operations * window.rate for window in windows]


HEADINGS = ("implementation", "updates/s", "images/s", "TFLOP/s", "of the peak", "against raw", "peak MiB")


def table_of(case: Case, rows: Sequence[Row], peak: Sequence[float], flops: int) -> list[list[str]]:
    """The cells of a case's table under `HEADINGS`; what is derived from unsteady values is left empty."""
    raw = next(row.rates for row in rows if row.name == RAW)
    cells = []
    for row in rows:
        memory = f"{row.peak_mib:,.0f}" if row.peak_mib else ""
        if not row.rates:
            cells.append([row.label, row.problem or "not measured: no time left", "", "", "", "", memory])
            continue
        images = derived(row.rates, case.batch)
        work = None if images is None else images * flops
        share = derived(row.rates, case.batch * flops, peak)
        ratio = derived(row.rates, 1, raw)
        cells.append(
            [
                row.label,
                shown(row.rates),
                "" if images is None else f"{images:,.0f}",
                "" if work is None else f"{work / 1e12:.3g}",
                "" if share is None else f"{share:.1%}",
                "" if ratio is None else f"{ratio:.2f}",
                memory,
            ]
        )
    return cells


def flops_of(case: Case, given: Mapping[str, str], images: Path) -> int:
    """Operations of one update per image."""
    side = int(given["side"])
    return training_flops(configured(case, images, given).arch, (int(given["channels"]), side, side), 10)


def n_images(cases: Sequence[Case], given: Mapping[str, str]) -> int:
    """Images that the largest of the cases trains on, with its validation and test sets."""
    return int(1.3 * max(case.batch for case in cases) * int(given["steps"])) + 200


def quiet() -> None:
    """Leave out what Lightning logs and warns about each fit."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


def name_of_device(given: Mapping[str, str]) -> str:
    """The device and torch's version. Exits with one line if there is no GPU."""
    if given["device"] == "cpu":
        return f"CPU, torch {torch.__version__}"
    if not torch.cuda.is_available():
        raise SystemExit("device=cuda: no CUDA device is visible; device=cpu runs the same code")
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"


def main() -> None:
    """Print a table for every case, then that of the processes."""
    given = flags(FLAGS, __doc__ or "")
    print(f"{name_of_device(given)}, images {given['channels']}x{given['side']}x{given['side']}")
    quiet()
    cases = cases_of(given["cases"])
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch) / "images.npz"
        draw_images(images, n_images(cases, given), int(given["side"]), int(given["channels"]))
        peaks = {precision: peak_of(precision, given) for precision in dict.fromkeys(case.precision for case in cases)}
        for precision, peak in peaks.items():
            print(f"matrix products, {precision}: {shown([value / 1e12 for value in peak], 2)} TFLOP/s")
        for case in cases:
            rows = measure(case, images, given)
            cells = table_of(case, rows, peaks[case.precision], flops_of(case, given, images))
            show(case.title, HEADINGS, cells)
        if given["workers"]:
            from benchmarks.gpu_slots import print_processes

            print_processes(next((case for case in cases if case.arch == "cnn"), cases[-1]), images, given)


if __name__ == "__main__":
    main()
