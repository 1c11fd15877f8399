"""Runs the project's commands in this process, as `src.cli.run` starts them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from omegaconf import DictConfig

from src import cli as entry


@dataclass(frozen=True)
class Done:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


class Command:
    """Run ``python -m src.NAME ... always``, whose task is `main`."""

    def __init__(
        self,
        name: str,
        main: Callable[[DictConfig], None],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        *always: str,
    ) -> None:
        self._name, self._main, self._always = name, main, always
        self._monkeypatch, self._capsys = monkeypatch, capsys
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        monkeypatch.setenv("COLUMNS", "200")

    def __call__(self, *arguments: str) -> Done:
        self._monkeypatch.setattr(sys, "argv", [f"src/{self._name}.py", *arguments, *self._always])
        code = 0
        try:
            entry.run(self._main)
        except SystemExit as exit:
            code = int(exit.code or 0)
        output = self._capsys.readouterr()
        return Done(code, output.out, output.err)
