"""Compares regimes over a grid.   python -m src.sweep -m split.ratio=0.1,1,10 stopping.epochs=5,20

Without -m: the one cell of the given settings, all `regimes` x `seeds`. The same command again runs what is missing.
"""

from __future__ import annotations

from omegaconf import DictConfig

from src import cli


def main(config: DictConfig) -> None:
    """One cell; with -m Hydra calls the sweeper instead (conf/hydra/sweeper/lab.yaml)."""
    del config  # the sweep composes its cells itself, from the same overrides
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    from src.sweep.command import run_sweep

    hydra: DictConfig = HydraConfig.get()  # type: ignore[assignment]  # which its annotation calls a HydraConf
    run_sweep(list(hydra.overrides.task), GlobalHydra.instance().config_loader(), hydra.sweeper.engine, hydra)


if __name__ == "__main__":
    cli.command(lambda: cli.run(main))
