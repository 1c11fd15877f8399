"""Executes a plan: every stage is loaded from the store or trained in a group. A failure affects only its own runs."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import math
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import TypeVar

import torch

from src.config import Config
from src.errors import ConfigError, one_line
from src.locks import Notice
from src.training.control import NO_CONTROL, ProgressReport, RunControl
from src.training.devices import Device, broadcast_decision, fingerprint
from src.training.fit import fit
from src.training.graph.choice import continuable, is_trained_by
from src.training.group_size import group_limit
from src.training.monitor import GroupControl
from src.training.penalties import PENALTIES, make_penalty
from src.training.penalties.kind import PenaltyContext
from src.training.plan import Node, StagePlan
from src.training.replicas import ModelState
from src.training.result import Curves, ResumePoint, StageResult
from src.training.scoring import validation_curves
from src.training.starting import (
    group_by_resume_point,
    inherited_optimizer,
    initial_model,
    latest_resume_point,
    starting_model,
)
from src.training.store.store import StageCache, Store
from src.training.targets import n_kept, with_targets

T = TypeVar("T")

log = logging.getLogger(__name__)

LARGE_MIB = 32
"""Weights of a group above which its garbage is collected at once; that takes about 0.1 s."""
WAIT_SECONDS = 60.0
"""Longest wait for another worker before the store is read again; ranks synchronise then."""
POLL_SECONDS = 0.1


@dataclass
class Execution:
    """The stages of a plan after its execution, by key."""

    store: Store
    results: dict[str, StageResult] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)
    """Stages that this execution trained, or workers that helped it; the others were loaded."""
    reused: dict[str, int] = field(default_factory=dict)
    """Samples of a trained stage that were trained for a shorter stage."""
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    """(One line, traceback) of stages that raised, and of those that need them."""
    out_of_memory: bool = False
    """Whether a stage failed because the device's memory was too small."""
    fishers: dict[str, ModelState] = field(default_factory=dict)
    """Fisher information of stages."""

    def diverged(self, key: str) -> bool:
        """Whether the stage's loss became non-finite."""
        return key in self.results and self.results[key].ledger.diverged


def execute(
    config: Config, plan: StagePlan, store: Store, device: Device, control: RunControl = NO_CONTROL
) -> Execution:
    """Loads or trains every stage of the plan, parents first. Stages after a diverged one are not trained.

    With a `control` that `helps` it returns as soon as other workers train all stages that are left. An exception of
    `control` ends the execution, with trained stages and resume points of the others in the store. It receives progress
    reports only if the plan has all runs of the cell.
    """
    executor = _Executor(config, plan, Execution(store), device, control)
    executor.run()
    return executor.execution


def from_first_rank(decide: Callable[[], T], device: Device) -> T:
    """The value that rank 0 computes, on all ranks."""
    if device.world == 1:
        return decide()
    return broadcast_decision(decide() if device.rank == 0 else None)


@dataclass
class _Executor:
    """One pass over a plan. Only rank 0 reads the store, writes it, and takes its locks."""

    config: Config
    plan: StagePlan
    execution: Execution
    device: Device
    control: RunControl

    def __post_init__(self) -> None:
        held = {} if self.device.world == 1 else {"held_mib": math.inf}  # the other ranks cannot read from the store
        self.cache = StageCache(self.execution.store, **held)
        n_runs = len(self.config.regimes) * len(self.config.seeds)
        self.reports_progress = self.control.wants_progress and len(self.plan.runs) == n_runs
        self.skipped: set[str] = set()
        """Stages after a diverged one."""
        self.missed: set[str] = set()
        """Stages that the store lacked when this execution first looked."""
        self.is_shared = False
        """Whether another worker has been free to help."""

    def run(self) -> None:
        """Loads stored stages and trains free ones, then waits for the stages of other workers or takes them over."""
        for group in self.plan.groups:  # now, since what other workers train from here on is trained for this cell
            self._load(group)
        groups, notice = self._open_groups(self.plan.groups), None
        while groups:
            n_locked = 0
            waiting: list[str] = []
            busy: set[str | None] = set()  # prefixes in training elsewhere, from which later groups resume
            for group in groups:
                self.control.on_stage()
                self._load(group)
                ready = [node for node in self._ready(group) if node.prefix_key not in busy]
                n_locked += self._train_shares(ready)
                waiting += self._open([node.key for node in ready])
                busy |= {self.plan.nodes[key].prefix_key for key in self._open(group)} - {None}
            groups = self._open_groups(groups)
            if groups and not n_locked:
                if self.control.helps and len(waiting) == sum(map(len, groups)):
                    return
                notice = notice or Notice("a stage of this cell", partial(self.execution.store.locks.holder, waiting))
                from_first_rank(partial(self._wait, waiting, notice), self.device)

    def _train_shares(self, ready: Sequence[Node]) -> int:
        """Trains the stages that are free, in groups that leave the other workers their share; returns their number."""
        if not ready:
            return 0
        limit = min(group_limit(self.config, ready[0], self.device), math.ceil(len(ready) / self._n_workers()))
        return sum(self._train(ready[start : start + limit]) for start in range(0, len(ready), limit))

    def _n_workers(self) -> int:
        n_workers = self.control.n_workers()
        self.is_shared |= n_workers > 1
        return n_workers

    def _open(self, keys: Iterable[str]) -> tuple[str, ...]:
        """The stages that are still to be loaded or trained."""
        execution = self.execution
        return tuple(k for k in keys if not (k in execution.results or k in execution.failures or k in self.skipped))

    def _open_groups(self, groups: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
        return [left for group in groups if (left := self._open(group))]

    def _load(self, keys: Sequence[str]) -> None:
        """Loads stored results; runs of CPU and of CUDA are never mixed."""
        if not self.config.trainer.reuse:
            return
        store, kind, graph = self.execution.store, self.device.torch_device.type, self.config.trainer.graph

        def stored() -> dict[str, StageResult]:
            results = {key: store.get(key, need_optimizer=key in self.plan.keep_optimizer) for key in keys}
            return {key: one for key, one in results.items() if one and is_trained_by(one.ledger, kind, graph)}

        found = from_first_rank(stored, self.device)
        for key, result in found.items():
            self.execution.results[key] = self.cache.put(key, result)
        late = self.missed & found.keys()
        if late and (self._n_workers() > 1 or self.is_shared):  # trained for this cell
            self.execution.trained |= late
        self.missed |= set(keys) - found.keys()

    def _ready(self, keys: Sequence[str]) -> list[Node]:
        """The stages to train: those of failed parents fail, those of diverged parents are left out."""
        execution, ready = self.execution, []
        for key in self._open(keys):
            node = self.plan.nodes[key]
            needed = [parent for parent in (*node.parents, *node.teachers, node.penalty_parent) if parent is not None]
            failed = next((parent for parent in needed if parent in execution.failures), None)
            if failed is not None:
                execution.failures[key] = execution.failures[failed]
            elif any(execution.diverged(parent) or parent in self.skipped for parent in needed):
                self.skipped.add(key)
            elif all(parent in execution.results for parent in needed):
                ready.append(node)
        return ready

    def _train(self, nodes: Sequence[Node]) -> int:
        """Trains the stages that no other worker trains, and returns their number."""
        store = self.execution.store
        with contextlib.ExitStack() as locks:
            held = store.locks.held([node.key for node in nodes])
            locked = from_first_rank(lambda: locks.enter_context(held), self.device)
            self._load(locked)  # another worker may have finished one meanwhile
            missing = [node for node in nodes if node.key in locked and node.key not in self.execution.results]
            starts = from_first_rank(partial(self._resume_points, missing), self.device)
            for group in group_by_resume_point(missing, starts, self.execution.results):
                self._train_group(group, starts)
        return len(locked)

    def _wait(self, keys: Sequence[str], notice: Notice) -> None:
        """Waits until one of the stages is stored or free, at most `WAIT_SECONDS`; the log names who trains it."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline and not self.execution.store.locks.any_free(keys):
            self.control.on_stage()
            notice.after_waiting()
            time.sleep(POLL_SECONDS)

    def _resume_points(self, nodes: Sequence[Node]) -> dict[str, ResumePoint]:
        store, points, kind = self.execution.store, self.config.trainer.curve_points, self.device.torch_device.type
        found = {node.key: latest_resume_point(node, store, points) for node in nodes}
        starts = continuable(found, kind, self.config.trainer.graph)
        here = fingerprint(self.device)
        others = sorted({machine for point in starts.values() for machine in point.machines} - {here})
        if others:
            log.warning(
                "stages resume on %s that others began on %s: their last bits may differ", here, "; ".join(others)
            )
        return starts

    def _train_group(self, group: Sequence[Node], starts: Mapping[str, ResumePoint], split: str | None = None) -> None:
        """Trains the group. After an exception its halves are trained apart, until the stage at fault fails alone.

        `split`: failure of the larger group, for the ledgers.
        """
        try:
            results = self._fit(group, starts)
        except ConfigError:
            raise
        except Exception as error:
            if self.device.world > 1:  # the other ranks wait for this one: all must end
                raise
            failure = (one_line(error), traceback.format_exc())
            is_out_of_memory = isinstance(error, torch.OutOfMemoryError)
        else:
            for node, trained in zip(group, results, strict=True):
                self._keep(node, dataclasses.replace(trained, ledger=dataclasses.replace(trained.ledger, split=split)))
                if node.key in starts:
                    self.execution.reused[node.key] = starts[node.key].reused
            return
        if len(group) == 1:  # outside the except clause, whose traceback holds on to the attempt's memory
            self.execution.failures[group[0].key] = failure
            self.execution.out_of_memory |= is_out_of_memory
            return
        if self.device.torch_device.type == "cuda":
            torch.cuda.empty_cache()
        half, split = len(group) // 2, f"{len(group)} together: {failure[0]}"
        self._train_group(group[:half], starts, split)
        self._train_group(group[half:], starts, split)

    def _keep(self, node: Node, result: StageResult) -> None:
        if self.device.rank == 0:
            self.execution.store.put(node.key, result)
        kept = self.cache.put(node.key, result)
        if self.device.rank == 0 and result.resume_point is not None and node.prefix_key is not None:
            point = dataclasses.replace(result.resume_point, weights=kept.weights)  # one digest serves both
            self.execution.store.put_prefix(node.prefix_key, node.key, point)
        self.execution.results[node.key] = kept
        self.execution.trained.add(node.key)

    def _fit(self, group: Sequence[Node], starts: Mapping[str, ResumePoint]) -> list[StageResult]:
        config, execution = self.config, self.execution
        resumed = [starts[node.key] for node in group if node.key in starts]
        states = [state for node in group if (state := inherited_optimizer(node, execution.results)) is not None]
        if resumed:
            models = [initial_model(config, node, self.device.dtype) for node in group]
        else:
            models = [starting_model(config, node, execution.results, self.device) for node in group]
        context = PenaltyContext(config, self.plan, execution.results, execution.fishers, self.device)
        group, losses = with_targets(context, group)
        results = fit(
            config,
            group,
            models,
            self.device,
            starts=resumed or None,
            optimizer_states=states or None,
            penalty=make_penalty(context, group),
            losses=losses,
            control=self._group_control(group),
            keep_optimizer=any(node.key in self.plan.keep_optimizer for node in group),
        )
        if sum(t.nbytes for result in results for t in result.weights.values()) > LARGE_MIB * 2**20:
            gc.collect()  # a trainer and its module form a cycle that holds weights, gradients and momentum
        return [_charged(self.plan, node, result) for node, result in zip(group, results, strict=True)]

    def _group_control(self, group: Sequence[Node]) -> GroupControl | None:
        """None without checkpoints, and with a loss scale or `online`, which no resume point holds."""
        trainer = self.config.trainer
        if not trainer.checkpoint_seconds or self.config.online or trainer.precision == "16-mixed":
            return None
        report, save = partial(self._report, group), partial(self._save, group)
        return GroupControl(trainer.checkpoint_seconds, self.control.on_stage, report, save)

    def _report(self, group: Sequence[Node], curves: Callable[[], Mapping[int, Curves]]) -> None:
        if self.reports_progress:
            results = self.execution.results
            known = {key: result.curves for key, result in results.items() if not result.ledger.diverged}
            known |= {group[model].key: own for model, own in curves().items()}
            self.control.on_progress(progress_reports(self.plan, known))

    def _save(self, group: Sequence[Node], states: Sequence[ResumePoint | StageResult]) -> None:
        store = self.execution.store
        for node, state in zip(group, states, strict=True) if self.device.rank == 0 else ():
            if isinstance(state, ResumePoint):
                store.put_resume_point(node.key, state)
            else:
                store.put(node.key, _charged(self.plan, node, state))


def _charged(plan: StagePlan, node: Node, result: StageResult) -> StageResult:
    """The result with the cost of its penalty, targets and start in its ledger."""
    passes = n_kept(node) / 3
    if node.penalty_parent is not None:
        passes += PENALTIES[node.stage.penalty.kind].extra_passes(plan, node, result.ledger.samples)
    passes += node.length.n_draws if node.stage.start.kind == "dash" else 0
    return dataclasses.replace(result, ledger=dataclasses.replace(result.ledger, extra_passes=passes))


def progress_reports(plan: StagePlan, curves: Mapping[str, Curves]) -> list[ProgressReport]:
    """The points of the last stage that every run of a one-regime plan has reached, in order.

    Empty while a run has not begun its last stage and when one has diverged. `curves`: by stage key. Runs count equally
    and are summed in the plan's order, as for the trial's final value.
    """
    assert len({run.regime for run in plan.runs}) == 1, "a mean over regimes means nothing"
    series_of_runs = []
    for run in plan.runs:
        node = plan.nodes[run.stages[-1]]
        if node.key not in curves:
            return []
        own, n_updates = curves[node.key], node.length.updates
        series = validation_curves(node.stream, own)
        shares = [Fraction(int(step), n_updates) for step in own.steps] if n_updates else []
        series_of_runs.append({share: {n: float(series[n][k]) for n in series} for k, share in enumerate(shares)})
    common = [share for share in series_of_runs[0] if all(share in series for series in series_of_runs)]
    first, n_runs = series_of_runs[0], len(series_of_runs)
    return [
        ProgressReport(share, {n: sum(series[share][n] for series in series_of_runs) / n_runs for n in first[share]})
        for share in common
    ]
