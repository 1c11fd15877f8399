"""Advice against the truth on real data.   DATA_ROOT=... python -m benchmarks.advise run [FOLDER] [TASK ...]; ... table [FOLDER]

`run` advises on each task and trains every candidate in full on 10 fresh seeds; a task that was interrupted continues. `table`
reads what `run` measured and prints the figures of docs/ADVICE.md. A task takes about 3 minutes of two quiet cores.
"""

from __future__ import annotations

import gzip
import json
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DATA: Path
Arrays = tuple[NDArray[Any], NDArray[Any]]
TRUTH_SEEDS = range(100, 110)
BUDGET = "25%"


@dataclass(frozen=True)
class Task:
    """Two data sets, what is served, and whether the task was held out until the method was final."""

    make: Callable[[np.random.Generator], tuple[Arrays, Arrays]]
    serve: str = "union"
    held_out: bool = False


# ------------------------------------------------------------------------------------------------ real data


def idx(name: str, kind: str) -> NDArray[Any]:
    path = next((DATA / name / "raw").glob(f"train-{kind}-idx*-ubyte.gz"))
    shape = (-1, 28, 28) if kind == "images" else (-1,)
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16 if kind == "images" else 8).reshape(
        shape
    )


def idx_pair(name: str) -> Arrays:
    return idx(name, "images"), idx(name, "labels")


def mnist() -> Arrays:
    return idx_pair("MNIST")


def fashion() -> Arrays:
    return idx_pair("FashionMNIST")


def mnist16() -> Arrays:
    from PIL import Image

    x, y = mnist()
    return np.stack([np.asarray(Image.fromarray(one).resize((16, 16))) for one in x[:8000]]), y[:8000]


def usps() -> Arrays:
    found = np.load(DATA / "USPS" / "usps16.npz")
    return found["train_images"], found["train_labels"]


def digits() -> Arrays:
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.images / 16).astype(np.float32), found.target


def cancer() -> Arrays:
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    x = (found.data - found.data.mean(axis=0)) / found.data.std(axis=0)
    return x.astype(np.float32), found.target


def cifar() -> Arrays:
    """The first 600 pictures of each class."""
    from PIL import Image

    x, y = [], []
    with zipfile.ZipFile(DATA / "CIFAR10-jpeg" / "cifar10-jpeg.zip") as archive:
        names = sorted(name for name in archive.namelist() if "/train/" in name and name.endswith(".jpg"))
        classes = sorted({name.split("/")[-2] for name in names})
        for number, label in enumerate(classes):
            for name in [name for name in names if f"/{label}/" in name][:600]:
                with archive.open(name) as file:
                    x.append(np.asarray(Image.open(file).convert("RGB")))
                y.append(number)
    return np.stack(x), np.array(y)


def pair(
    first: Callable[[], Arrays],
    n: tuple[int, int],
    second: Callable[[], Arrays] | None = None,
    *,
    change: Callable[[NDArray[Any]], NDArray[Any]] = lambda x: x,
    classes: tuple[Sequence[int], Sequence[int]] | None = None,
    order: int | None = None,
) -> Callable[[np.random.Generator], tuple[Arrays, Arrays]]:
    """Two data sets of `n` samples without overlap: of one source, or Dataset 2 of another. `change`: of Dataset 2's inputs;
    `classes`: of each; `order`: the column of a table whose upper part becomes Dataset 2."""

    def make(rng: np.random.Generator) -> tuple[Arrays, Arrays]:
        x, y = first()
        rows = rng.permutation(len(y)) if order is None else np.argsort(x[:, order], kind="stable")
        rows2, (x2, y2) = rows[::-1], (x, y)
        if second is not None:
            x2, y2 = second()
            rows2 = rng.permutation(len(y2))
        own = classes or (np.unique(y), np.unique(y2))
        rows = rows[np.isin(y[rows], own[0])][: n[0]]
        rows2 = rows2[np.isin(y2[rows2], own[1])][: n[1]]
        assert second is not None or not set(rows) & set(rows2)
        return (x[rows], y[rows]), (change(x2[rows2]), y2[rows2])

    return make


def turned(x: NDArray[Any]) -> NDArray[Any]:
    from PIL import Image

    return np.stack([np.asarray(Image.fromarray(one).rotate(45)) for one in x])


def brighter(x: NDArray[Any]) -> NDArray[Any]:
    return np.clip(x.astype(np.int64) * 2 + 30, 0, 255).astype(np.uint8)


TASKS: Mapping[str, Task] = {
    "mnist-iid": Task(pair(mnist, (2000, 700))),
    "mnist-rotated": Task(pair(mnist, (2000, 700), change=turned), "d2"),
    "mnist-to-usps": Task(pair(mnist16, (2500, 800), usps), "d2"),
    "fashion-iid-tenth": Task(pair(fashion, (3000, 300))),
    "fashion-new-classes": Task(pair(fashion, (2000, 600), classes=(range(8), (8, 9)))),
    "digits-iid": Task(pair(digits, (1000, 700))),
    "digits-lacks-classes": Task(pair(digits, (900, 500), classes=(range(10), range(7))), "{d1:0.5,d2:0.5}"),
    "cancer-shifted": Task(pair(cancer, (340, 220), order=1), "d2"),
    "cifar-brighter": Task(pair(cifar, (2500, 1000), change=brighter)),
    "usps-small": Task(pair(usps, (300, 150)), "d2"),
    "fashion-negative": Task(pair(fashion, (2000, 700), change=lambda x: 255 - x), "{d1:0.3,d2:0.7}", held_out=True),
    "usps-to-mnist": Task(pair(usps, (2000, 700), mnist16), held_out=True),
    "digits-mirrored": Task(pair(digits, (1000, 500), change=lambda x: x[:, :, ::-1].copy()), "d2", held_out=True),
    "cifar-other-classes": Task(pair(cifar, (2000, 1000), classes=(range(6), range(4, 10))), "d2", held_out=True),
}
"""The held-out tasks were chosen before the method was tuned, and read when it was final."""

# ------------------------------------------------------------------------------------------------ run


def run_task(name: str, folder: Path, settings: Sequence[str]) -> None:
    """Advises and measures the truth; writes ``NAME.json``."""
    from src.advise import command
    from src.advise.answer import curves_of, serving_value
    from src.advise.question import split_arguments

    path = folder / f"{name}.json"
    if path.exists():
        return
    task, data = TASKS[name], folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    files = [data / f"{name}-{k}.npz" for k in (1, 2)]
    if not all(file.exists() for file in files):
        for file, (x, y) in zip(files, task.make(np.random.default_rng(0)), strict=True):
            np.savez(file, x=x, y=y.astype(np.int64))
    arguments = ["data=arrays", *(f"data.path{k}={f.absolute()}" for k, f in zip(("", "2"), files, strict=True))]
    arguments += [f"serve={task.serve}", f"sweep={name}", f"multirun={folder / 'multirun'}", "tracking=off"]
    arguments += [f"budget={BUDGET}", *settings]
    began = time.monotonic()
    question, rest = split_arguments(arguments)
    pilot, remarks = command.prepare(command.compose_settings(rest), question)
    answer = command.run(pilot, remarks)
    seconds = time.monotonic() - began
    curves, left_out = curves_of(pilot)
    full = sum(pilot.sizes)
    pilot.extend(1.0, list(curves), TRUTH_SEEDS)
    truth = {k: [serving_value(run, pilot) for run in pilot.measured[full, k]] for k in curves}
    labels = [regime.label for regime in pilot.full.config.regimes]
    content = {
        "task": name,
        "sizes": pilot.sizes,
        "share": answer.share,
        "seconds": seconds,
        "left_out": left_out,
        "settings": {labels[k]: dict(pilot.chosen[k].knobs) for k in curves},
        "costs": {one.label: one.cost.seconds for one in answer.candidates},
        "curves": {
            labels[k]: {"sizes": list(c.sizes), "errors": c.errors.tolist(), "monotone": c.monotone}
            for k, c in curves.items()
        },
        "truth": {labels[k]: values for k, values in truth.items()},
    }
    path.write_text(json.dumps(content, indent=1))


# ------------------------------------------------------------------------------------------------ table


def judge(content: Mapping[str, Any]) -> dict[str, Any]:
    """The decision from the pilot's curves, and how it fares against the truth."""
    from src.advise.curves import Curve, forecast
    from src.advise.decision import decide

    labels = list(content["curves"])
    curves = [
        Curve(sizes=c["sizes"], errors=np.array(c["errors"]), monotone=c["monotone"])
        for c in content["curves"].values()
    ]
    points = 100 * (1 - forecast(curves, sum(content["sizes"])).draws)
    decision = decide(points, [content["costs"][label] for label in labels], 1.0)
    truth = np.array([100 * np.mean(content["truth"][label]) for label in labels])
    full = [Curve(sizes=[1], errors=1 - np.array([content["truth"][label]])) for label in labels]
    measured = decide(100 * (1 - forecast(full, 1).draws), [content["costs"][label] for label in labels], 1.0)
    low, high = np.percentile(points, (5, 95), axis=0)
    order = np.argsort(-truth)
    return {
        "kind": decision.kind,
        "choice": labels[decision.choice],
        "best": labels[order[0]],
        "regret": float(truth.max() - truth[decision.choice]),
        "regret_combined": float(truth.max() - truth[labels.index("combined")]),
        "regret_sequential": float(truth.max() - truth[labels.index("sequential")]),
        "covered": int(((low <= truth) & (truth <= high)).sum()),
        "n": len(labels),
        "ruled_out": len(decision.ruled_out),
        "ruled_out_rightly": sum(truth[k] < truth[decision.choice] for k in decision.ruled_out),
        "apart": float(truth[order[0]] - truth[order[1]]) > 1,
        "decided_in_full": measured.kind == "decided",
        "width": float((high - low).mean()),
        "off": float((points.mean(axis=0) - truth).mean()),
        "share": content["share"],
        "seconds": content["seconds"],
    }


def abstentions(contents: Sequence[Mapping[str, Any]], repeats: int = 10) -> tuple[int, int]:
    """How often the decision abstains between a candidate and itself on independent seeds of the measured spread."""
    from src.advise.curves import Curve, forecast
    from src.advise.decision import decide

    rng, n_abstains, n = np.random.default_rng(0), 0, 0
    for content in contents:
        for found in content["curves"].values():
            errors = np.array(found["errors"])
            spread = errors.std(axis=1, ddof=1, keepdims=True)
            for _ in range(repeats):
                twins = [
                    np.maximum(errors.mean(axis=1, keepdims=True) + spread * rng.standard_normal(errors.shape), 0)
                    for _ in range(2)
                ]
                curves = [Curve(sizes=found["sizes"], errors=twin, monotone=found["monotone"]) for twin in twins]
                points = 100 * (1 - forecast(curves, sum(content["sizes"])).draws)
                n_abstains += decide(points, [1.0, 1.0], 1.0).abstains
                n += 1
    return n_abstains, n


def print_table(folder: Path, names: Sequence[str]) -> None:
    contents = [json.loads(path.read_text()) for name in names if (path := folder / f"{name}.json").exists()]
    rows = [judge(content) for content in contents]
    print("| task | samples | best | advice | | regret | combined | sequential | in interval | width | compute |")
    print("| --- | ---: | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for content, row in zip(contents, rows, strict=True):
        mark = "*" if TASKS[content["task"]].held_out else ""
        print(
            f"| {content['task']}{mark} | {' + '.join(map(str, content['sizes']))} | {row['best']} | {row['choice']} | "
            f"{row['kind']} | {row['regret']:.1f} | {row['regret_combined']:.1f} | {row['regret_sequential']:.1f} | "
            f"{row['covered']}/{row['n']} | {row['width']:.1f} | {100 * row['share']:.0f} % |"
        )
    if not rows:
        return
    covered, n = sum(row["covered"] for row in rows), sum(row["n"] for row in rows)
    good = sum(row["regret"] <= 1 for row in rows)
    n_abstains, n_same = abstentions(contents)
    print(
        f"\nregret at most 1 point: {good} of {len(rows)}; mean {np.mean([row['regret'] for row in rows]):.2f} points"
    )
    print(f"coverage of 90 % intervals: {covered} of {n}, {100 * covered / n:.0f} %")
    ruled_out, rightly, apart, decided = (
        sum(row[key] for row in rows) for key in ("ruled_out", "ruled_out_rightly", "apart", "decided_in_full")
    )
    print(f"ruled out: {ruled_out} candidates, {rightly} of which are worse than the choice")
    print(f"the rule on all candidates in full: decided in {decided} of {len(rows)}; the best two are apart in {apart}")
    print(f"compute against all candidates in full on 10 seeds: {100 * np.mean([row['share'] for row in rows]):.0f} %")
    print(f"abstains between a candidate and itself: {n_abstains} of {n_same}, {100 * n_abstains / n_same:.1f} %")


def main() -> None:
    global DATA
    import os

    DATA = Path(os.environ.get("DATA_ROOT", "data"))
    action, *words = sys.argv[1:]
    settings = [word for word in words if "=" in word]
    folder, *names = [word for word in words if "=" not in word] or ["/tmp/advise-benchmark"]
    names = names or list(TASKS)
    if action == "run":
        for name in names:
            run_task(name, Path(folder), settings)
            print(f"{name}: done", flush=True)
    print_table(Path(folder), names)


if __name__ == "__main__":
    main()
