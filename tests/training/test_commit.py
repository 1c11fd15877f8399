"""The recorded commit is that of the project's own repository, or none."""

from __future__ import annotations

import subprocess
from pathlib import Path

from src.training.run_files import git_commit


def repository(folder: Path) -> str:
    """Makes the folder a repository with all its files committed; the commit."""
    who = ["-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "--allow-empty", "-m", "m"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def project(folder: Path) -> Path:
    (folder / "src" / "training").mkdir(parents=True)
    (folder / "src" / "training" / "run_files.py").write_text("x = 1\n")
    return folder


def test_of_the_project_itself(tmp_path: Path) -> None:
    folder = project(tmp_path / "own")
    commit = repository(folder)
    assert git_commit(folder) == commit
    (folder / "src" / "training" / "run_files.py").write_text("x = 2\n")
    git_commit.cache_clear()
    assert git_commit(folder) == f"{commit}+changes"


def test_none_where_another_repository_lies_around_or_none(tmp_path: Path) -> None:
    assert git_commit(project(tmp_path / "archive")) is None
    committed = project(tmp_path / "outer" / "copied")
    repository(tmp_path / "outer")
    assert git_commit(committed) is None, "part of another repository"
    assert git_commit(project(tmp_path / "outer" / "unpacked")) is None, "lies in another repository, untracked"
    empty = tmp_path / "empty"
    empty.mkdir()
    repository(empty)
    assert git_commit(project(empty)) is None, "a repository that does not have the sources"
