"""launcher=slurm submits the configured jobs once and reports a missing requirement in one line. Slurm is faked by scripts.

tests/sweep/test_workers.py and tests/sweep/test_worker.py test the workers in the jobs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from src.config import Config, compose
from src.errors import ConfigError
from src.sweep.folder import SweepFolder
from src.sweep.workers.slurm import SlurmWorkers

ENGINE = "tests.sweep.fake_engine"
KEYS = ["gpus=2", "cpus=6", "mem=12", "minutes=90", "partition=gpu", "account=lab", "extra=['qos=high','exclusive']"]


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path, "s")


def config(*keys: str) -> Config:
    """A cell with these settings of the launcher."""
    return compose(["launcher=slurm", *(f"launcher.{key}" for key in keys)])


def pretend_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ``sbatch`` that records its script, an ``sacct`` that reports all jobs as running, an ``scancel`` that records ids."""
    scripts = {
        "srun": "",
        "sbatch": f'cat "$1" >> {folder}/submitted; echo Submitted batch job 7$(grep -c job-name {folder}/submitted)',
        "sacct": 'echo "JobID|State|NodeList"; for j in 71_0 71_1 71_2 72; do echo "$j|RUNNING|n1"; done',
        "scancel": f'echo "$1" >> {folder}/cancelled',
    }
    binaries = folder / "slurm"
    binaries.mkdir()
    for name, script in scripts.items():
        (binaries / name).write_text(f"#!/bin/sh\n{script}\n")
        (binaries / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(binaries), prepend=":")


def test_one_array_is_submitted_with_the_keys_and_a_later_command_counts_its_jobs(
    folder: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_slurm(tmp_path, monkeypatch)
    workers = SlurmWorkers(folder, config("jobs=3", *KEYS), ENGINE)
    assert workers.keep_running(n_useful=10, n_ended=0) == 0
    script = (tmp_path / "submitted").read_text()
    for option in (
        "array=0-2%3",
        "gpus-per-node=2",
        "cpus-per-task=6",
        "mem=12GB",
        "time=90",
        "partition=gpu",
        "account=lab",
        "qos=high",
        "exclusive",
        "signal=USR2@120",
        "job-name=sweep-s",
    ):
        assert f"#SBATCH --{option}\n" in script, option
    workers.keep_running(n_useful=10, n_ended=0)
    later = SlurmWorkers(folder, config("jobs=4"), ENGINE)
    later.keep_running(n_useful=10, n_ended=0)
    script = (tmp_path / "submitted").read_text()
    assert script.count("#SBATCH --job-name") == 2, "the three that run are counted: one more, and that only once"
    assert script.count("#SBATCH --array") == 1
    assert not later.hopeless
    SlurmWorkers(folder, config("jobs=1"), ENGINE, "tpe-01234567").keep_running(n_useful=10, n_ended=0)
    script = (tmp_path / "submitted").read_text()
    assert script.count("#SBATCH --job-name") == 3, "jobs at the grid do not count for a search"
    later.interrupt()
    assert sorted((tmp_path / "cancelled").read_text().split()) == ["71_0", "71_1", "71_2", "72"]


def test_no_more_jobs_than_find_work(folder: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_slurm(tmp_path, monkeypatch)
    SlurmWorkers(folder, config("jobs=8"), ENGINE).keep_running(n_useful=6, n_ended=0)
    assert "#SBATCH --array=0-5%6\n" in (tmp_path / "submitted").read_text()


def test_a_missing_requirement_is_one_line(folder: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        ConfigError, match=r"^launcher=slurm: this machine belongs to no Slurm cluster; start the sweep where"
    ):
        SlurmWorkers(folder, config(), ENGINE)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(
        ConfigError, match=r"^launcher=slurm: needs .* submitit, which is missing; make setup installs it"
    ):
        SlurmWorkers(folder, config(), ENGINE)


def test_a_command_that_does_not_wait_is_detached(
    folder: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_slurm(tmp_path, monkeypatch)
    assert SlurmWorkers(folder, config("wait=false"), ENGINE).detached
    assert not SlurmWorkers(folder, config(), ENGINE).detached
