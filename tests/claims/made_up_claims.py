"""An artificial claim, and runs whose metric is computed by a rule."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from src.claims.cell import CellRuns
from src.claims.claims import Claim, Study, parse_claim
from src.claims.verdicts import Evidence, StatementVerdict, judge_statement
from src.comparison.pairing import RunRecord
from src.config import Config
from src.training.store.store import Store

PLAIN: dict[str, Any] = {
    "id": "plain",
    "sentence": "a sentence",
    "source": "Q",
    "studies": [
        {
            "where": "digits",
            "overrides": ["stopping=convergence", "split.size=400"],
            "axes": {"split.ratio": [0.1, 1, 10], "split.imbalance": [1, 5]},
            "regimes": ["sequential", "combined"],
            "statements": [
                {"says": "x", "metric": "m", "of": "combined", "minus": "sequential", "predicted": "positive"},
            ],
        }
    ],
}

Rule = Callable[[Mapping[str, Any], str, int], float | None]


def evidence_of(study: Study, rule: Rule, config: Config, diverged: tuple[str, int] | None = None) -> Evidence:
    """Evidence in which metric m of every run is `rule(coordinates, regime label, seed)`."""
    cells = []
    for number, coordinates in enumerate(study.coordinates):
        runs = {}
        for label in ("sequential", "combined", "replay(share=0.2)"):
            for seed in range(study.seeds):
                runs[label, seed] = RunRecord(
                    path=Path("nowhere/result.json"),
                    sweep="claims",
                    cell=f"c{number}",
                    run="r",
                    regime=label,
                    seed=seed,
                    axes={},
                    diverged=(label, seed) == diverged,
                    result={"metrics": {"m": rule(coordinates, label, seed)}, "stages": [{"converged": None}]},
                    provenance={"device": "cpu"},
                )
        cells.append(
            CellRuns(config=config, cell=f"c{number}", runs=runs, factory=None, store=Store(Path()))  # type: ignore[arg-type]
        )
    return Evidence(study=study, cells=tuple(cells))


def claim_of(*statements: Mapping[str, Any]) -> Claim:
    given = copy.deepcopy(PLAIN)
    base = {"says": "x", "metric": "m", "of": "combined"}
    given["studies"][0]["statements"] = [{**base, **one} for one in statements]
    given["studies"][0]["regimes"].append({"replay": {"share": 0.2}})
    return parse_claim(given)


def jitter(seed: int) -> float:
    return 0.001 * math.sin(7 * seed + 1)


def verdict_of(statement: Mapping[str, Any], rule: Rule, config: Config, **diverged: Any) -> StatementVerdict:
    claim = claim_of(statement)
    study = claim.studies[0]
    return judge_statement(study.statements[0], evidence_of(study, rule, config, **diverged))
