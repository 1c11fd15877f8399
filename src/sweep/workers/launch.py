"""The workers that a sweep's settings ask for: processes of this machine, or jobs of a cluster."""

from __future__ import annotations

from src.config import Config, SlurmLauncher
from src.errors import ConfigError
from src.sweep.folder import GRID, SweepFolder
from src.sweep.workers.gpus import visible_gpus
from src.sweep.workers.local import LocalWorkers, Workers, n_workers_here
from src.sweep.workers.slurm import SlurmWorkers


def workers_for(folder: SweepFolder, config: Config, engine: str, search: str = GRID) -> Workers:
    """The workers that a sweep's settings ask for. Raises ConfigError where they are not available."""
    if isinstance(config.launcher, SlurmLauncher):
        return SlurmWorkers(folder, config.launcher, config.n_workers, engine, search)
    _check_devices(config)
    return LocalWorkers(folder, n_workers_here(config), engine, search=search)


def _check_devices(config: Config) -> None:
    """Raises ConfigError where this machine lacks the GPUs that every run asks for."""
    trainer, gpus = config.trainer, visible_gpus()
    if gpus and trainer.name != "cpu" and trainer.devices > len(gpus):
        raise ConfigError("trainer.devices", trainer.devices, f"only {len(gpus)} GPUs are visible here; lower it")
    if trainer.name == "gpu" and not gpus:
        import torch  # the engine has loaded it

        if not torch.cuda.is_available():
            raise ConfigError("trainer", "gpu", "no CUDA device is visible here; take trainer=auto or trainer=cpu")
