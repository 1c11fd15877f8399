"""A GPU has one lease: first come first served, all or none, released at death, across all sweeps of a machine.

The list of GPUs is fake; processes, locks and kills are real.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import re
import signal
from collections import Counter
from pathlib import Path

import pytest

from src.config import Config, TrainerConfig, compose
from src.errors import ConfigError, Interrupted
from src.sweep.folder import GRID, SweepFolder
from src.sweep.workers.gpus import Devices
from src.sweep.workers.local import LocalWorkers, launch, n_workers_here
from tests.sweep.gpus import pretend

ENGINE = "tests.sweep.fake_engine"
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def trainer() -> TrainerConfig:
    return dataclasses.replace(compose(["trainer=auto"]).trainer, slots=2)


def devices() -> Devices:
    return Devices(free=lambda: None)


def take(one: Devices, trainer: TrainerConfig, *, whole: bool = False, n: int = 1) -> str | None:
    """Lease what is free; raise Interrupted instead of waiting."""
    return one.lease(dataclasses.replace(trainer, devices=n), whole=whole, stop=lambda: True)


def _hold(trainer: TrainerConfig, pipe: multiprocessing.connection.Connection) -> None:
    mine = devices()  # its lease ends with it
    pipe.send(mine.lease(trainer, whole=False, stop=lambda: False))
    signal.pause()


def test_four_gpus_at_two_slots_are_eight_leases_each_twice_and_none_outlives_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: TrainerConfig
) -> None:
    uuids = pretend(4, tmp_path, monkeypatch)
    assert n_workers_here(compose(["trainer.slots=2"])) == 8
    for _ in range(2):  # the second time with the files of dead processes
        ours, theirs = FORK.Pipe()
        holders = [FORK.Process(target=_hold, args=(trainer, theirs)) for _ in range(8)]
        for holder in holders:
            holder.start()
        held = Counter(ours.recv() for _ in holders if ours.poll(60))
        assert held == Counter(dict.fromkeys(uuids, 2))
        with pytest.raises(Interrupted):
            take(devices(), trainer)
        os.kill(holders[0].pid, signal.SIGKILL)  # type: ignore[arg-type]
        holders[0].join()
        ninth = devices()
        assert take(ninth, trainer) in uuids
        ninth.release()
        for holder in holders[1:]:
            os.kill(holder.pid, signal.SIGKILL)  # type: ignore[arg-type]
            holder.join()
    one = devices()
    assert take(one, trainer, n=4) == ",".join(uuids), "dead processes hold no lease"
    one.release()


def test_a_worker_keeps_its_gpu_until_another_waits_and_then_queues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: TrainerConfig
) -> None:
    (gpu,) = pretend(1, tmp_path, monkeypatch)
    alone = dataclasses.replace(trainer, slots=1)
    freed = []
    first, second = Devices(free=lambda: freed.append("first")), devices()
    assert take(first, alone) == gpu
    assert take(first, alone) == gpu, "the next cell, while no other worker waits"

    def next_cell_of_first() -> bool:
        with pytest.raises(Interrupted):
            take(first, alone)
        return False

    assert second.lease(alone, whole=False, stop=next_cell_of_first) == gpu
    assert freed == ["first"]
    second.release()
    assert take(first, alone) == gpu


def test_an_exclusive_gpu_is_leased_once_the_others_release_it_and_admits_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: TrainerConfig
) -> None:
    one, other = pretend(2, tmp_path, monkeypatch)
    workers = [devices() for _ in range(4)]
    assert [take(worker, trainer) for worker in workers] == [one, other, one, other]
    assert workers[0].shared

    def others_next_cells() -> bool:
        for worker, keeps in ((workers[1], True), (workers[2], False), (workers[3], True)):
            if keeps:
                assert take(worker, trainer) == other, "the workers of the other GPU do not wait"
            else:
                with pytest.raises(Interrupted):
                    take(worker, trainer)
        with pytest.raises(Interrupted):
            take(devices(), trainer)
        return False

    assert workers[0].lease(trainer, whole=True, stop=others_next_cells) == one
    assert not workers[0].shared
    assert take(workers[0], trainer) == one
    assert take(workers[2], trainer) == one, "shared again: the other worker may lease a slot"


def test_a_long_wait_for_a_gpu_names_who_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: TrainerConfig, caplog: pytest.LogCaptureFixture
) -> None:
    (gpu,) = pretend(1, tmp_path, monkeypatch)
    monkeypatch.setattr("src.locks.NOTICE_SECONDS", 0.1)
    ours, theirs = FORK.Pipe()
    holders = [FORK.Process(target=_hold, args=(trainer, theirs)) for _ in range(2)]
    for holder in holders:
        holder.start()
    assert {ours.recv(), ours.recv()} == {gpu}
    looks = iter([False] * 3)
    with pytest.raises(Interrupted):
        devices().lease(trainer, whole=False, stop=lambda: next(looks, True))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"waiting for GPU {gpu}, held by process ")
    assert {int(pid) for pid in re.findall(r"process (\d+) on", line)} == {holder.pid for holder in holders}
    for holder in holders:
        holder.kill()
        holder.join()


def test_several_gpus_are_had_all_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: TrainerConfig
) -> None:
    uuids = pretend(3, tmp_path, monkeypatch)
    first, second = devices(), devices()
    assert take(first, trainer, n=2) == ",".join(uuids[:2])
    with pytest.raises(Interrupted):
        take(second, trainer, n=2)
    third = devices()
    assert take(third, trainer) == uuids[2], "an interrupted wait holds no lease"
    with pytest.raises(ConfigError, match=r"trainer\.devices=4: only 3"):
        take(second, trainer, n=4)


def test_no_gpu_is_leased_where_none_is_wanted_or_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: TrainerConfig
) -> None:
    cpu = dataclasses.replace(trainer, name="cpu")
    with monkeypatch.context() as patch:
        pretend(1, tmp_path, patch)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert take(devices(), trainer) is None
        patch.setenv("CUDA_VISIBLE_DEVICES", "0")
        assert take(devices(), trainer) == "0", "a mask's own names are kept"
        assert take(devices(), cpu) is None
    assert not list(tmp_path.glob("gpu-leases-*/*.turn"))


def test_parts_of_a_gpu_are_leased_one_by_one_and_make_no_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: TrainerConfig
) -> None:
    parts = pretend(2, tmp_path, monkeypatch, kind="MIG")
    assert take(devices(), trainer) == parts[0]
    with pytest.raises(ConfigError, match=r"trainer\.devices"):
        take(devices(), trainer, n=2)


@pytest.mark.parametrize(
    ("words", "n_gpus", "expected"),
    [
        (["n_workers=3"], 4, 3),
        ([], 4, 4),
        (["trainer.slots=3"], 2, 6),
        (["trainer.devices=2"], 4, 2),
        ([], 8, 8),
        (["trainer.devices=2"], 8, 4),
        (["trainer=cpu"], 4, 6),
        (["trainer=cpu", "trainer.devices=2"], 4, 3),
        (["trainer.slots=3"], 0, 6),
        (["trainer.devices=8"], 0, 1),
    ],
)
def test_there_are_as_many_workers_as_slots(
    words: list[str], n_gpus: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(n_gpus, tmp_path, monkeypatch)
    monkeypatch.setattr("src.sweep.workers.local.n_processors", lambda: 6)
    assert n_workers_here(compose(words)) == expected


def test_eight_gpus_are_eight_workers_with_a_lease_each_or_four_with_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: TrainerConfig
) -> None:
    uuids = pretend(8, tmp_path, monkeypatch)
    one_each = dataclasses.replace(trainer, slots=1)
    for n in (1, 2):
        workers = [devices() for _ in range(n_workers_here(compose([f"trainer.devices={n}"])))]
        leased = [(take(worker, one_each, n=n) or "").split(",") for worker in workers]
        assert [len(gpus) for gpus in leased] == [n] * (8 // n)
        assert sorted(gpu for gpus in leased for gpu in gpus) == uuids
        with pytest.raises(Interrupted):
            take(devices(), one_each)
        for worker in workers:
            worker.release()


def test_slots_without_mps_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SweepFolder(tmp_path, "s")
    pretend(2, tmp_path, monkeypatch)
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path / "pipes"))
    shared = compose(["trainer.slots=2"])

    def printed(config: Config) -> str:
        launch(folder, config, ENGINE, GRID)
        return capsys.readouterr().err

    assert re.fullmatch(r"trainer\.slots=2: gains nothing: without CUDA MPS .*; start .*\n", printed(shared))
    assert not printed(compose(["trainer.slots=1"]))
    assert not printed(compose(["trainer.slots=2", "trainer=cpu"]))
    (tmp_path / "pipes").mkdir()
    (tmp_path / "pipes/control").touch()
    assert not printed(shared)


def test_more_gpus_than_there_are_are_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = SweepFolder(tmp_path, "s")
    pretend(2, tmp_path, monkeypatch)
    assert isinstance(launch(folder, compose(["trainer.devices=2"]), ENGINE, GRID), LocalWorkers)
    with pytest.raises(ConfigError, match=r"^trainer\.devices=3: only 2 GPUs"):
        launch(folder, compose(["trainer.devices=3"]), ENGINE, GRID)
    assert isinstance(launch(folder, compose(["trainer=cpu", "trainer.devices=3"]), ENGINE, GRID), LocalWorkers)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"^trainer=gpu: no CUDA device"):
        launch(folder, compose(["trainer=gpu"]), ENGINE, GRID)
