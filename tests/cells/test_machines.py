"""A stage knows the kinds of machine that trained it; runs and tables say where a pair of runs mixes several."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.comparison.pairing import load_records, pair
from src.io import CONF_DIR
from src.training.devices import device_of, fingerprint
from tests.cells.running import cell, results

ELSEWHERE = "import sys; from pathlib import Path; from tests.cells.running import cell, ran; ran(cell(Path(sys.argv[1]), *sys.argv[2:]))"


def test_a_stage_resumed_on_another_kind_of_cpu_is_named_in_the_result_and_below_the_table(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short, longer = cell(tmp_path, "seeds=1", "stopping.epochs=2"), cell(tmp_path, "seeds=1", "stopping.epochs=4")
    alone = cell(tmp_path / "alone", "seeds=1", "stopping.epochs=4")
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path), "seeds=1", "stopping.epochs=2"]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    subprocess.run(command, cwd=CONF_DIR.parent, env=environment, check=True, timeout=300)
    here = fingerprint(device_of(short.trainer))
    (elsewhere,) = {
        kind
        for path in resolve(short).folder.glob("*/result.json")
        for stage in json.loads(path.read_text())["provenance"]["machines"]
        for kind in stage
    }
    assert "DEFAULT" in elsewhere
    assert elsewhere != here
    with caplog.at_level(logging.WARNING):
        run_cell(resolve(longer))
        run_cell(resolve(alone))
    assert set(caplog.messages) == {
        f"stages resume on {here} that others began on {elsewhere}: their last bits may differ"
    }
    machines = {
        name: json.loads((resolve(longer).folder / name / "result.json").read_text())["provenance"]["machines"]
        for name in results(longer)
    }
    assert machines == {"combined-0": [[elsewhere, here]], "sequential-0": [[elsewhere, here], [here]]}
    for config, notes in ((short, 0), (longer, 1), (alone, 0)):
        found = resolve(config)
        pairs = pair(
            load_records(found.sweep_dir, cells=[found.hash]).runs, "sequential", "combined", "test/union/accuracy"
        )
        assert pairs.n == 1
        assert pairs.notes.count("seed 0 trained on several kinds of machine, which round differently") == notes
