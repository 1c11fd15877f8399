"""GPUs lent to the workers of this machine, whichever sweep they serve: first come, first served, all or none.

The machine has one book for each user, a folder in the temporary directory, with an entry for every process that holds
or waits for GPUs. An entry has a lock that the system drops with the process, however it dies: the dead hold nothing.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from filelock import FileLock

from src.config import TrainerConfig
from src.errors import ConfigError, Interrupted
from src.io import write_atomically
from src.sweep.processes import locked
from src.sweep.workers.gpus import MASK, gpus_here

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Wish:
    """`n` of the GPUs `gpus` (UUIDs), and on each of them one of `slots` equal shares."""

    gpus: tuple[str, ...]
    n: int
    slots: int


def grants(line: Sequence[Wish], used: Mapping[str, Fraction]) -> list[tuple[str, ...]]:
    """What each wish of the line, the oldest first, can have now; empty where it must wait.

    `used`: how much of a GPU is lent. The emptiest GPUs are given first. What a wish waits for is kept for it, so that
    one for whole GPUs is not starved by many for shares.
    """
    left = defaultdict(lambda: Fraction(1), {gpu: 1 - share for gpu, share in used.items()})
    found = []
    for wish in line:
        emptiest = tuple(sorted(wish.gpus, key=lambda gpu: -left[gpu])[: wish.n])
        share = Fraction(1, wish.slots)
        found.append(emptiest if all(left[gpu] >= share for gpu in emptiest) else ())
        for gpu in emptiest:
            left[gpu] -= share
    return found


@dataclass(frozen=True)
class Entry:
    """A process in the book. `since`: when it made its wish (ns); `held`: what it has of it, which is all or nothing."""

    since: int
    wish: Wish
    held: tuple[str, ...]


class Tenant:
    """This process in the book. Not for use by two threads at once."""

    def __init__(self, book: Path) -> None:
        self._book = book
        self._turn = FileLock(book / "turn.lock", poll_interval=0.01)
        self._path = book / f"{os.getpid()}-{secrets.token_hex(3)}.json"
        self._life = FileLock(self._path.with_suffix(".life"))
        self._mine: Entry | None = None

    @property
    def held(self) -> tuple[str, ...]:
        """The GPUs that this process holds."""
        return self._mine.held if self._mine is not None else ()

    def ask(self, wish: Wish, *, anew: bool) -> bool:
        """Whether the wish is granted now; if not, it keeps its place in the line and is to be asked again.

        `anew`: it is a further wish and goes to the end of the line. What was held until now goes back, unless it is
        granted again, as it is when nobody waits for it.
        """
        self._book.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._turn:
            others = self._others()
            since = time.time_ns() if anew or self._mine is None else self._mine.since
            used: dict[str, Fraction] = defaultdict(Fraction)
            for other in others:
                for gpu in other.held:
                    used[gpu] += Fraction(1, other.wish.slots)
            waiting = sorted((o for o in others if not o.held and o.since < since), key=lambda o: o.since)
            *_, granted = grants([*(other.wish for other in waiting), wish], used)
            self._enter(Entry(since, wish, granted))
        return bool(granted)

    def give_back(self) -> None:
        """Gives back what is held and leaves the line."""
        if self._mine is None:
            return
        with self._turn:
            self._path.unlink(missing_ok=True)
            self._life.release()
            Path(self._life.lock_file).unlink(missing_ok=True)
            self._mine = None

    def _enter(self, entry: Entry) -> None:
        if not self._life.is_locked:
            self._life.acquire()
        wish = entry.wish
        body = {"since": entry.since, "gpus": wish.gpus, "n": wish.n, "slots": wish.slots, "held": entry.held}
        write_atomically(self._path, json.dumps(body), durable=False)
        self._mine = entry

    def _others(self) -> list[Entry]:
        """The entries of the other living processes; those of the dead are removed."""
        found = []
        for path in sorted(self._book.glob("[!.]*.json")):
            if path == self._path:
                continue
            if locked(path.with_suffix(".life")):
                body = json.loads(path.read_text(encoding="utf-8"))
                wish = Wish(tuple(body["gpus"]), body["n"], body["slots"])
                found.append(Entry(body["since"], wish, tuple(body["held"])))
            else:
                path.unlink(missing_ok=True)
                path.with_suffix(".life").unlink(missing_ok=True)
        return found


class Devices:
    """The GPUs of this worker: it leases them for its cells, keeps them between cells unless another process waits for
    them, and says which of them are to be seen.

    A process that has used a GPU cannot exchange it for another one: what it leases later for itself is a share of the
    same; `forget` is called when it gives that up for a while, to free what memory the process keeps there. Where there
    are no GPUs, or the trainer wants none, nothing is leased.
    """

    def __init__(self, forget: Callable[[], None], book: Path | None = None) -> None:
        self._forget = forget
        self._gpus = {gpu.uuid: gpu for gpu in gpus_here()}
        self._tenant = Tenant(book or Path(tempfile.gettempdir()) / f"gpu-leases-{os.getuid()}")
        self._mine: str | None = None
        self._wish: Wish | None = None

    @property
    def shared(self) -> bool:
        """Whether others may be on the GPU that is leased."""
        return bool(self._tenant.held) and self._wish is not None and self._wish.slots > 1

    def take(self, trainer: TrainerConfig, *, whole: bool, stop: Callable[[], bool]) -> str | None:
        """Leases what a cell needs and returns it as a value of CUDA_VISIBLE_DEVICES; None where it needs no GPU.

        `whole`: the GPU to itself, whatever the trainer's slots. Waits as long as it must; raises Interrupted when `stop`
        says so meanwhile, and ConfigError where the machine has not as many.
        """
        if trainer.name == "cpu" or not self._gpus:
            return None
        self._wish = wish = self._wish_of(trainer, whole)
        granted = self._tenant.ask(wish, anew=True)
        if self._mine is not None and self._mine not in self._tenant.held:
            self._forget()
        while not granted:
            if stop():
                self.give_back()
                raise Interrupted
            time.sleep(POLL_SECONDS)
            granted = self._tenant.ask(wish, anew=False)
        if trainer.devices == 1:
            (self._mine,) = self._tenant.held
        return ",".join(self._gpus[uuid].shown for uuid in self._tenant.held)

    def give_back(self) -> None:
        """Gives back what is held, if anything is."""
        if self._tenant.held and self._mine is not None:
            self._forget()
        self._tenant.give_back()

    def _wish_of(self, trainer: TrainerConfig, whole: bool) -> Wish:
        if trainer.devices == 1:
            gpus = (self._mine,) if self._mine is not None else tuple(self._gpus)
            return Wish(gpus, 1, 1 if whole else trainer.slots)
        gpus = tuple(gpu.uuid for gpu in self._gpus.values() if not gpu.is_part)
        if trainer.devices > len(gpus):
            problem = f"only {len(gpus)} whole GPUs are to be seen here ({MASK} limits them); lower it"
            raise ConfigError("trainer.devices", trainer.devices, problem)
        return Wish(gpus, trainer.devices, 1)
