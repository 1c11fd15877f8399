"""The sweeps in MLflow's database, for addresses of their pages."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import NullPool, create_engine, select
from sqlalchemy.exc import SQLAlchemyError

from src.tracking.bulk import TABLES


class FinishedSweep(NamedTuple):
    """A sweep with its experiment in MLflow."""

    id: str
    name: str


def finished_sweeps(uri: str) -> list[FinishedSweep]:
    """The sweeps that have a result, the one that ended last first; none where the database cannot be read yet."""
    runs, tags = TABLES["runs"].c, TABLES["tags"].c
    is_sweep = select(tags.run_uuid).where(tags.key == "level", tags.value == "sweep")
    of_sweeps = runs.run_uuid.in_(is_sweep) & (runs.lifecycle_stage == "active") & (runs.status == "FINISHED")
    query = select(runs.experiment_id, runs.name).where(of_sweeps).order_by(runs.end_time.desc())
    try:
        with create_engine(uri, poolclass=NullPool).connect() as connection:
            return [FinishedSweep(str(number), name) for number, name in connection.execute(query)]
    except SQLAlchemyError:
        return []
