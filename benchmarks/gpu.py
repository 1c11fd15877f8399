"""Throughput of groups of models on a GPU, for a CUDA machine with its own PyTorch.

    python -m benchmarks.gpu [device=cuda] [models=mlp,cnn,resnet18] [replicas=1,2,4,...,512] [steps=30] [side=32]
                             [channels=3] [batch=64] [precisions=32,bf16-mixed] [workers=1,2,4] [repeats=3]

Measures updates per second of all models of a group, on random images of CIFAR-10's shape, through the complete fit of a sweep
(feed on the device, Lightning, stopping rule). Values are slopes between a short and a long fit, so set-up does not count.
Then measures one ResNet-18 at every precision against a raw loop, and several processes on one device, each with the best
group. Groups that do not fit into memory are omitted. Needs neither Hydra nor MLflow: torch, pytorch-lightning, numpy,
PyYAML, safetensors, filelock and rich. At most ten minutes; `device=cpu` runs the same code.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from benchmarks.harness import flags, show, spread
from src.config import Config, parse
from src.data.source import Source
from src.data.split import load
from src.data.stream import Stream
from src.io import CONF_DIR
from src.models.build import build_model
from src.stopping.epochs import EpochsStopping
from src.training.devices import device_of
from src.training.fit import fit
from src.training.plan import Node, make_plan

FLAGS = {
    "device": "cuda",
    "models": "mlp,cnn,resnet18",
    "replicas": "1,2,4,8,16,32,64,128,256,512",
    "steps": "30",
    "side": "32",
    "channels": "3",
    "batch": "64",
    "precisions": "32,bf16-mixed",
    "workers": "1,2,4",
    "repeats": "3",
}
WORKERS_TRAIN = "cnn"
"""Architecture in the table of processes."""


def configured(arch: str, images: Path, given: dict[str, str], precision: str = "32") -> Config:
    """Compose conf/config.yaml with this benchmark's choices, without Hydra, which the machine may lack."""
    top = yaml.safe_load((CONF_DIR / "config.yaml").read_text())
    groups = {name: choice for entry in top["defaults"] if isinstance(entry, dict) for name, choice in entry.items()}
    chosen: dict[str, Any] = {name: choice for name, choice in groups.items() if choice and "/" not in name}
    chosen |= {"data": "arrays", "arch": arch, "trainer": "cpu" if given["device"] == "cpu" else "gpu"}
    mapping = {key: value for key, value in top.items() if key not in ("defaults", "hydra")}
    for group, choice in chosen.items():
        mapping[group] = yaml.safe_load((CONF_DIR / group / f"{choice}.yaml").read_text())
    mapping["data"] |= {"root": str(images.parent), "path": str(images)}
    n = int(given["batch"]) * int(given["steps"])
    mapping["split"] |= {"size": n, "val": 0.02, "test": 0.02}
    mapping["trainer"] |= {"precision": precision, "curve_points": 1}
    mapping["optimizer"]["batch_size"] = int(given["batch"])
    mapping["regimes"] = ["combined"]
    return parse(mapping)


def draw_images(path: Path, given: dict[str, str]) -> None:
    """Write random images of ten classes; training on them takes as long as on real images."""
    n = int(1.3 * int(given["batch"]) * int(given["steps"])) + 200
    rng = np.random.default_rng(0)
    side, channels = int(given["side"]), int(given["channels"])
    x = rng.integers(0, 256, (n, channels, side, side), dtype=np.uint8)
    np.savez(path, x=x, y=np.arange(n) % 10)


def nodes_of(config: Config, n: int) -> list[Node]:
    """The combined stage of `n` seeds; the seeds share a few streams, because drawing data is slow."""
    loaded: dict[object, Source] = {}
    factory = load(config.data, config.split, Path(config.multirun) / ".cache", loaded)
    streams: dict[int, Stream] = {seed: factory.build(seed) for seed in range(min(n, 4))}
    plan = make_plan(
        dataclasses.replace(config, split=factory.split), streams, [(config.regimes[0], s) for s in streams]
    )
    few = list(plan.nodes.values())
    return [few[k % len(few)] for k in range(n)]


def updates_per_second(config: Config, n: int, epochs: tuple[int, int]) -> float:
    """Updates per second of all `n` models together: the slope between a short and a long fit."""
    place = device_of(config.trainer)
    seconds, updates = [], []
    for length in epochs:
        longer = dataclasses.replace(config, stopping=EpochsStopping(name="epochs", epochs=length))
        nodes = nodes_of(longer, n)
        shape = nodes[0].stream.input_shape
        models = [build_model(config.arch, shape, 10, seed % 4) for seed in range(n)]
        start = time.perf_counter()
        fit(longer, nodes, models, place)
        _wait(place.torch_device)
        seconds.append(time.perf_counter() - start)
        updates.append(n * nodes[0].length.updates)
    return (updates[1] - updates[0]) / (seconds[1] - seconds[0])


def raw_updates_per_second(config: Config, epochs: int) -> float:
    """Updates per second of a plain loop over tensors on the device: one model, at the configuration's precision."""
    place = device_of(config.trainer)
    (node,) = nodes_of(config, 1)
    x = torch.cat([part.inputs() for part in node.data.parts]).to(place.torch_device)
    y = node.data.labels.to(place.torch_device)
    model = build_model(config.arch, x.shape[1:], 10, 0).to(place.torch_device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    n_steps = 0
    start = 0.0
    for epoch in range(epochs + 1):
        if epoch == 1:  # the first one warms up
            _wait(place.torch_device)
            start = time.perf_counter()
            n_steps = 0
        for rows in torch.randperm(len(x), device=place.torch_device).split(config.optimizer.batch_size):  # type: ignore[arg-type]
            optimizer.zero_grad()
            with torch.autocast(
                place.torch_device.type, torch.bfloat16, enabled=config.trainer.precision == "bf16-mixed"
            ):
                loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            n_steps += 1
    _wait(place.torch_device)
    return n_steps / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _quiet() -> None:
    import logging
    import warnings

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


# ------------------------------------------------------------------------------------------------ the tables


def groups_of_models(images: Path, given: dict[str, str]) -> dict[str, int]:
    """Print the table of groups; return the best group size of every architecture."""
    rows, best = [], {}
    for arch in given["models"].split(","):
        config = configured(arch, images, given)
        medians: dict[int, float] = {}
        for n in map(int, given["replicas"].split(",")):
            try:
                values = [updates_per_second(config, n, (1, 3)) for _ in range(int(given["repeats"]))]
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                rows.append([arch, str(n), "does not fit", "", ""])
                break
            medians[n] = statistics.median(values)
            steps = config.stopping.amount
            models = medians[n] / (steps * int(given["steps"]))
            rows.append(
                [arch, str(n), spread(values, 0), f"{models:,.2f}", f"{medians[n] / next(iter(medians.values())):.2f}"]
            )
        best[arch] = max(medians, key=lambda n: medians[n])
    heading = "models per second, at the default epochs"
    show(
        f"groups of models on {given['device']}",
        ("model", "models", "updates per second", heading, "relative to 1"),
        rows,
    )
    return best


def against_raw(images: Path, given: dict[str, str]) -> None:
    """Compare one ResNet-18 at every precision with a raw loop."""
    rows = []
    for precision in given["precisions"].split(","):
        config = configured("resnet18", images, given, precision)
        ours, raw = [], []
        for _ in range(int(given["repeats"])):  # alternating
            raw.append(raw_updates_per_second(config, 2))
            ours.append(updates_per_second(config, 1, (1, 3)))
        ratio = [a / b for a, b in zip(raw, ours, strict=True)]
        rows.append([precision, spread(raw, 1), spread(ours, 1), spread(ratio, 2)])
    show("one ResNet-18: updates per second", ("precision", "raw loop", "laboratory", "time, laboratory / raw"), rows)


def _worker(images: Path, given: dict[str, str], n: int, ready: Any, go: Any, out: Any) -> None:
    _quiet()
    config = configured(WORKERS_TRAIN, images, given)
    updates_per_second(config, n, (1, 2))
    ready.put(True)
    go.wait()
    out.put(updates_per_second(config, n, (1, 3)))


def processes(images: Path, given: dict[str, str], n: int) -> None:
    """Measure several processes on one device, each with a group of `n` models."""
    rows = []
    context = multiprocessing.get_context("spawn")
    for count in map(int, given["workers"].split(",")):
        ready, out, go = context.Queue(), context.Queue(), context.Event()
        workers = [context.Process(target=_worker, args=(images, given, n, ready, go, out)) for _ in range(count)]
        for worker in workers:
            worker.start()
        for _ in workers:
            ready.get(timeout=300)
        go.set()
        rates = [out.get(timeout=300) for _ in workers]
        for worker in workers:
            worker.join()
        rows.append([str(count), f"{sum(rates):,.0f}"])
    title = f"processes on one device, each with a group of {n} {WORKERS_TRAIN} models"
    show(title, ("processes", "updates per second in total"), rows)


def main() -> None:
    """Print the tables; exit with a message if there is no GPU."""
    given = flags(FLAGS, __doc__ or "")
    if given["device"] == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device is visible; device=cpu runs the same code")
    _quiet()
    name = torch.cuda.get_device_name() if given["device"] == "cuda" else "CPU"
    print(
        f"{name}, torch {torch.__version__}, batch {given['batch']}, {given['channels']}x{given['side']}x{given['side']}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch) / "images.npz"
        draw_images(images, given)
        best = groups_of_models(images, given)
        if given["precisions"]:
            against_raw(images, given)
        if given["workers"]:
            processes(images, given, best.get(WORKERS_TRAIN, 1))


if __name__ == "__main__":
    main()
