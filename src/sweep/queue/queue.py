"""The sweep's work queue: an Optuna study whose WAITING trials are the cells to run.

A trial carries the cell's hash as a user attribute and its axes as ordinary parameters. What is missing is never read
from here but from the results on disk, so a lost queue costs nothing: the same command fills it again.

Every change of hands is one transaction under one lock (`TrialDatabase`): a trial is WAITING, RUNNING under a worker, or
finished, and can be nothing in between.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState, create_trial

from src.config import Config
from src.sweep.engine import Outcome
from src.sweep.folder import GRID, SweepFolder
from src.sweep.grid.cells import Cell, covers, union
from src.sweep.processes import Member
from src.sweep.queue.database import TrialDatabase, locked
from src.sweep.queue.parameters import Distributions
from src.training.control import OnProgress

MAX_ATTEMPTS = 4
"""A cell whose worker dies is taken up again 3 times."""

DROPPED = "dropped: its command is gone"
"""The reason of a trial that nobody waits for any more."""


@dataclass(frozen=True)
class Claim:
    """A cell that this worker, and no other, is to run now. `whole_gpu`: it needs its GPU to itself."""

    trial_id: int
    cell: str
    attempt: int
    whole_gpu: bool = False


class WorkQueue(TrialDatabase):
    """The queue of one sweep, seen by one member. `study`, `direction`: of Optuna's study, whose name is the sweep's unless
    given; see `TrialDatabase`."""

    def __init__(
        self,
        folder: SweepFolder,
        member: Member,
        about: Mapping[str, Any],
        *,
        study: str | None = None,
        direction: Literal["maximize", "minimize"] = "maximize",
    ) -> None:
        self._folder, self._member = folder, member
        super().__init__(folder, about, study or folder.sweep, direction)

    @property
    def name(self) -> str:
        """The id of the search that it serves, or `GRID`."""
        return GRID

    # -------------------------------------------------------------------------------------------- filling it

    @locked
    def enqueue(
        self, cells: Sequence[tuple[str, Cell]], distributions: Distributions, *, alone: bool
    ) -> dict[str, int]:
        """Queues cells with missing runs, by hash, unless an open trial already covers them; returns the trial of each.

        The trial of a cell whose folder cannot be written has failed when this returns.
        `alone`: no other command of this sweep lives, so that what waits for a dead one need not be kept.
        """
        trials: dict[str, int] = {}
        new: dict[str, FrozenTrial] = {}
        problems: dict[str, str] = {}
        alone = alone and not self._member.others("sweep")  # another one may have come meanwhile
        entries = self.entries("WAITING", "RUNNING")
        waiting = {entry.cell: entry for entry in entries if entry.state == "WAITING"}
        running = {entry.cell: entry for entry in entries if entry.state == "RUNNING"}
        for cell_hash, cell in cells:
            entry = waiting.get(cell_hash)
            config = cell.config
            if entry is None and cell_hash in running:
                under_way = self._folder.read_cell(cell_hash)
                if covers(under_way, config):
                    trials[cell_hash] = running[cell_hash].trial_id
                    continue
                config = _both(under_way, config)
            elif entry is not None and not alone:
                config = _both(self._folder.read_cell(cell_hash), config)
            try:
                self._folder.write_cell(cell_hash, config)
            except OSError as error:  # of this cell's folder; the others can run
                problems[cell_hash] = f"{type(error).__name__}: {error}"
            if entry is not None:
                trials[cell_hash] = entry.trial_id
            else:
                new[cell_hash] = _waiting_trial(cell_hash, cell, distributions)
        trials |= zip(new, self._add(list(new.values())), strict=True)
        for cell_hash, problem in problems.items():
            self._change(trials[cell_hash], TrialState.FAIL, reason=problem)
        return trials

    @locked
    def forget(self, kept: Sequence[str]) -> None:
        """Drops what waits for commands that are gone, except the cells `kept`; nothing while another command lives."""
        if self._member.others("sweep"):  # under the lock: a command is a member before it queues anything
            return
        for entry in self.entries("WAITING"):
            if entry.cell not in kept:
                self._change(entry.trial_id, TrialState.FAIL, reason=DROPPED)

    # -------------------------------------------------------------------------------------------- emptying it

    def warm_up(self) -> None:
        """Loads what claiming takes, before the first claim."""

    def claim(self) -> Claim | None:
        """Takes the first waiting cell that no worker is running; None when there is none."""
        return self._claim([])

    @locked
    def _claim(self, begun: list[int]) -> Claim | None:
        """`begun`: the trials that it was taking when the server went away; such a claim may be committed."""
        running = self.entries("RUNNING")
        for entry in running:
            if entry.trial_id in begun and entry.worker == self._member.id:
                return Claim(entry.trial_id, entry.cell, entry.attempt, entry.whole_gpu)
        taken = {entry.cell for entry in running}
        for entry in self.entries("WAITING", limit=len(taken) + 1):
            if entry.cell in taken:
                continue
            begun.append(entry.trial_id)
            claimed = self._change(entry.trial_id, TrialState.RUNNING, worker=self._member.id)
            assert claimed, "a waiting trial changed hands under the lock"
            return Claim(entry.trial_id, entry.cell, entry.attempt, entry.whole_gpu)
        return None

    def config_of(self, claim: Claim) -> Config:
        """What a claim's worker is to run."""
        return self._folder.read_cell(claim.cell)

    def on_progress(self, claim: Claim) -> OnProgress | None:
        """What is to hear, while a claim's runs train, how far they have come, and may raise `Pruned`; None: nobody."""
        del claim
        return None

    def tell(self, claim: Claim, outcome: Outcome) -> None:
        """Ends the cell as it came out."""
        if outcome.failures:
            self.fail(claim, in_short(outcome.failures))
        elif outcome.value is None or not math.isfinite(outcome.value):
            self.complete_without_value(claim, "inconclusive")
        else:
            self.complete(claim, outcome.value)

    @locked
    def complete(self, claim: Claim, value: float, about: Mapping[str, Any] | None = None) -> bool:
        """Ends the cell with its value; False when another worker has already ended it. `about`: noted with the trial."""
        assert math.isfinite(value)
        return self._change(claim.trial_id, TrialState.COMPLETE, value=value, **(about or {}))

    @locked
    def complete_without_value(self, claim: Claim, reason: str) -> bool:
        """Ends a cell that is inconclusive, or not worth finishing; Optuna calls such a trial pruned."""
        return self._change(claim.trial_id, TrialState.PRUNED, reason=reason)

    @locked
    def fail(self, claim: Claim, reason: str) -> bool:
        """Ends the cell as failed; the next command tries it again, since its results are missing."""
        return self._change(claim.trial_id, TrialState.FAIL, reason=reason)

    @locked
    def requeue(self, claim: Claim, *, whole_gpu: bool = False) -> None:
        """Gives a cell back, unless another host took this worker for dead and has it.

        `whole_gpu`: its next worker is to have its GPU to itself.
        """
        if any(e.trial_id == claim.trial_id and e.worker == self._member.id for e in self.entries("RUNNING")):
            needs = {"whole_gpu": True} if whole_gpu else {}
            self._change(claim.trial_id, TrialState.WAITING, **needs)

    def take_up_dead(self, *, forgive: bool = False) -> list[Claim]:
        """Gives back the cells whose workers died, and ends those that killed `MAX_ATTEMPTS` workers, which it returns.

        `forgive` counts from 1 again: a new command is a new attempt.
        """
        given_up: dict[int, Claim] = {}
        self._take_up_dead(given_up, forgive=forgive)
        return list(given_up.values())

    @locked
    def _take_up_dead(self, given_up: dict[int, Claim], *, forgive: bool) -> None:
        """Adds to `given_up`, by their trials: were it returned, it would be lost with the server's answer."""
        for entry in self.entries("RUNNING"):
            if entry.worker is not None and self._member.alive(entry.worker):
                continue
            if entry.attempt >= MAX_ATTEMPTS and not forgive:
                reason = f"its worker died {entry.attempt} times (the last: {entry.worker}); out of memory?"
                self._change(entry.trial_id, TrialState.FAIL, reason=reason)
                given_up[entry.trial_id] = Claim(entry.trial_id, entry.cell, entry.attempt)
                continue
            self._change(entry.trial_id, TrialState.WAITING, attempt=1 if forgive else entry.attempt + 1)

    # -------------------------------------------------------------------------------------------- looking at it

    def n_waiting(self) -> int:
        """How many cells wait for a worker."""
        return sum(state == "WAITING" for state in self.states().values())

    def sample(self) -> Config | None:
        """What one of the cells that are not done runs with; None when all are done."""
        first = self.entries("WAITING", "RUNNING", limit=1)
        return self._folder.read_cell(first[0].cell) if first else None

    def n_ended(self) -> int:
        """How many trials have ended, however they did."""
        return sum(state not in ("WAITING", "RUNNING") for state in self.states().values())


def in_short(failures: Sequence[str]) -> str:
    """The first failure, and how many more there are."""
    others = len(failures) - 1
    return failures[0] + (f" (and {others} more)" if others else "")


def _both(first: Config, second: Config) -> Config:
    """`second` with the regimes and seeds of both."""
    return dataclasses.replace(
        second, regimes=union(first.regimes, second.regimes), seeds=union(first.seeds, second.seeds)
    )


def _waiting_trial(cell_hash: str, cell: Cell, distributions: Distributions) -> FrozenTrial:
    chosen = distributions.of(cell.axes)
    return create_trial(
        state=TrialState.WAITING,
        params={name: value for name, (value, _) in chosen.items()},
        distributions={name: distribution for name, (_, distribution) in chosen.items()},
        user_attrs={"cell": cell_hash, "axes": {key: str(value) for key, value in cell.axes.items()}, "attempt": 1},
    )
