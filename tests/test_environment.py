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
from contextlib import closing
from inspect import signature
from pathlib import Path

import pytest

from src import environment
from src.environment import REMOVED, SET, TORCHRUN, Rank, clean, rank_of_process
from src.sweep.folder import SweepFolder
from src.sweep.workers import local

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
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    local.LocalWorkers(SweepFolder(tmp_path, "s"), 1, "engine").keep_running(n_waiting=1, n_ended=0)
    (variables,) = started
    assert {name: variables[name] for name in HOSTILE if name in variables} == {"MPLBACKEND": SET["MPLBACKEND"]}


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_starts_in_a_hostile_environment(entry: str, tmp_path: Path) -> None:
    """`--help` loads Hydra and the command's own module."""
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "__init__.py").write_text("raise RuntimeError('a plugin of another project')")
    done = start(entry, "--help", **HOSTILE, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert f"src.{entry}" in done.stdout or "Powered by Hydra" in done.stdout


def test_a_sweep_in_a_hostile_environment_gives_the_results_of_a_clean_one(
    empty_multirun: Path, tmp_path: Path
) -> None:
    """Each in a multirun/ whose name a URL would read differently."""
    (tmp_path / "other" / "hydra_plugins").mkdir(parents=True)
    (tmp_path / "other" / "hydra_plugins" / "__init__.py").touch()
    assert len(of_lightning()) > 30
    found = []
    for name, variables in (
        ("v%20p", {}),
        (ODD_NAME, of_lightning() | HOSTILE | {"PYTHONPATH": str(tmp_path / "other")}),
    ):
        shutil.copytree(empty_multirun, tmp_path / name)
        done = start("sweep", "-m", *SHORT, "n_workers=1", f"multirun='{tmp_path / name}'", **variables)
        assert done.returncode == 0, done.stderr
        assert len(done.stderr.splitlines()) < 10, done.stderr
        assert f"in {tmp_path / name}/s: table.csv".replace("\x1b", "\\x1b") in done.stdout
        assert "\x1b" not in done.stdout + done.stderr
        results = sorted((tmp_path / name).glob("s/cells/*/*/result.json"))
        found.append([json.loads(path.read_text())["result"] for path in results])
        with closing(sqlite3.connect(tmp_path / name / "mlflow.db")) as database:
            (levels,) = database.execute("SELECT count(*) FROM runs").fetchone()
        assert levels == 1 + 1 + 4, "sweep, cell and runs are in the database of this multirun/"
        assert len(list((tmp_path / name / "mlartifacts").rglob("config.yaml"))) > 0
    assert found[0] == found[1]
    assert len(found[0]) == 4
    assert {path.name for path in tmp_path.iterdir()} == {"v%20p", ODD_NAME, "other"}, "no folder of a misread name"


def test_a_failed_run_is_reported_whatever_rank_a_shell_has(tmp_path: Path) -> None:
    """RANK=1 made it exit with 0 and without a word."""
    words = ("train", "split.size=40", "stopping.epochs=1", "optimizer.lr=1e38", "tracking=off", "trainer=cpu")
    done = start(*words, f"multirun={tmp_path}", RANK="1")
    assert done.returncode == 1
    assert "diverged" in done.stderr
