"""A trained network as a folder: a program with its preprocessing, weights, a loader, classes and a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from src.claims.cell import CellRuns, dtype_of
from src.comparison.pairing import RunRecord
from src.comparison.units import name_of, unit_of
from src.config import Config
from src.config.command import command
from src.data.stream import Bank, Samples
from src.errors import ConfigError
from src.io import write_files
from src.training.store.store import weights_digest

CHECKED = 256
"""Test samples whose outputs must be those of the trained network, bit for bit."""

LOADER = '''"""Loads the network of this folder; needs PyTorch {torch} or later, and nothing else."""

import json
from pathlib import Path

import torch

HERE = Path(__file__).parent
ABOUT = json.loads((HERE / "model.json").read_text())
network = torch.export.load(HERE / "model.pt2").module()


@torch.no_grad()
def predict(x):
    """{outputs} of inputs {shape}: {inputs}."""
    return network(torch.as_tensor(x, dtype=torch.{dtype}))
'''


class Pipeline(nn.Module):
    """A network behind the scaling of its inputs: takes the rows of a source as they are (`Bank.scale`)."""

    def __init__(self, network: nn.Module, bank: Bank, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype
        self.is_bytes = bank.x.dtype == torch.uint8
        self.mean: Tensor | None
        self.std: Tensor | None
        shape = (1, -1) + (1,) * (bank.x.ndim - 2)
        for name, values in (("mean", bank.mean), ("std", bank.std)):
            self.register_buffer(name, None if values is None else values.to(dtype).view(shape))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype)
        if self.is_bytes:
            x = x / 255
        if self.mean is not None and self.std is not None:
            x = (x - self.mean) / self.std
        outputs: Tensor = self.network(x)
        return outputs


def write_package(
    cell: CellRuns, run: RunRecord, weights: Mapping[str, Tensor], folder: Path, notes: Sequence[str]
) -> Pipeline:
    """Writes the folder of one run, loads it by its own loader, and compares outputs; returns the network.

    Raises ConfigError if PyTorch cannot write the network as a program.
    """
    stream = cell.factory.build(run.seed)
    samples = next(pool for pool in stream.test.pools if len(pool))
    rows = samples.bank.x[samples.rows[:CHECKED]]
    network = cell.model(stream, weights)
    pipeline = Pipeline(network, samples.bank, dtype_of(weights)).eval()
    batch = torch.export.Dim("batch")
    try:
        program = torch.export.export(pipeline, (rows[:2],), dynamic_shapes=({0: batch},))
    except Exception as error:  # whatever the tracer runs into in a user's network
        reason = " ".join(str(error).split())[:300]
        problem = f"the network cannot be written as a program ({reason}); avoid branches in its forward"
        raise ConfigError("arch", cell.config.arch.name, problem) from error
    about = _about(cell, run, samples, weights)
    shape = f"[n, {', '.join(map(str, stream.input_shape))}]"
    outputs = (
        f"Scores [n, {stream.n_outputs}] of the classes" if about["classes"] else f"Predictions [n, {stream.n_outputs}]"
    )
    dtype = about["input"]["dtype"]
    loader = LOADER.format(
        torch=torch.__version__.partition("+")[0],
        shape=shape,
        outputs=outputs,
        dtype=dtype,
        inputs=about["input"]["content"],
    )
    files: dict[str, bytes | str] = {
        "weights.safetensors": save({name: tensor.contiguous() for name, tensor in weights.items()}),
        "load.py": loader,
        "model.json": json.dumps(about, indent=1) + "\n",
        "README.md": _card(cell, run, about, notes, [len(part) for part in stream.train]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    torch.export.save(program, folder / "model.pt2")
    write_files(folder, files)
    with torch.no_grad():
        expected = network(samples.bank.scale(rows, dtype_of(weights)))
    if not torch.equal(loaded(folder)(rows), expected):
        raise RuntimeError(f"{folder} gives other outputs than the trained network")
    return pipeline


def loaded(folder: Path) -> Any:
    """The function `predict` of a package, from its loader."""
    namespace: dict[str, Any] = {"__file__": str(folder / "load.py")}
    exec(compile((folder / "load.py").read_text(), folder / "load.py", "exec"), namespace)
    return namespace["predict"]


def _about(cell: CellRuns, run: RunRecord, samples: Samples, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Classes, and what the program expects and does before the network, as plain JSON."""
    bank = samples.bank
    is_image, is_bytes = bank.x.ndim == 4, bank.x.dtype == torch.uint8
    columns = [vars(column) for column in getattr(cell.config.data, "columns", ())]
    content = (
        "columns of the table, scaled and coded as in training" if columns else "features as the source gives them"
    )
    if is_image:
        content = f"pixels {'0..255' if is_bytes else '0..1'}"
        channels, height, width = bank.input_shape
        content += (
            f", {'grey' if channels == 1 else 'RGB' if channels == 3 else f'{channels} channels'}, {height}x{width}"
        )
    scale = {name: None if (values := getattr(bank, name)) is None else values.tolist() for name in ("mean", "std")}
    return {
        "classes": None if cell.factory.class_names is None else list(cell.factory.class_names),
        "input": {
            "shape": list(bank.input_shape),
            "dtype": str(bank.x.dtype).removeprefix("torch."),
            "content": content,
        },
        "inside_the_program": {"divided_by": 255 if is_bytes else 1, **scale},
        **({"columns": columns} if columns else {}),
        "arch": cell.config.arch.name,
        "weights": weights_digest(weights),
        "sweep": run.sweep,
        "cell": run.cell,
        "run": run.run,
        "regime": run.regime,
        "seed": run.seed,
    }


def _preparation(config: Config) -> list[str]:
    """How a file of the user becomes an input, for the model card."""
    lines = config.data.preparation
    return [f"A FILE of yours, prepared as in training:\n```\n{lines}\n```"] if lines else []


def _card(cell: CellRuns, run: RunRecord, about: Mapping[str, Any], notes: Sequence[str], sizes: Sequence[int]) -> str:
    """The model card, in Markdown. `sizes`: training samples of each data set."""
    metrics = [
        f"| {name_of(name)} | {unit_of(name).value(value)} {unit_of(name).of_values} |"
        for name in run.result["metrics"]
        if name.startswith("test/") and name.count("/") == 2 and (value := run.metric(name)) is not None
    ]
    classes = ", ".join(about["classes"]) if about["classes"] else "none: it predicts numbers"
    data = [f"Dataset {k} ({n:,} samples)" for k, n in enumerate(sizes, start=1)]
    scale = about["inside_the_program"]
    by_program = " The program scales them itself." if scale["divided_by"] != 1 or scale["mean"] is not None else ""
    lines = [
        f"# {run.sweep}: {run.regime}, seed {run.seed}",
        f"A network `{about['arch']}`, trained by the regime {run.regime} on {' and '.join(data)}.",
        *notes,
        f"Classes: {classes}.",
        f"Inputs: {about['input']['shape']}, {about['input']['dtype']}, {about['input']['content']}.{by_program}",
        *_preparation(cell.config),
        "```\nfrom load import predict, ABOUT\nscores = predict(x)\n```",
        "\n".join(["| on held-out test data | |", "|---|---:|", *metrics]),
        "Test data follow the distribution of the training data; elsewhere these numbers say little.",
        f"The cell again:\n```\n{command(cell.config)}\n```",
        f"Weights {about['weights']}, cell {run.cell}, run {run.run}. `weights.safetensors` has the network's state "
        "dict.",
    ]
    return "\n\n".join(lines) + "\n"
