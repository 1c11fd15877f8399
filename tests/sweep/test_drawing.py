"""The maps of a command are the same from whichever process draws them, and none is lost with a process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.comparison.maps import difference_maps, map_names
from src.comparison.verdicts import UNDECIDED, CellVerdict
from src.sweep import drawing, fork_server
from src.sweep.drawing import MapDrawing
from src.sweep.workers.local import worker_environment

TABLES = {"table.md": b"a table\n", "table.csv": b"a,table\n"}


def verdicts() -> list[CellVerdict]:
    return [
        CellVerdict(
            cell=f"{ratio}",
            axes={"ratio": ratio},
            metric="test/union/accuracy",
            a="sequential",
            b=b,
            family=9,
            winner=UNDECIDED,
            reason="",
            seeds=tuple(range(12)),
            differences=(0.01 * ratio,) * 12,
        )
        for ratio in (0.1, 1.0, 10.0)
        for b in ("combined", "replay", "freeze")
    ]


@pytest.fixture
def started() -> Iterator[None]:
    """A fork server that runs, whatever other tests did."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fork_server, "_is_started", fork_server.is_started())
        fork_server.start("tests.sweep.fake_engine", worker_environment())
        yield


def forbid_drawing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("drawn by the command")

    monkeypatch.setattr(drawing, "difference_maps", refuse)


@pytest.mark.usefixtures("started")
def test_processes_draw_the_maps_that_the_command_would_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here" / "s", tmp_path / "there" / "s"
    there.mkdir(parents=True)
    difference_maps(verdicts(), here, title="s")
    monkeypatch.setattr(drawing, "n_processors", lambda: 2)
    forbid_drawing_here(monkeypatch)
    MapDrawing(verdicts(), there, TABLES).finish()
    assert len(map_names(verdicts())) == 3
    for name in map_names(verdicts()):
        assert (there / name).read_bytes() == (here / name).read_bytes()
    assert {name: (there / name).read_bytes() for name in TABLES} == TABLES


@pytest.mark.usefixtures("started")
def test_maps_of_equal_tables_are_not_drawn_again(tmp_path: Path) -> None:
    MapDrawing(verdicts(), tmp_path, TABLES).finish()
    first, *_ = map_names(verdicts())
    (tmp_path / first).write_bytes(b"as it was")
    MapDrawing(verdicts(), tmp_path, TABLES).finish()
    assert (tmp_path / first).read_bytes() == b"as it was"
    MapDrawing(verdicts(), tmp_path, TABLES | {"table.csv": b"other,numbers\n"}).finish()
    assert (tmp_path / first).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "table.csv").read_bytes() == b"other,numbers\n"


@pytest.mark.usefixtures("started")
def test_the_command_draws_what_dead_processes_did_not(tmp_path: Path) -> None:
    begun = MapDrawing(verdicts(), tmp_path, TABLES)
    for process in multiprocessing.active_children():
        process.kill()
    begun.finish()
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in map_names(verdicts()))


@pytest.mark.usefixtures("started")
def test_the_command_draws_where_the_fork_server_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(_: object) -> None:
        raise EOFError

    monkeypatch.setattr("multiprocessing.context.ForkServerProcess.start", dead)
    MapDrawing(verdicts(), tmp_path, TABLES).finish()
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in map_names(verdicts()))


@pytest.mark.usefixtures("started")
def test_a_map_that_cannot_be_written_is_the_commands_error(tmp_path: Path) -> None:
    first, *_ = map_names(verdicts())
    (tmp_path / first).mkdir()
    with pytest.raises(IsADirectoryError):
        MapDrawing(verdicts(), tmp_path, TABLES).finish()
    assert not (tmp_path / "table.csv").exists(), "the next command draws the maps"
