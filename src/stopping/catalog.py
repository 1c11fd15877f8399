"""The stopping rules by name."""

from __future__ import annotations

from src.stopping.budget import BudgetStopping
from src.stopping.convergence import ConvergenceStopping
from src.stopping.early_stopping import EarlyStopping
from src.stopping.epochs import EpochsStopping
from src.stopping.rule import StoppingRule
from src.stopping.train_accuracy import TrainAccuracy

STOPPING_RULES: dict[str, type[StoppingRule]] = {
    "epochs": EpochsStopping,
    "budget": BudgetStopping,
    "early_stopping": EarlyStopping,
    "convergence": ConvergenceStopping,
    "train_accuracy": TrainAccuracy,
}


def match_order(match: str) -> tuple[int, str]:
    """Sorts units in which budgets match (`StoppingRule.budgets_match_in`): those of `budget` first, then rules."""
    known = ["epochs", "updates", "samples", "marginal", *STOPPING_RULES]
    return known.index(match) if match in known else len(known), match
