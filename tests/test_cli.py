"""The command line and the standard streams of a command as shells hand them over."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.cli import command
from src.errors import ConfigError
from src.sweep import __main__ as sweep
from tests.command import Command

PROJECT = Path(__file__).resolve().parent.parent


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """Runs a line of sh, with `python` for this Python."""
    command = ["sh", "-c", line.replace("python", sys.executable)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, env=dict(os.environ))


@pytest.mark.parametrize(
    ("streams", "code", "stderr"),
    [
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        (">/dev/full", 1, "error: stdout cannot be written: No space left on device; nothing else is lost\n"),
    ],
)
def test_a_stream_that_is_closed_or_full_does_not_end_a_command(streams: str, code: int, stderr: str) -> None:
    done = shell(f"python -m src.status --help {streams}")
    assert (done.returncode, done.stderr) == (code, stderr)


@pytest.mark.parametrize("words", ["seeds=2 -m split.ratio=0.1,1", "-m seeds=2 split.ratio=0.1,1"])
def test_an_option_may_stand_between_settings(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    always = ("dry_run=true", "sweep=s", f"multirun={tmp_path}", "trainer=cpu")
    done = Command("sweep", sweep.main, monkeypatch, capsys, *always)(*words.split())
    assert done.code == 0, done.err
    assert "cells: 2" in done.out


def test_an_unknown_option_is_refused_in_one_line() -> None:
    done = shell("python -m src.sweep seeds=2 --frobnicate split.ratio=1")
    assert done.returncode == 2
    assert "--frobnicate" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", ["src.train regime=nope", "src.train stopping.epochs=x", "src.sync tracking=off"])
def test_full_errors_add_the_traceback_to_the_line(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    line = shell(f"python -m {words}").stderr
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    done = shell(f"python -m {words}")
    assert done.returncode == 2
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.endswith(line)


@pytest.mark.slow
def test_a_run_on_two_devices_starts_its_group_whatever_world_a_shell_has(tmp_path: Path) -> None:
    """WORLD_SIZE=1 was answered by the advice to use src.train, which this is."""
    words = f"trainer=ddp trainer.devices=2 split.size=40 stopping.epochs=1 tracking=off multirun={tmp_path}"
    done = shell(f"CUDA_VISIBLE_DEVICES= WORLD_SIZE=1 python -m src.train {words}")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*/cells/*/*/result.json"))) == 1


def test_ctrl_c_ends_a_command_whose_import_swallows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent 10 s after the start of a sweep, it had no effect: the sweep ran to its end."""
    monkeypatch.setattr("src.cli.clean_process", lambda **_: None)
    monkeypatch.setattr("src.interrupts.SECONDS_TO_LEAVE", 0.1)

    def swallowing() -> None:
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    if not (child := os.fork()):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            command(swallowing)
        finally:
            os._exit(99)
    began = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("function", ["_multiprocessing_init", "_c10d_init", "_dist_autograd_init"])
def test_ctrl_c_while_torch_loads_is_one_line(function: str) -> None:
    """These C++ functions of torch import modules; an exception in one of the imports ended the process by SIGABRT."""
    script = f"""
import signal, sys
from src.cli import command
from src.errors import ConfigError

entered = False

def interrupt(frame, event, function):
    global entered
    if event == "c_call" and function.__name__ == "{function}":
        entered = True
    elif event == "call" and entered:
        sys.setprofile(None)
        signal.raise_signal(signal.SIGINT)

def main():
    sys.setprofile(interrupt)
    import torch

signal.signal(signal.SIGINT, signal.default_int_handler)
print("shown")
command(main)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (
        *(130, "shown\n"),
        "stopped; the same command continues from here\n",
    )


@pytest.mark.parametrize("error", [ConfigError("a", 1, "b"), AttributeError("replaced"), SystemExit(2)])
def test_an_exception_that_replaces_ctrl_c_is_one_line(
    error: BaseException, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OmegaConf raised AttributeError in its place: a traceback, or an "error:" about a key that nobody gave."""
    monkeypatch.setattr("src.cli.clean_process", lambda **_: None)

    def replacing() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        finally:
            raise error

    if not (child := os.fork()):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            command(replacing)
        except SystemExit as end:
            os._exit(int(end.code or 0))
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    assert capfd.readouterr().err == "stopped; the same command continues from here\n"


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.cli.clean_process", lambda **_: None)
    monkeypatch.setattr("src.cli._standard_streams", dict)

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        command(interrupted)
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "stopped; the same command continues from here\n"


def test_help_shows_what_the_command_uses() -> None:
    """src.sweep and src.train printed the same 141 lines."""
    shown = {name: shell(f"python -m src.{name} --help optimizer=adam") for name in ("sweep", "train")}
    assert {done.returncode for done in shown.values()} == {0}
    sweep, train = (done.stdout.splitlines() for done in shown.values())
    assert (sweep[0].split()[0], train[0].split()[0]) == ("Compares", "Trains")
    for lines in (sweep, train):
        assert not {line.partition(":")[0] for line in lines} & {"advice", "anchor", "claim"}
        assert max(map(len, lines)) <= 80
        assert {"optimizer:", "  name: adam", "trainer:", "multirun: multirun"} <= set(lines)
    own = {"regimes:", "- combined", "seeds: 12", "search:", "launcher:", "dry_run: false"}
    assert own <= set(sweep)
    assert not own & set(train)
    assert {"seed: 0", "regime:", "  lr_factor: 1.0"} <= set(train) & set(sweep)
    assert any(line.startswith("regime: average, ") for line in sweep), "the names for `regimes`"
