"""Contradictions between settings, refused before anything is loaded or trained."""

from __future__ import annotations

import re

from src.config.schema import Config
from src.errors import ConfigError
from src.urls import without_password


def check(config: Config) -> None:
    """Refuses what contradicts itself; what depends on the data's content is refused by `src.data.split`."""
    config.arch.check()
    config.split.check()
    config.optimizer.check()
    config.data.check(config.split)
    check_targets(config, is_regression=config.data.is_regression)
    if len(set(config.augment)) < len(config.augment):
        raise ConfigError("augment", list(config.augment), "names one twice; leave it out")
    uri, password = without_password(config.tracking.uri or "")
    if password is not None:
        fix = "give it in MLFLOW_TRACKING_PASSWORD (a server) or PGPASSWORD (a database) instead"
        raise ConfigError("tracking.uri", uri, f"has a password, which files would keep; {fix}")
    if uri and not (re.match(r"https?://[^/]", uri) or re.match(r"(sqlite:///|postgresql(\+psycopg2)?://)", uri)):
        fix = "write http://127.0.0.1:5000, sqlite:///mlflow.db or postgresql://user@host/database, or leave it out"
        raise ConfigError("tracking.uri", uri, f"is no server or database that results can be sent to; {fix}")
    trainer = config.trainer
    if trainer.name == "ddp" and trainer.devices < 2:
        raise ConfigError("trainer.devices", trainer.devices, "trainer=ddp needs at least 2, e.g. trainer.devices=2")
    if trainer.precision == "16-mixed" and trainer.name == "cpu":
        raise ConfigError("trainer.precision", trainer.precision, "needs a GPU; on a CPU take bf16-mixed or 32")
    config.launcher.check(trainer)


def check_targets(config: Config, *, is_regression: bool) -> None:
    """Refuses a loss or a stopping rule that the targets or the sizes do not allow.

    Settings say too little of what is in a user's files, so `src.training.compatibility` repeats it with the loaded data.
    """
    if is_regression and config.loss != "mse":
        problem = "needs classes, and the targets are numbers; set loss=mse, or store whole numbers or texts as classes"
        raise ConfigError("loss", config.loss, problem)
    config.stopping.check(config.split.dataset_sizes(), is_regression=is_regression)
