"""A run's files: metrics, curves and provenance; result.json is written last."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from src.config import SCHEMA_VERSION, Config
from src.data.stream import Stream
from src.evaluation.flops import training_flops
from src.evaluation.matrix import average_accuracy, backward_transfer, forgetting, forward_transfer, learning_accuracy
from src.evaluation.metrics import METRICS, REGRESSION_METRICS, constant_loss
from src.io import CONF_DIR, read_json_or, with_checksum, write_atomically, write_files
from src.models.build import build_model
from src.regimes.catalog import RegimeConfig
from src.training.devices import Device
from src.training.plan import Node, Run, StagePlan
from src.training.result import Ledger, StageResult
from src.training.scoring import Scores, score_stages, set_names, training_sets, validation_curves
from src.training.store.store import weights_digest

if TYPE_CHECKING:
    import pyarrow as pa

    from src.training.execute import Execution

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "optuna", "mlflow", "numpy")

NUMBERS: Mapping[str, type[np.number[Any]]] = {"step": np.int64, "stage": np.int32, "value": np.float64}
"""The columns of history.parquet with numbers; the others are texts."""


def identity(config: Config, cell: str, run: str, regime: RegimeConfig, seed: int) -> dict[str, Any]:
    """The identity of a run: the part that result.json and failed.json share."""
    return {
        "schema": SCHEMA_VERSION,
        "sweep": config.sweep,
        "cell": cell,
        "run": run,
        "regime": regime.label,
        "regime_name": regime.name,
        "knobs": dict(regime.knobs),
        "seed": seed,
        "axes": config.axes(),
    }


@dataclass(frozen=True)
class StageScores:
    """Scores of stages by key, without diverged stages: `test` of every stage, `train` of the last stage of every run.

    `initial`: scores of every seed's untrained network, for forward transfer on more than two data sets."""

    test: Mapping[str, Scores]
    train: Mapping[str, Scores]
    initial: Mapping[int, Scores]
    undefined: frozenset[str] = frozenset()
    """Stages whose outputs or loss on a set of samples are not bounded, though their weights are."""

    def diverged(self, keys: Sequence[str], execution: Execution) -> bool:
        """Whether one of a run's stages diverged: its weights, a training loss, or an output or loss when scored."""
        return any(key in self.undefined or execution.diverged(key) for key in keys)


def score_all(config: Config, plan: StagePlan, execution: Execution, device: Device) -> StageScores:
    """Scores every stage of the plan. Test sets are read only here, after all training."""
    last = {run.stages[-1] for run in plan.runs}
    undefined: set[str] = set()

    def scored(of: Literal["test", "train"], wanted: set[str]) -> dict[str, Scores]:
        scores: dict[str, Scores] = {}
        by_outputs: dict[tuple[int, ...], list[str]] = {}
        for key, node in plan.nodes.items():
            if key in wanted and key in execution.results and not execution.diverged(key):
                by_outputs.setdefault(node.outputs, []).append(key)
        for outputs, keys in by_outputs.items():
            stages = [(plan.nodes[key].stream, execution.results[key].weights) for key in keys]
            rows = score_stages(config, stages, of, device, outputs)
            scores.update(zip(keys, rows, strict=True))
            for key, (stream, _), row in zip(keys, stages, rows, strict=True):
                sets = (stream.test if of == "test" else training_sets(stream.train)).sets
                if any(row[f"{name}/loss"] is None for name in sets):
                    undefined.add(key)
        return scores

    initial = _score_untrained(config, plan, device) if config.split.parts > 2 else {}
    test, train = scored("test", set(plan.nodes)), scored("train", last)
    return StageScores(test, train, initial, frozenset(undefined))


def _score_untrained(config: Config, plan: StagePlan, device: Device) -> dict[int, Scores]:
    """Test scores of the initial weights of every seed."""
    streams = _streams(plan)
    models = [build_model(config.arch, s.input_shape, s.n_outputs, s.seed, device.dtype) for s in streams.values()]
    stages = [(stream, model.state_dict()) for stream, model in zip(streams.values(), models, strict=True)]
    return dict(zip(streams, score_stages(config, stages, "test", device), strict=True))


def _streams(plan: StagePlan) -> dict[int, Stream]:
    """The stream of every seed."""
    return {node.seed: node.stream for node in plan.nodes.values()}


def result_of(config: Config, plan: StagePlan, run: Run, execution: Execution, scores: StageScores) -> dict[str, Any]:
    """The `result` part of result.json, equal bit for bit for equal runs."""
    done = [key for key in run.stages if key in execution.results]
    nodes = [plan.nodes[key] for key in done]
    stages = [execution.results[key] for key in done]
    diverged = scores.diverged(done, execution)
    stream = nodes[0].stream
    names = set_names(config.split.parts)
    matrix: list[list[float | None]] = []
    tests = [*names, *(name for name in stream.test.sets if name not in names)]
    kinds = (*METRICS, *(REGRESSION_METRICS if stream.train[0].y.is_floating_point() else ()))
    metrics: dict[str, float | None] = {f"test/{name}/{metric}": None for name in tests for metric in kinds}
    metrics |= {"forgetting": None, "learning_accuracy": None}
    if not diverged:
        by_stage = [scores.test[key] for key in done]
        matrix = [[s[f"{name}/accuracy"] for name in names[:-1]] for s in by_stage]
        metrics |= {f"test/{name}": value for name, value in by_stage[-1].items()}
        if "new" in tests:
            metrics["harmonic_accuracy"] = _harmonic(metrics["test/old/accuracy"], metrics["test/new/accuracy"])
        train = scores.train[done[-1]].items()
        metrics |= {f"train/{name}": v for name, v in train if name.split("/")[1] in ("accuracy", "loss")}
        initial = [scores.initial[run.seed][f"{name}/accuracy"] for name in names[:-1]] if scores.initial else None
        counted = [(one.ledger.online, one.ledger.samples) for one in stages if one.ledger.online is not None]
        if counted:
            metrics["online_accuracy"] = sum(share * n for share, n in counted) / sum(n for _, n in counted)
        metrics |= _transfer(matrix, [_learned(node) for node in nodes], initial)
    flops = training_flops(config.arch, stream.input_shape, stream.n_outputs)
    samples = sum(stage.ledger.samples for stage in stages)
    return {
        "metrics": metrics,
        "accuracy_matrix": matrix,
        "stages": [_stage_entry(config, node, stage) for node, stage in zip(nodes, stages, strict=True)],
        "cost": {
            "updates": sum(stage.ledger.updates for stage in stages),
            "samples": samples,
            "flops": float(flops * (samples + sum(stage.ledger.extra_passes for stage in stages))),
        },
        "weights": weights_digest(stages[-1].weights),
        "stream": stream.digest,
        "imbalance": stream.imbalance,
        "class_counts": [list(counts) for counts in stream.class_counts],
    }


def _transfer(
    matrix: list[list[float | None]], parts: list[list[int]], initial: list[float | None] | None
) -> dict[str, float | None]:
    """Forgetting and learning accuracy; with more than two data sets, where `initial` is known, also average accuracy,
    forward transfer and backward transfer, which with two stages is forgetting with its sign turned."""
    metrics = {"forgetting": forgetting(matrix, parts), "learning_accuracy": learning_accuracy(matrix, parts)}
    if initial is not None:
        metrics["average_accuracy"] = average_accuracy(matrix)
        metrics["backward_transfer"] = backward_transfer(matrix, parts)
        metrics["forward_transfer"] = forward_transfer(matrix, parts, initial)
    return metrics


def _harmonic(old: float | None, new: float | None) -> float | None:
    """Harmonic mean of the accuracies on old and new classes: 0 where one of them is."""
    if old is None or new is None:
        return None
    return 2 * old * new / (old + new) if old + new else 0.0


def _learned(node: Node) -> list[int]:
    """The data sets in a stage's mixture that have samples."""
    return [part for part in node.stage.mixture.parts if len(node.stream.train[part])]


def _stage_entry(config: Config, node: Node, stage: StageResult) -> dict[str, Any]:
    ledger = stage.ledger
    by_length = ledger.stopped_by == "length"  # cells with the rules `epochs` and `budget` share stages
    names = ("updates", "samples", "epochs", "stopped_by", "converged", "best_epoch")
    entry = {"parts": _learned(node), **{name: getattr(ledger, name) for name in names}}
    return entry | ({"stopped_by": config.stopping.name} if by_length else {})


def constant_losses(config: Config, plan: StagePlan) -> dict[int, dict[str, float]]:
    """The lowest training loss of a constant prediction on each data set of a seed: what its runs must beat."""

    def of(stream: Stream) -> dict[str, float]:
        parts = [(f"d{number}", samples.y) for number, samples in enumerate(stream.train, start=1) if len(samples)]
        return {name: constant_loss(y, stream.n_outputs, config.loss) for name, y in parts}

    return {seed: of(stream) for seed, stream in _streams(plan).items()}


def provenance_of(run: Run, execution: Execution, mine: set[str], fingerprint: str) -> dict[str, Any]:
    """The `provenance` part, which may differ between equal runs. `mine`: stages charged to this run.

    `fingerprint`: the kind of this machine, which scored the run; `machines` has those that trained each stage.
    """
    ledgers = {key: execution.results[key].ledger for key in run.stages if key in execution.results}
    first = next(iter(ledgers.values()))
    return {
        "seconds": sum(ledger.seconds for ledger in ledgers.values()),
        "reused_samples": sum(execution.reused.get(k, 0) if k in mine else own.samples for k, own in ledgers.items()),
        "group": max(ledger.group for ledger in ledgers.values()),
        "split": next((ledger.split for ledger in ledgers.values() if ledger.split is not None), None),
        "engine": first.engine,
        "device": first.device,
        **_captures(list(ledgers.values())),
        "host": platform.node(),
        "fingerprint": fingerprint,
        "machines": [list(ledger.machines) for ledger in ledgers.values()],
        "git_commit": git_commit(),
        "versions": versions(),
        "stage_keys": list(run.stages),
        "finished_at": datetime.now(UTC).isoformat(),
    }


def _captures(ledgers: Sequence[Ledger]) -> dict[str, str]:
    """Whether the run's updates were replayed as CUDA graphs and, of the first stage that ran eagerly, why not."""
    eager = next((ledger.capture_reason for ledger in ledgers if ledger.capture == "eager"), None)
    if eager is not None:
        return {"capture": "eager", "capture_reason": eager}
    return {"capture": "graph"} if any(ledger.capture for ledger in ledgers) else {}


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"  # a machine may carry a build without its metadata
    return found


@functools.cache
def git_commit(project: Path = CONF_DIR.parent) -> str | None:
    """The commit of the project's own repository, with ``+changes`` if files differ from it.

    None elsewhere: the sources may lie, untracked or as a part, in the repository of something else.
    """

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=project, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != project.resolve():
            return None
        git("ls-files", "--error-unmatch", "src/training/run_files.py")
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


# ------------------------------------------------------------------------------------------------ curves


@dataclass(frozen=True)
class StageHistory:
    """The curves of a stage by name, each without the points where it is undefined: (updates, values)."""

    series: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]]
    updates: int

    @classmethod
    def of(cls, node: Node, stage: StageResult) -> StageHistory:
        """The training loss, and accuracy and loss on every validation set."""
        series = {"train/loss": stage.curves.train_loss, **validation_curves(node.stream, stage.curves)}
        kept = {name: np.isfinite(values) for name, values in series.items()}
        points = {name: (stage.curves.steps[kept[name]], values[kept[name]]) for name, values in series.items()}
        return cls(points, stage.ledger.updates)


def history_of(stages: Sequence[StageHistory]) -> dict[str, list[Any]]:
    """The curves of a run as columns (step, stage, name, value), on one axis of updates through all stages."""
    columns: dict[str, list[Any]] = {"step": [], "stage": [], "name": [], "value": []}
    offset = 0
    for number, stage in enumerate(stages):
        for name, (steps, values) in stage.series.items():
            columns["step"] += (steps + offset).tolist()
            columns["stage"] += [number] * len(steps)
            columns["name"] += [name] * len(steps)
            columns["value"] += values.tolist()
        offset += stage.updates
    return columns


# ------------------------------------------------------------------------------------------------ files


def write_run(folder: Path, body: Mapping[str, Any], history: Mapping[str, list[Any]], config_yaml: str) -> None:
    """Writes a run's folder; result.json comes last, so that its presence implies the rest.

    Raises AlreadyWritten if there is an undamaged one: another worker has written it meanwhile.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: _arrow_column(values, NUMBERS.get(name)) for name, values in history.items()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    files = {"config.yaml": config_yaml.encode(), "history.parquet": sink.getvalue().to_pybytes()}
    path = folder / "result.json"
    if path.exists() and "provenance" not in read_json_or(path):  # one that is written after this look stays
        path.unlink(missing_ok=True)  # a damaged one
    write_files(folder, {**files, path.name: to_json(with_checksum(body))}, once=True)
    (folder / "failed.json").unlink(missing_ok=True)


def _arrow_column(values: Sequence[Any], kind: type[np.number[Any]] | None) -> pa.Array:
    """A column of numbers of that kind, or of texts. `pa.array` would import pandas for it, which takes 0.25 s."""
    import pyarrow as pa

    if kind is not None:
        return pa.Array.from_buffers(
            pa.from_numpy_dtype(kind), len(values), [None, pa.py_buffer(np.array(values, kind))]
        )
    texts = [text.encode() for text in values]
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(b"".join(texts)))


def write_failure(folder: Path, who: Mapping[str, Any], error: str, trace: str) -> None:
    """Records why a run has no result; the next command retries it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "failed.json"
    attempts = read_json_or(path).get("attempts", 0)
    body = {**who, "error": error, "traceback": trace, "attempts": attempts + 1, "versions": versions()}
    write_atomically(path, to_json({**body, "failed_at": datetime.now(UTC).isoformat()}))


def to_json(body: Mapping[str, Any]) -> bytes:
    """Readable JSON. NaN and infinity are errors."""
    return (json.dumps(body, indent=1, allow_nan=False) + "\n").encode()
