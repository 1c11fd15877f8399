"""Registers an exported network in MLflow: a logged model of its run, and a version with the alias champion."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from src.comparison.pairing import RunRecord
from src.config import TrackingConfig
from src.environment import temporary_variables
from src.errors import ConfigError
from src.export.package import Pipeline
from src.tracking.connect import artifact_root, keep_mlflow_quiet, open_tracker, tracking_uri
from src.tracking.credentials import use_for
from src.tracking.tracker import ARTIFACT_SCHEME

ALIAS = "champion"


def register(
    network: Pipeline, run: RunRecord, folder: Path, name: str, tracking: TrackingConfig, multirun: Path
) -> str:
    """Logs `network` and registers it as the champion of the model `name`; returns the version. Raises ConfigError."""
    tracking = tracking.of_sweep(run.sweep)
    uri = tracking_uri(tracking, multirun)
    assert uri is not None
    assert tracking.experiment is not None
    keep_mlflow_quiet()
    tracker = open_tracker(tracking, multirun)
    assert tracker is not None
    tracker.close()
    from mlflow import MlflowClient
    from mlflow.entities.logged_model_status import LoggedModelStatus
    from mlflow.exceptions import MlflowException

    if uri.startswith("http"):
        use_for(uri)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(tracking.experiment)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], f"tags.run = '{run.run}' and tags.sweep = '{run.sweep}'")
    if not found:
        raise ConfigError("register", name, "MLflow lacks the run; write it with python -m src.sync")
    tags = {"sweep": run.sweep, "cell": run.cell, "run": run.run, "regime": run.regime, "seed": str(run.seed)}
    try:
        model = client.create_logged_model(
            experiment.experiment_id, name=folder.name.replace("/", "_"), source_run_id=found[0].info.run_id, tags=tags
        )
        quiet = temporary_variables({"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"})
        with tempfile.TemporaryDirectory() as scratch, quiet:
            saved = Path(scratch) / "model"
            _save(network, folder, saved, model.model_id)
            if uri.startswith("http"):
                client.log_model_artifacts(model.model_id, str(saved))
            else:
                target = artifact_root(multirun) / model.artifact_location.removeprefix(ARTIFACT_SCHEME).lstrip("/")
                shutil.copytree(saved, target, dirs_exist_ok=True)
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        version = client.create_model_version(
            name,
            model.artifact_location,
            run_id=found[0].info.run_id,
            model_id=model.model_id,
            tags={**tags, "model_id": model.model_id},
        )
        client.set_registered_model_alias(name, ALIAS, version.version)
    except MlflowException as error:
        raise ConfigError("register", name, f"MLflow refuses it: {error}") from error
    return str(version.version)


def _save(network: Pipeline, folder: Path, saved: Path, model_id: str) -> None:
    """MLflow's form of the network: the same program, with a signature, and the files of the package."""
    import mlflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    about = json.loads((folder / "model.json").read_text())
    shape = about["input"]["shape"]
    example = torch.zeros((2, *shape), dtype=getattr(torch, about["input"]["dtype"]))
    with torch.no_grad():
        outputs = network(example)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(about["input"]["dtype"]), (-1, *shape))]),
        outputs=Schema([TensorSpec(outputs.numpy().dtype, (-1, *outputs.shape[1:]))]),
    )
    mlflow.pytorch.save_model(
        network,
        saved,
        mlflow_model=Model(model_id=model_id),
        signature=signature,
        input_example=example.numpy(),
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
        extra_files=[str(folder / name) for name in ("README.md", "model.json", "load.py")],
        serialization_format="pt2",
    )
