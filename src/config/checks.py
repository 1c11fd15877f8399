"""Contradictions between settings, refused before anything is loaded or trained."""

from __future__ import annotations

import re

from src.config.regimes import with_knobs
from src.config.schema import Config
from src.config.search import validation_metrics
from src.config.tune import EqualTuning, default_space, plain_point
from src.errors import ConfigError, did_you_mean
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
    if trainer.precision in ("16-mixed", "tf32") and trainer.name == "cpu":
        raise ConfigError("trainer.precision", trainer.precision, "needs a GPU; on a CPU take bf16-mixed or 32")
    if trainer.precision == "16-mixed" and config.optimizer.clip is not None:
        problem = "would clip gradients that the loss scale multiplies; set trainer.precision=bf16-mixed or 32"
        raise ConfigError("optimizer.clip", config.optimizer.clip, problem)
    if not config.stopping.is_fixed_length and "run" in {config.of(regime).optimizer.span for regime in config.regimes}:
        problem = (
            f"needs stages of a known length, and stopping={config.stopping.name} decides on it; take epochs or budget"
        )
        raise ConfigError("optimizer.span", "run", problem)
    if config.online and trainer.devices > 1:
        raise ConfigError("online", True, "is not counted over several devices; set trainer.devices=1 or online=false")
    if trainer.compile and trainer.devices > 1:
        raise ConfigError("trainer.compile", True, "compiles for one device alone; set trainer.compile=false")
    if config.label_smoothing and config.loss != "cross_entropy":
        raise ConfigError("label_smoothing", config.label_smoothing, "needs loss=cross_entropy; set it to 0")
    config.launcher.check(trainer)
    if config.tune.n_runs:
        _check_tuning(config)


def _check_tuning(config: Config) -> None:
    """Refuses a given space that no compared regime has, values that one of them refuses, seeds that tuning uses."""
    from src.config.space import ends_of  # loads Optuna

    tune = config.tune
    assert isinstance(tune, EqualTuning)
    if shared := sorted(set(config.seeds) & set(tune.seeds_used)):
        raise ConfigError("seeds", shared, f"belong to tuning; take seeds below {tune.seeds_used.start}")
    metrics = validation_metrics(config)
    if tune.objective not in (None, *metrics):
        problem = f"must be a validation metric; {did_you_mean(str(tune.objective), metrics)}"
        raise ConfigError("tune.objective", tune.objective, problem)
    spaces = {regime: tune.space_of(regime) for regime in config.regimes}
    for key in tune.keys:
        if tune.space != default_space() and not any(key in space for space in spaces.values()):
            problem = "is no knob of a compared regime that leaves it open, and no setting of the optimizer"
            raise ConfigError("tune.space", key, f"{problem}; leave it out")
    for regime, space in spaces.items():
        for key, distribution in space.items():
            for end in ends_of(distribution):
                try:
                    with_knobs(regime, plain_point({key: end}), config.split.parts, config.optimizer)
                except ConfigError as error:
                    raise ConfigError(f"tune.space.{key}", end, str(error).partition(": ")[2]) from error


def check_targets(config: Config, *, is_regression: bool) -> None:
    """Refuses a loss or a stopping rule that the targets or the sizes do not allow.

    Settings say too little of what is in a user's files, so `src.training.compatibility` repeats it with the loaded
    data.
    """
    if is_regression and config.loss != "mse":
        problem = "needs classes, and the targets are numbers; set loss=mse, or store whole numbers or texts as classes"
        raise ConfigError("loss", config.loss, problem)
    if is_regression and config.online:
        raise ConfigError("online", True, "is an accuracy, which a regression does not have; set it to false")
    config.stopping.check(config.split.dataset_sizes(), is_regression=is_regression)
