"""Thousands of trainings of one tiny recipe, for `benchmarks.false_alarms --train`: one value per seed.

They use the same functions as a cell (streams, plan, execute, score), 128 seeds in one group, but write no run folders:
writing 20,000 of them would dominate the run time.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from src.cells.resolve import resolve
from src.config import compose
from src.environment import n_processors
from src.training.devices import device_of
from src.training.execute import execute
from src.training.plan import make_plan
from src.training.scoring import score_stages
from src.training.store.store import Store

RECIPE = (
    "arch.widths=[8]",
    "split.size=60",
    "optimizer.batch_size=20",
    "stopping.epochs=2",
    "trainer=cpu",
    "tracking=off",
)
"""digits, 60 samples, 2 epochs: far from converged, so that seeds differ visibly (accuracies by 11 points, one SD)."""
GROUP_SIZE = 128
BLOCKS_PER_PROCESS = 50
"""A process grows by about 8 MiB a block, so it is replaced after so many."""


def trained_values(seeds: Sequence[int], regime: str, metric: str) -> NDArray[np.float64]:
    """`metric` (``test/union/accuracy``) of a run of `regime` at each seed, on all processors of the machine."""
    blocks = [seeds[start : start + GROUP_SIZE] for start in range(0, len(seeds), GROUP_SIZE)]
    values: list[float] = []
    spawn, wave = multiprocessing.get_context("spawn"), BLOCKS_PER_PROCESS * n_processors()
    for start in range(
        0, len(blocks), wave
    ):  # a pool each: max_tasks_per_child hangs in Python 3.11 (cpython issue 115634)
        with ProcessPoolExecutor(n_processors(), spawn) as pool:
            for block in pool.map(partial(_block, regime, metric), blocks[start : start + wave]):
                values += block
                print(f"\r{len(values):,} of {len(seeds):,} trained", end="", file=sys.stderr)
    print(file=sys.stderr)
    return np.array(values)


def _block(regime: str, metric: str, seeds: Sequence[int]) -> list[float]:
    torch.set_num_threads(1)
    of, _, name = metric.partition("/")
    assert of == "test", "only test metrics are scored here"
    config = compose([*RECIPE, f"regimes=[{regime}]", f"seeds=[{','.join(map(str, seeds))}]"])
    factory, place = resolve(config).streams, device_of(config.trainer)
    streams = {seed: factory.build(seed) for seed in seeds}
    plan = make_plan(config, streams, [(config.regimes[0], seed) for seed in seeds])
    with tempfile.TemporaryDirectory() as scratch:
        execution = execute(config, plan, Store(Path(scratch)), place)
    assert not execution.failures, execution.failures
    ends = [(streams[run.seed], execution.results[run.stages[-1]].weights) for run in plan.runs]
    found = [scores[name] for scores in score_stages(config, ends, "test", place)]
    assert None not in found, f"{metric} is undefined for {regime}"
    return [float(value) for value in found if value is not None]
