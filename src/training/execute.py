"""Walks the plan: every stage is loaded from the store or fit, in groups; what fails takes only its own runs with it."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch

from src.config import Config
from src.errors import ConfigError
from src.training.control import NO_CONTROL, RunControl
from src.training.devices import Device
from src.training.fit import fit
from src.training.group_size import group_limit
from src.training.penalties.penalties import extra_passes, make_penalty
from src.training.plan import Node, StagePlan
from src.training.progress import progress_reports
from src.training.replicas import ModelState
from src.training.result import Curves, ResumePoint, StageResult
from src.training.starting import group_by_resume_point, inherited, latest_resume_point, starting_model
from src.training.store.cache import StageCache
from src.training.store.store import Store

T = TypeVar("T")

LARGE_MIB = 32
"""Weights of a group above which what its fit leaves behind is looked for at once; it takes about 0.1 s."""

WAITS = 60.0
"""Seconds after which one who waits for another worker looks at all again; with several devices the others hear of it."""
POLL_SECONDS = 0.1


@dataclass
class Execution:
    """What became of a plan's stages. `results`: by key; `trained`: keys that were fit just now, the others were loaded;
    `reused`: of the trained, samples that a shorter stage had been trained on before; `failures`: key -> (one line,
    traceback), of a stage that raised and of those that needed it; `out_of_memory`: whether one did for want of the
    device's memory; `fishers`: Fisher information by the stage it was taken of."""

    store: Store
    results: dict[str, StageResult] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)
    reused: dict[str, int] = field(default_factory=dict)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    out_of_memory: bool = False
    fishers: dict[str, ModelState] = field(default_factory=dict)

    def diverged(self, key: str) -> bool:
        """Whether the stage's loss stopped being finite."""
        return key in self.results and self.results[key].ledger.diverged


def execute(
    config: Config,
    plan: StagePlan,
    store: Store,
    place: Device,
    control: RunControl = NO_CONTROL,
) -> Execution:
    """Loads or trains every stage of the plan, parents first. Stages after a diverged one are not trained.

    What `control` raises ends the walk, with trained stages and the progress of the others in the store. It receives
    progress reports only if the plan has all runs of the cell.
    """
    walk = _Walk(config, plan, Execution(store), place, control)
    for group in plan.groups:
        walk.group(group)
    return walk.execution


def from_first_rank(decide: Callable[[], T], place: Device) -> T:
    """What rank 0 decides, told to all ranks; alone, simply the decision."""
    if place.world == 1:
        return decide()
    box: list[T | None] = [decide() if place.rank == 0 else None]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]  # type: ignore[return-value]


@dataclass
class _Walk:
    """One pass over a plan. Only rank 0 reads the store, writes it, and takes its locks."""

    config: Config
    plan: StagePlan
    execution: Execution
    place: Device
    control: RunControl

    def __post_init__(self) -> None:
        n_runs = len(self.config.regimes) * len(self.config.seeds)
        self.reports_progress = self.control.wants_progress and len(self.plan.runs) == n_runs
        held = {} if self.place.world == 1 else {"held_mib": math.inf}  # other ranks have no store to read from
        self.shelf = StageCache(self.execution.store, **held)

    def group(self, group: Sequence[str]) -> None:
        """Loads what there is, trains what nobody else is training, then waits for the rest, or takes it over."""
        left = list(group)
        while left:
            self.control.on_stage()
            self._load(left)
            ready = self._ready(left)
            limit = group_limit(self.config, ready[0], self.place) if ready else 1
            n_taken = sum(self._train(ready[start : start + limit]) for start in range(0, len(ready), limit))
            left = [node.key for node in self._ready([node.key for node in ready])]
            if left and not n_taken:
                from_first_rank(partial(self._wait, left), self.place)

    def _load(self, keys: Sequence[str]) -> None:
        """Takes what the store has; runs of CPU and of CUDA are never mixed."""
        if not self.config.trainer.reuse:
            return
        store, device = self.execution.store, self.place.torch_device.type

        def found() -> dict[str, StageResult]:
            kept = {key: store.get(key, need_optimizer=key in self.plan.keep_optimizer) for key in keys}
            return {key: one for key, one in kept.items() if one is not None and one.ledger.device == device}

        for key, result in from_first_rank(found, self.place).items():
            self.execution.results[key] = self.shelf.put(key, result)

    def _ready(self, keys: Sequence[str]) -> list[Node]:
        """The stages to be trained: those of failed parents fail, those of diverged ones are left out."""
        execution, ready = self.execution, []
        for key in keys:
            if key in execution.results or key in execution.failures:
                continue
            node = self.plan.nodes[key]
            needed = [*node.parents, *([node.penalty_parent] if node.penalty_parent else [])]
            failed = next((parent for parent in needed if parent in execution.failures), None)
            if failed is not None:
                execution.failures[key] = execution.failures[failed]
            elif all(parent in execution.results and not execution.diverged(parent) for parent in needed):
                ready.append(node)
        return ready

    def _train(self, nodes: Sequence[Node]) -> int:
        """Trains those of the stages that nobody else is training; how many."""
        store = self.execution.store
        with contextlib.ExitStack() as locks:
            taken = from_first_rank(lambda: locks.enter_context(store.locked(node.key for node in nodes)), self.place)
            self._load(taken)  # another worker may have finished one since we looked
            missing = [node for node in nodes if node.key in taken and node.key not in self.execution.results]
            starts = from_first_rank(partial(self._starts, missing), self.place)
            for group in group_by_resume_point(missing, starts, self.execution.results):
                self._train_group(group, starts)
        return len(taken)

    def _wait(self, keys: Sequence[str]) -> None:
        """Until one of the stages is done, or its holder gone, or it is time to look again."""
        patience = time.monotonic() + WAITS
        while time.monotonic() < patience and not self.execution.store.any_free(keys):
            self.control.on_stage()
            time.sleep(POLL_SECONDS)

    def _starts(self, nodes: Sequence[Node]) -> dict[str, ResumePoint]:
        """What the stages go on from: where they were left, or the end of a shorter stage of their line if that is further."""
        store, points = self.execution.store, self.config.trainer.curve_points
        found = {node.key: latest_resume_point(node, store, points) for node in nodes}
        return {
            k: start for k, start in found.items() if start is not None and start.device == self.place.torch_device.type
        }

    def _train_group(self, group: Sequence[Node], starts: Mapping[str, ResumePoint], split: str | None = None) -> None:
        """Trains the group; if that raises, its halves apart, until what is at fault is alone: it fails, the others do
        not. `split`: why the group is a part of a larger one, for the ledger of its stages."""
        try:
            results = self._fit(group, starts)
        except ConfigError:
            raise
        except Exception as error:
            if self.place.world > 1:  # the other ranks wait for this one: all must end
                raise
            failure = (" ".join(f"{type(error).__name__}: {error}".split()), traceback.format_exc())
            no_memory = isinstance(error, torch.OutOfMemoryError)
        else:
            for node, trained in zip(group, results, strict=True):
                self._keep(node, dataclasses.replace(trained, ledger=dataclasses.replace(trained.ledger, split=split)))
                if node.key in starts:
                    self.execution.reused[node.key] = starts[node.key].reused
            return
        if len(group) == 1:  # outside the except clause, whose traceback holds on to the attempt's memory
            self.execution.failures[group[0].key] = failure
            self.execution.out_of_memory |= no_memory
            return
        if self.place.torch_device.type == "cuda":
            torch.cuda.empty_cache()
        half, split = len(group) // 2, f"{len(group)} together: {failure[0]}"
        self._train_group(group[:half], starts, split)
        self._train_group(group[half:], starts, split)

    def _keep(self, node: Node, result: StageResult) -> None:
        if self.place.rank == 0:
            self.execution.store.put(node.key, result)
            if result.resume_point is not None:
                assert node.prefix_key is not None
                self.execution.store.put_prefix(node.prefix_key, node.key, result.resume_point)
        self.execution.results[node.key] = self.shelf.put(node.key, result)
        self.execution.trained.add(node.key)

    def _fit(self, group: Sequence[Node], starts: Mapping[str, ResumePoint]) -> list[StageResult]:
        config, execution, first = self.config, self.execution, group[0]
        going_on = [starts[node.key] for node in group if node.key in starts]
        states = [state for node in group if (state := inherited(node, execution.results)) is not None]
        results = fit(
            config,
            group,
            [starting_model(config, node, execution.results, self.place, fresh=bool(going_on)) for node in group],
            self.place,
            optimizer_states=states or None,
            penalty=make_penalty(config, self.plan, group, execution.results, execution.fishers, self.place),
            keep_optimizer=any(node.key in self.plan.keep_optimizer for node in group),
            starts=going_on or None,
            checkpoints=self._checkpoints(group),
            keep_resume_point=first.prefix_key is not None and first.length.whole_epochs,
        )
        if sum(t.nbytes for result in results for t in result.weights.values()) > LARGE_MIB * 2**20:
            gc.collect()  # a trainer and its module hold each other, with weights, gradients and momentum
        return [_charged(self.plan, node, result) for node, result in zip(group, results, strict=True)]

    def _checkpoints(self, group: Sequence[Node]) -> _Checkpoints | None:
        """None where the user wants none, and with a loss scale, which is no part of what is kept."""
        trainer = self.config.trainer
        if not trainer.checkpoint_seconds or trainer.precision == "16-mixed":
            return None
        return _Checkpoints(self, group, trainer.checkpoint_seconds)


@dataclass
class _Checkpoints:
    """Keeps how far a group has come: those that have ended as results, the others to be gone on with."""

    walk: _Walk
    group: Sequence[Node]
    seconds: float

    def leave(self) -> None:
        self.walk.control.on_stage()

    def passed(self, curves: Callable[[], Mapping[int, Curves]]) -> None:
        if self.walk.reports_progress:
            results = self.walk.execution.results
            done = {key: result.curves for key, result in results.items() if not result.ledger.diverged}
            all_curves = done | {self.group[model].key: own for model, own in curves().items()}
            self.walk.control.on_progress(progress_reports(self.walk.plan, all_curves))

    def save(self, standings: Sequence[ResumePoint | StageResult]) -> None:
        store = self.walk.execution.store
        if self.walk.place.rank:
            return
        for node, standing in zip(self.group, standings, strict=True):
            if isinstance(standing, ResumePoint):
                store.put_resume_point(node.key, standing)
            else:
                store.put(node.key, _charged(self.walk.plan, node, standing))


def _charged(plan: StagePlan, node: Node, result: StageResult) -> StageResult:
    """The result with what its penalty cost in its ledger."""
    passes = extra_passes(plan, node, result.ledger.samples)
    return dataclasses.replace(result, ledger=dataclasses.replace(result.ledger, extra_passes=passes))
