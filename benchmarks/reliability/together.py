"""Two simultaneous commands of one sweep, and two simultaneous sweeps with one stage store: each run once, same bits."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.reliability.audit import audit, mlflow_problems
from benchmarks.reliability.sweeps import Sweep, same_results


def campaign(root: Path, words: list[str], n_times: int) -> tuple[list[str], list[str]]:
    """Measurements and problems of both cases, `n_times`; the second command starts 0 to 3 s after the first."""
    untouched = Sweep(root / "untouched", words)
    if untouched.run() != 0:
        raise RuntimeError(untouched.output_text())
    reference = untouched.results()
    problems: list[str] = []
    for number in range(n_times):
        delay = 3.0 * number / max(1, n_times - 1)
        same = Sweep(root / f"same{number}", words)
        problems += _both(same, same, delay, reference) + audit(same, reference)
        one, other = (Sweep(root / f"different{number}", words, name) for name in ("one", "other"))
        problems += _both(one, other, delay, reference) + mlflow_problems(one.multirun)
        problems += same_results(one.results(), reference) + same_results(other.results(), reference)
    return [
        f"{n_times} times two commands of one sweep, and {n_times} times two sweeps, at once; {len(reference)} runs each",
        f"{len(problems)} problems",
        *problems,
    ], problems


def _both(one: Sweep, other: Sweep, delay: float, reference: Mapping[str, Any]) -> list[str]:
    """Run both commands to their ends, the second one `delay` seconds later; return the problems."""
    with one.start() as first:
        time.sleep(delay)
        with other.start() as second:
            statuses = (second.wait(), first.wait())
    problems = (
        [f"exit statuses {statuses}: {one.output_text()[-1000:]} {other.output_text()[-1000:]}"]
        if any(statuses)
        else []
    )
    made = {sweep.folder: sweep.n_trained() for sweep in (one, other)}
    wrong = {folder: n for folder, n in made.items() if n != len(reference)}
    return problems + [f"{folder}: {n} runs were made, {len(reference)} are required" for folder, n in wrong.items()]
