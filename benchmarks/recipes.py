"""Runs every command of docs/RECIPES.md on small real data; prints its exit status, seconds and processor seconds.

    python -m benchmarks.recipes [only=3,8] [per_class=40]

The data root's CIFAR-10 (a tree of JPEG images, zipped or not) gives the folders, scikit-learn's diabetes table the tables.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import defaultdict
from pathlib import Path

from benchmarks.harness import PROJECT, flags

FOLDERS = {
    "old": {"cat": 2, "dog": 2, "bird": 2},
    "new": {"cat": 1, "dog": 2, "bird": 1},
    "kept": {"cat": 1, "dog": 1, "bird": 1},
    "jan": {"cat": 2, "dog": 2},
    "feb": {"cat": 1, "dog": 1},
    "mar": {"cat": 1, "dog": 1, "bird": 2},
    "dogs": {"dog": 5},
    "dogs_and_cats": {"dog": 1, "cat": 4},
    "more_classes": {"cat": 1, "frog": 2, "ship": 2},
}
"""Folder to its classes, each with a number of images in units of `per_class`."""
NET = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self, in_features: int, n_outputs: int, width: int = 32) -> None:
        super().__init__(nn.Linear(in_features, width), nn.Tanh(), nn.Linear(width, n_outputs))
"""


def make_data(folder: Path, per_class: int) -> None:
    """The files that the page names, from real data."""
    from sklearn.datasets import load_diabetes

    (archive,) = Path(os.environ["DATA_ROOT"]).glob("CIFAR10-jpeg/*.zip")
    with zipfile.ZipFile(archive) as images:
        left: dict[str, list[str]] = defaultdict(list)
        for name in sorted(images.namelist(), reverse=True):
            if "/train/" in name and name.endswith(".jpg"):
                left[name.split("/")[-2]].append(name)
        for target, classes in FOLDERS.items():
            for kind, units in classes.items():
                (folder / target / kind).mkdir(parents=True)
                for number in range(units * per_class):
                    (folder / target / kind / f"{number}.jpg").write_bytes(images.read(left[kind].pop()))
    frame = load_diabetes(as_frame=True).frame.rename(columns={"target": "energy"})
    frame["energy"] = (frame["energy"] - frame["energy"].mean()) / frame["energy"].std()
    frame[:400].to_csv(folder / "energies.csv", index=False)
    frame[400:].to_csv(folder / "new_energies.csv", index=False)
    (folder / "my_net.py").write_text(NET)


def make_checkpoint(folder: Path) -> None:
    """The weights of `arch=cnn` for three classes, as another script would save them."""
    import torch

    from src.config import compose
    from src.models.build import build_model

    torch.save(build_model(compose(["arch=cnn"]).arch, (3, 32, 32), 3, seed=99).state_dict(), folder / "model.pt")


def adopt_orphans() -> None:
    """Make orphaned grandchildren children of this process (Linux), so that its account includes workers."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def processor_seconds() -> float:
    """Processor seconds of all processes that have ended, once no child is left or ten seconds have passed."""
    deadline = time.monotonic() + 10
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.1)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    adopt_orphans()
    given = flags({"only": "", "per_class": "40"}, __doc__ or "")
    page = (PROJECT / "docs" / "RECIPES.md").read_text(encoding="utf-8")
    recipes = re.findall(r"^## (\d+)\. (.*?)\n```\n(.*?)\n```", page, re.MULTILINE | re.DOTALL)
    chosen = set(given["only"].split(",")) - {""}
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder, int(given["per_class"]))
        make_checkpoint(folder)
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        for number, question, command in recipes:
            if chosen and number not in chosen:
                continue
            words = [*shlex.split(command)[1:], f"sweep=recipe-{number}", "tracking=off", "optimizer.lr=0.01"]
            start, before = time.perf_counter(), processor_seconds()
            done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
            seconds, processor = time.perf_counter() - start, processor_seconds() - before
            failed += done.returncode != 0
            print(
                f"{number:>2}  exit {done.returncode}  {seconds:6.1f} s  processor {processor:6.1f} s  {question}",
                flush=True,
            )
            if done.returncode:
                print(done.stdout[-500:], done.stderr[-1500:])
    print(f"{len(recipes)} recipes on the page, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
