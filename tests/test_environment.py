"""The environment of a command: variables of a notebook, a cluster or another program change nothing.

Every entry is started under variables that broke one of them before, and a short sweep gives the results of a clean one.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing, redirect_stderr, redirect_stdout
from inspect import signature
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from src import cli, environment
from src.environment import REMOVED, SET, TORCHRUN, Rank, clean, rank_of_process
from src.sweep import __main__ as sweep
from src.sweep.folder import SweepFolder
from src.sweep.workers import local
from src.sweep.workers.gpus import Gpu

PROJECT = Path(__file__).resolve().parent.parent
ENTRIES = ("train", "sweep", "worker", "status", "sync", "ui", "doctor", "claims", "report", "oracles")
ODD_NAME = "v?q[bold]:cat:\x1b[31mred"
"""What a URL, rich's markup and a terminal each read in their own way."""
HOSTILE = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PYTHONOPTIMIZE": "2",
    "WORLD_SIZE": "",
    "RANK": "node3",
    "LOCAL_RANK": "x",
    "SLURM_NTASKS": "2",
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "job",
    "SLURM_PROCID": "x",
    "PL_TRAINER_FAST_DEV_RUN": "1",
    "PL_TRAINER_LIMIT_TRAIN_BATCHES": "1",
    "PL_GLOBAL_SEED": "1",
    "PET_NNODES": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "JSM_NAMESPACE_RANK": "1",
    "MLFLOW_TRACKING_URI": "foo://bar",
    "MLFLOW_RUN_ID": "0",
    "HYDRA_MAIN_MODULE": "nowhere",
}
SHORT = ("seeds=2", "stopping.epochs=1", "split.size=40", "trainer=cpu", "sweep=s")


def of_lightning() -> dict[str, str]:
    """Every variable that Lightning reads as an argument of its Trainer, with a value that would change a run."""
    from pytorch_lightning import Trainer

    return {f"PL_TRAINER_{name.upper()}": "1" for name in list(signature(Trainer).parameters)}


def start(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs ``python -m src.WORDS`` under additional variables."""
    clean_variables = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    command = [sys.executable, "-m", f"src.{words[0]}", *words[1:]]
    return subprocess.run(command, cwd=PROJECT, env=clean_variables | variables, capture_output=True, text=True)


def test_foreign_variables_are_removed_and_the_rest_stays() -> None:
    """Patterns are covered by an example each, and what a user sets on purpose stays."""
    examples = {pattern.replace("*", "X"): "1" for pattern in (*REMOVED, *TORCHRUN)}
    wanted = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "1", "SLURM_CONF": "/etc/slurm.conf", "MKL_CBWR": "AVX2"}
    wanted |= {"PGPASSWORD": "p", "MLFLOW_TRACKING_PASSWORD": "p", "DATA_ROOT": "/data", "HYDRA_FULL_ERROR": "1"}
    assert clean(examples | wanted) == wanted | SET


def test_the_variables_of_torchrun_count_only_in_processes_that_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    theirs = mine | {"TORCHELASTIC_RUN_ID": "abc"}
    assert clean(mine, started_by_torchrun=True) == SET
    assert clean(theirs) == SET
    assert clean(theirs, started_by_torchrun=True) == theirs | SET
    monkeypatch.setattr(environment.os, "environ", theirs)
    assert rank_of_process(2) == Rank(1, 1, 2)
    assert rank_of_process(1) == Rank(0, 0, 1), "a run on one device is its own first process"
    monkeypatch.setattr(environment.os, "environ", mine)
    assert rank_of_process(2) == Rank(0, 0, 1)


def test_workers_start_in_a_clean_environment_wherever_their_command_or_job_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of a cluster's job keeps the cluster's variables, by which it is requeued; it trains nothing itself."""
    started: list[dict[str, str]] = []
    monkeypatch.setattr(local.subprocess, "Popen", lambda _, *, env, **__: started.append(env))
    monkeypatch.setattr(local, "ForkedWorker", lambda *arguments: started.append(arguments[-1]))
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    for gpus in ((), (Gpu("0", "GPU-0"),)):
        monkeypatch.setattr(local, "visible_gpus", lambda gpus=gpus: gpus)
        local.LocalWorkers(SweepFolder(tmp_path, "s"), 1, "engine").keep_running(n_useful=1, n_ended=0)
    forked, spawned = started
    assert forked == spawned
    assert {name: forked[name] for name in HOSTILE if name in forked} == {"MPLBACKEND": SET["MPLBACKEND"]}


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_starts_in_a_hostile_environment(entry: str, tmp_path: Path) -> None:
    """`--help` loads Hydra and the command's own module."""
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "__init__.py").write_text("raise RuntimeError('a plugin of another project')")
    done = start(entry, "--help", **HOSTILE, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert f"src.{entry}" in done.stdout or "Powered by Hydra" in done.stdout


@pytest.fixture(scope="module")
def swept(empty_multirun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multirun/ whose name a URL would read differently, after a short sweep in this process."""
    multirun = tmp_path_factory.mktemp("clean") / "v%20p"
    shutil.copytree(empty_multirun, multirun)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        patch.setattr(sys, "argv", ["src/sweep.py", *words_in(multirun)])
        cli.run(sweep.main)
    return checked(multirun)


def words_in(multirun: Path) -> list[str]:
    """The short sweep."""
    return ["-m", *SHORT, "n_workers=1", f"multirun='{multirun}'"]


def checked(multirun: Path) -> Path:
    """The folder, with the short sweep's runs in its own database."""
    with closing(sqlite3.connect(multirun / "mlflow.db")) as database:
        (levels,) = database.execute("SELECT count(*) FROM runs").fetchone()
    assert levels == 1 + 1 + 4, "sweep, cell and runs are in the database of this multirun/"
    assert len(list((multirun / "mlartifacts").rglob("config.yaml"))) > 0
    assert [path.name for path in multirun.parent.iterdir()] == [multirun.name], "no folder of a misread name"
    return multirun


def results(multirun: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text())["result"] for path in sorted(multirun.glob("s/cells/*/*/result.json"))]


def test_a_sweep_in_a_hostile_environment_gives_the_results_of_a_clean_one(
    empty_multirun: Path, swept: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    (other / "hydra_plugins").mkdir(parents=True)
    (other / "hydra_plugins" / "__init__.py").touch()
    (tmp_path / "hostile").mkdir()
    assert len(of_lightning()) > 30
    variables = of_lightning() | HOSTILE | {"PYTHONPATH": str(other)}
    multirun = tmp_path / "hostile" / ODD_NAME
    shutil.copytree(empty_multirun, multirun)
    done = start("sweep", *words_in(multirun), **variables)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) < 10, done.stderr
    assert f"in {multirun}/s: table.csv".replace("\x1b", "\\x1b") in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert results(checked(multirun)) == results(swept)
    assert len(results(swept)) == 4


LOADS = """
import json, os, runpy, sys
for words in json.loads(sys.argv[1]):
    reader, writer = os.pipe()
    if os.fork() == 0:
        sys.argv = [f"src/{words[0]}.py", *words[1:]]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            runpy.run_module(f"src.{words[0]}", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            os.write(writer, json.dumps([end.code or 0, [name for name in sys.modules if "." not in name]]).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        print(answer.read())
    os.wait()
"""
"""Runs commands one after the other, each in a fork of a process that has imported nothing; prints what each loads."""

HEAVY = {"torch", "torchvision", "pytorch_lightning", "torchmetrics", "scipy", "sklearn", "pandas", "matplotlib"}
HEAVY |= {"mlflow", "optuna", "sqlalchemy"}


def test_a_command_loads_what_it_needs(swept: Path) -> None:
    """--help needs nothing heavy; a look at a finished sweep needs neither training nor MLflow.

    A report reads and judges without torch, which its second process loads.
    """
    folder = f"multirun={swept}"
    allowed = {
        **{(entry, "--help"): set[str]() for entry in ENTRIES},
        ("status", folder): {"optuna"},
        ("worker", folder, "sweep=s"): {"optuna"},
        ("report", folder, "sweep=missing"): set(),
        ("sync", f"multirun='{swept}'"): {"pandas", "sqlalchemy"},
        ("sweep", "-m", *SHORT, f"multirun='{swept}'"): {"torch", "sqlalchemy"},
    }
    variables = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    command = [sys.executable, "-c", LOADS, json.dumps(list(allowed))]
    done = subprocess.run(command, cwd=PROJECT, env=variables, capture_output=True, text=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for words, (code, modules) in zip(allowed, answers, strict=True):
        assert code == (2 if words[-1] == "sweep=missing" else 0), (words, done.stderr)
        assert "src" in modules
        assert not (HEAVY & set(modules)) - allowed[words], words


def test_a_failed_run_is_reported_whatever_rank_a_shell_has(tmp_path: Path) -> None:
    """RANK=1 made it exit with 0 and without a word."""
    words = ("train", "split.size=40", "stopping.epochs=1", "optimizer.lr=1e38", "tracking=off", "trainer=cpu")
    done = start(*words, f"multirun={tmp_path}", RANK="1")
    assert done.returncode == 1
    assert "diverged" in done.stderr
