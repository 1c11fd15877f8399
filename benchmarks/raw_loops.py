"""What the laboratory is measured against on a GPU: a plain training loop, the same as one CUDA graph, and matrix products.

The loops are what a careful user writes: tensors on the device, batches by index, SGD with momentum, channels last for
convolutions in bf16, no deterministic algorithms, no value read back. On a CPU, which has no graphs, the step of the graph
runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from src.config import Config
from src.models.build import build_model
from src.training.devices import Device
from src.training.plan import Node

WARM_UP = 3


def waiting(device: torch.device) -> Callable[[], None]:
    """Waits until the device has done what was started on it."""
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)


def raw_loop(config: Config, node: Node, device: Device, *, graph: bool) -> Callable[[int], None]:
    """A training loop over the data of `node`, at the configuration's precision: makes so many updates of one model."""
    torch.use_deterministic_algorithms(False)  # Lightning sets it for the whole process
    place, size = device.torch_device, int(config.optimizer.batch_size)
    table = torch.cat([part.inputs() for part in node.data.parts]).to(place)
    labels = node.data.labels.to(place)
    low = config.trainer.precision == "bf16-mixed"
    model = build_model(config.arch, table.shape[1:], node.stream.n_outputs, 0).to(place).train()
    layout = torch.contiguous_format
    if low and any(isinstance(module, nn.Conv2d) for module in model.modules()):
        layout = torch.channels_last
        model = model.to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, foreach=place.type == "cuda")

    def step(rows: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(place.type, torch.bfloat16, enabled=low, cache_enabled=not graph):
            x = table.index_select(0, rows)
            outputs = model(x.contiguous(memory_format=layout) if x.ndim == 4 else x)
            loss = nn.functional.cross_entropy(outputs, labels.index_select(0, rows))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    batches = _batches(len(table), size, place)
    update = _captured(step, next(batches)) if graph and place.type == "cuda" else step

    def train(steps: int) -> None:
        for _ in range(steps):
            update(next(batches))

    return train


def _batches(n: int, size: int, device: torch.device) -> Iterator[Tensor]:
    """Rows of whole batches, in a new order every epoch."""
    while True:
        yield from torch.randperm(n, device=device)[: n - n % size].split(size)


def _captured(step: Callable[[Tensor], None], example: Tensor) -> Callable[[Tensor], None]:
    """The step as one graph that reads its rows from a buffer."""
    rows, stream, graph = example.clone(), torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step(rows)
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        step(rows)

    def replay(_: Callable[[Tensor], None], chosen: Tensor) -> None:
        rows.copy_(chosen)
        graph.replay()

    return partial(replay, step)  # with the step: a graph keeps none of the tensors whose memory it uses


def matrix_products(device: torch.device, precision: str, size: int) -> tuple[Callable[[int], None], int]:
    """A loop of square matrix products in the type that `precision` computes in, and the operations of one product."""
    dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty(size, size, device=device, dtype=dtype)

    def train(steps: int) -> None:
        for _ in range(steps):
            torch.mm(a, b, out=out)

    return train, 2 * size**3
