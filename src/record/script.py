"""Drives a training script of the user's own, stage by stage: what each stage trains on, resumption, failures and
costs.

A stage is a folder named by everything that it depends on: the command, its lists, the seed and the stages before it.
Regimes share equal stages, and a stage that is done is never run again.
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
import string
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from src.axes import AxisValue
from src.errors import ConfigError, foreign_file
from src.evaluation.matrix import forgetting
from src.io import digest, read_json_or, write_atomically, write_files
from src.record.rows import COSTS, RecordedRun, metric_name, metric_value
from src.regimes.catalog import RegimeConfig
from src.regimes.stage import Mixture, Stage

KEY = "engine.run"
EXAMPLE = "'python train.py {stage_data} --resume {weights} --out {out}'"
PLACES = ("stage_data", "weights", "out", "seed")
Lists = Mapping[str, Sequence[str]]
"""Lines by the name of their list: ``train``, ``val``, ``test_d1``, ``test_d2``, ..., ``test_union``."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """A command line with places, the data sets as lines, and the shares of each that are held out.

    `axes`: coordinates of the cell, which are places too.
    """

    words: tuple[str, ...]
    data: tuple[tuple[str, ...], ...]
    test: float
    val: float
    axes: Mapping[str, AxisValue]

    @classmethod
    def of(cls, run: str, files: Sequence[str], *, test: float, val: float, axes: Mapping[str, AxisValue]) -> Script:
        """Raises ConfigError for a command without places, or lists that are no data sets."""
        try:
            words = tuple(shlex.split(run))
            named = {name for word in words for _, name, _, _ in string.Formatter().parse(word) if name is not None}
        except ValueError as error:
            raise ConfigError(KEY, run, f"cannot be read ({error}); e.g. {EXAMPLE}") from error
        known = {*PLACES, *axes}
        for name in sorted({"stage_data", "out"} - named):
            raise ConfigError(KEY, run, f"lacks {{{name}}}; e.g. {EXAMPLE}")
        for name in sorted(named - known):
            raise ConfigError(KEY, run, f"has an unknown place {{{name}}}; known: {', '.join(sorted(known))}")
        if shutil.which(words[0]) is None:
            raise ConfigError(KEY, run, f"there is no program {words[0]}; give its path")
        data = []
        for file in files:
            with foreign_file("data.lists", file, Path(file), "give a text file in UTF-8, one sample a line"):
                data.append(tuple(line for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()))
            if min(math.floor(share * len(data[-1])) for share in (test, 1 - test - val)) < 1:
                fix = "one sample a line, at least one of them for training and one for testing"
                raise ConfigError("data.lists", file, f"has {len(data[-1])} lines; give {fix}")
        return cls(words=words, data=tuple(data), test=test, val=val, axes=dict(axes))

    @property
    def digest(self) -> str:
        """Of the command and the data."""
        return digest([self.words, self.data, self.test, self.val, dict(self.axes)])[:8]

    def held_out(self, seed: int) -> list[dict[str, list[str]]]:
        """Each data set's lines for ``test``, ``val`` and ``train``, in the seed's order."""
        found = []
        for part, lines in enumerate(self.data):
            order = np.random.default_rng([seed, part]).permutation(len(lines))
            n_test, n_val = int(self.test * len(lines)), int(self.val * len(lines))
            cuts = {"test": order[:n_test], "val": order[n_test : n_test + n_val], "train": order[n_test + n_val :]}
            found.append({name: [lines[k] for k in rows] for name, rows in cuts.items()})
        return found


@dataclass(frozen=True, kw_only=True)
class ScriptStage:
    """One stage to run: its key, the stage before it, what it trains on and the arguments of the script."""

    key: str
    parent: str | None
    seed: int
    parts: tuple[int, ...]
    lists: Lists
    about: Mapping[str, Any]


def chain(script: Script, regime: RegimeConfig, seed: int) -> list[ScriptStage]:
    """The stages of one run. Raises ConfigError if a stage needs more of the training than its data and its weights."""
    held_out = script.held_out(seed)
    tests = {f"test_d{k}": own["test"] for k, own in enumerate(held_out, start=1)}
    tests["test_union"] = [line for own in held_out for line in own["test"]]
    stages: list[ScriptStage] = []
    for number, stage in enumerate(regime.stages(len(script.data))):
        _require_plain(regime, stage, number)
        parts = stage.mixture.parts
        about = {
            "stage": number + 1,
            "parts": [part + 1 for part in parts],
            "lr_factor": stage.lr_factor,
            "reset_optimizer": stage.reset_optimizer,
            "budget": stage.budget,
        }
        lists: dict[str, list[str]] = {
            "train": _training_list(stage.mixture, [own["train"] for own in held_out], seed),
            "val": [line for part in parts for line in held_out[part]["val"]],
        }
        parent = stages[stage.start.of[0]].key if stage.start.kind == "previous" else None
        arguments = {name: value for name, value in about.items() if name != "stage"}
        key = digest([script.digest, seed, parent, arguments, lists["train"]])
        stages.append(ScriptStage(key=key, parent=parent, seed=seed, parts=parts, lists=lists | tests, about=about))
    return stages


def _require_plain(regime: RegimeConfig, stage: Stage, number: int) -> None:
    """Refuses what the laboratory itself would have to do inside the training."""
    mixture = Mixture(parts=stage.mixture.parts, shares=stage.mixture.shares)
    plain = Stage(
        mixture=mixture,
        start=stage.start,
        reset_optimizer=stage.reset_optimizer,
        lr_factor=stage.lr_factor,
        budget=stage.budget,
        counts_as=stage.counts_as,
    )
    last = mixture.parts[-1:]
    redraws = mixture.shares is not None and stage.counts_as != last  # some samples more than once
    if plain != stage or redraws or stage.start.kind not in ("fresh", "previous") or not stage.budget:
        problem = f"stage {number + 1} needs more than data and starting weights, which is all that a script is given"
        raise ConfigError("regimes", regime.label, f"{problem}; take sequential, combined, warm_start, replay, ...")


def _training_list(mixture: Mixture, data: Sequence[Sequence[str]], seed: int) -> list[str]:
    """The lines of a stage. With shares the last part is whole, and the others give lines by their shares."""
    own = [data[part] for part in mixture.parts]
    if mixture.shares is not None:
        total = len(own[-1]) / mixture.shares[-1] if mixture.shares[-1] else 0.0
        sizes = [min(len(lines), round(share * total)) for lines, share in zip(own, mixture.shares, strict=True)]
        own = [lines[:size] for lines, size in zip(own[:-1], sizes, strict=False)] + [own[-1]]
    lines = [line for part in own for line in part]
    order = np.random.default_rng([seed, len(lines)]).permutation(len(lines))
    return [lines[k] for k in order]


def run_stages(script: Script, chains: Sequence[Sequence[ScriptStage]], root: Path, jobs: int) -> dict[str, str]:
    """Runs what is not done, `jobs` stages at a time, parents first; returns the reason for each stage that failed."""
    failures: dict[str, str] = {}
    for level in range(max(map(len, chains), default=0)):
        wanted = {own[level].key: own[level] for own in chains if level < len(own)}
        with ThreadPoolExecutor(jobs) as pool:
            run = partial(_run, script=script, root=root, failures=failures)
            problems = list(pool.map(run, wanted.values()))
        failures |= {key: problem for key, problem in zip(wanted, problems, strict=True) if problem}
    return failures


def _run(stage: ScriptStage, script: Script, root: Path, failures: Mapping[str, str]) -> str:
    """Runs one stage unless it is done; returns why it failed, or nothing."""
    folder = root / stage.key
    if (folder / "done.json").exists():
        return ""
    if stage.parent is not None and stage.parent in failures:
        return failures[stage.parent]
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)  # of an attempt that failed
    out.mkdir(parents=True)
    texts = {f"{name}.txt": "".join(f"{line}\n" for line in lines) for name, lines in stage.lists.items()}
    about = {**stage.about, "seed": stage.seed}
    write_files(folder / "data", {**texts, "stage.json": json.dumps(about, indent=1) + "\n"}, durable=False)
    weights = "" if stage.parent is None else str((root / stage.parent / "out").absolute())
    places = {
        **script.axes,
        "stage_data": (folder / "data").absolute(),
        "weights": weights,
        "out": out.absolute(),
        "seed": stage.seed,
    }
    words = [word.format(**places) for word in script.words]
    started = time.perf_counter()
    with (folder / "log.txt").open("w") as log:
        log.write(f"$ {shlex.join(words)}\n")
        log.flush()
        status = subprocess.run(
            words, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False
        ).returncode
    if status:
        last = [line for line in (folder / "log.txt").read_text(errors="replace").splitlines() if line.strip()][-1]
        return f"stage {stage.about['stage']} exited with {status}: {last[:200]}; see {folder / 'log.txt'}"
    try:
        found = _measured(out / "metrics.json")
    except ValueError as error:
        return f"stage {stage.about['stage']}: {out / 'metrics.json'} {error}"
    found["costs"] = {"seconds": time.perf_counter() - started} | found["costs"]
    write_atomically(folder / "done.json", json.dumps(found, indent=1))
    return ""


def _measured(path: Path) -> dict[str, Any]:
    """Metrics and costs that the script wrote. Raises ValueError."""
    content = read_json_or(path)
    if not content:
        raise ValueError('is missing or no JSON object; write e.g. {"union/accuracy": 0.9} at the end of the script')
    metrics, costs = {}, {}
    for name, value in content.items():
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise ValueError(f"has {name} = {json.dumps(value)[:50]}, not a number")
        if name in COSTS:
            costs[name] = float(value or 0)
        elif (metric := metric_name(name)) is None:
            raise ValueError(f"has {name}, which is no metric; write SET/METRIC, e.g. union/{name}")
        else:
            metrics[metric] = None if value is None else metric_value(name, str(value), metric)
    if not any(name.startswith("test/union/") for name in metrics):
        raise ValueError("has no metric on the union of the test sets, e.g. union/accuracy")
    return {"metrics": metrics, "costs": costs}


def recorded(script: Script, regime: RegimeConfig, seed: int, stages: Sequence[ScriptStage], root: Path) -> RecordedRun:
    """The finished run: metrics of its last stage, costs of all, and forgetting where it is known."""
    found = [json.loads((root / stage.key / "done.json").read_text()) for stage in stages]
    metrics: dict[str, float | None] = dict(found[-1]["metrics"])
    names = [f"test/d{k}/accuracy" for k in range(1, len(script.data) + 1)]
    if all(name in one["metrics"] for one in found for name in names):
        matrix = [[one["metrics"][name] for name in names] for one in found]
        metrics["forgetting"] = forgetting(matrix, [list(stage.parts) for stage in stages])
    diverged = any(value is not None and not math.isfinite(value) for one in found for value in one["metrics"].values())
    costs = {
        name: sum(one["costs"][name] for one in found) for name in COSTS if all(name in one["costs"] for one in found)
    }
    return RecordedRun(
        line=0,
        regime=regime.label,
        seed=seed,
        axes={**script.axes, "script": script.digest},
        metrics=dict.fromkeys(metrics) if diverged else metrics,
        costs=costs,
        diverged=diverged,
    )
