"""A record: the whole content of one MLflow run as plain data, independent of any tracker."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from src.axes import AXES, axis_text
from src.typed import leaves

Level = Literal["sweep", "cell", "run"]
Status = Literal["SCHEDULED", "FINISHED", "FAILED"]

MAX_NAME = 250
MAX_PARAM = 6000
MAX_TAG = 8000

_INVALID_IN_NAME = re.compile(r"[^/\w.\- :]")
_PASSWORD = re.compile(r"""([A-Za-z][\w+.\-]*://[^\s:/@'"]*):[^\s'"]*@""")
_SECRET_QUERY = re.compile(r"""([?&](?:password|passwd|token)=)[^&\s'"]+""", re.IGNORECASE)


class Key(NamedTuple):
    """Identity of a record: its level, its sweep, and the hashes of its cell and its run."""

    level: Level
    sweep: str
    cell: str = ""
    run: str = ""

    @classmethod
    def of_tags(cls, tags: Mapping[str, str]) -> Key:
        """The key of a run in MLflow; see `Record.all_tags`."""
        return cls(tags.get("level", ""), tags["sweep"], tags.get("cell", ""), tags.get("run", ""))  # type: ignore[arg-type]

    @property
    def id(self) -> str:
        """The hash of the run or the cell, or the name of the sweep."""
        return self.run or self.cell or self.sweep


class MetricPoint(NamedTuple):
    """One value of a metric. `timestamp`: milliseconds since the epoch; `step`: updates so far, through all stages."""

    name: str
    value: float
    timestamp: int
    step: int


class Input(NamedTuple):
    """A training data set of the run; `schema` and `profile` are JSON text as MLflow's page shows them."""

    name: str
    digest: str
    source: str
    schema: str
    profile: str
    context: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One MLflow run. `start`, `end`: milliseconds since the epoch. Artifacts: file name to content.

    `parent` is created if MLflow has no run of its key; it never replaces one. `views`: the experiment's saved views by
    tag.
    """

    key: Key
    name: str
    status: Status
    start: int
    end: int
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    points: tuple[MetricPoint, ...] = ()
    inputs: tuple[Input, ...] = ()
    artifacts: Mapping[str, bytes] = field(default_factory=dict)
    views: Mapping[str, str] = field(default_factory=dict)
    parent: Record | None = None

    def digest(self) -> str:
        """Digest of all but the parent: records with equal digests produce equal MLflow runs."""
        body = {
            "key": self.key,
            "name": self.name,
            "status": self.status,
            "times": (self.start, self.end),
            "tags": dict(self.tags),
            "params": dict(self.params),
            "points": self.points,
            "inputs": self.inputs,
            "artifacts": {name: hashlib.sha256(content).hexdigest() for name, content in self.artifacts.items()},
            "views": dict(self.views),
        }
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]

    def all_tags(self, parent_id: str | None) -> dict[str, str]:
        """The tags in MLflow: the record's own, its key, its digest and the link to its parent."""
        key = {name: value for name, value in self.key._asdict().items() if value}
        tags = {**self.tags, **key, "record": self.digest(), "mlflow.runName": self.name}
        tags |= {"mlflow.parentRunId": parent_id} if parent_id is not None else {}
        return {name: value[:MAX_TAG] for name, value in tags.items()}


def mask(text: str) -> str:
    """Replaces the password of every URI in `text` by ``***``; apply to everything that is logged or written."""
    if "://" not in text and "?" not in text and "&" not in text:  # as in nearly every one of the many values of a run
        return text
    return _SECRET_QUERY.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))


@functools.lru_cache(4096)
def clean_name(name: str) -> str:
    """A metric or param name that MLflow accepts: ``replay(share=0.05)`` becomes ``replay share:0.05``."""
    plain = name.replace("(", " ").replace(")", "").replace("=", ":").replace(",", " ")
    parts = [_INVALID_IN_NAME.sub("_", part) for part in plain.split("/")]
    return "/".join(part if part not in ("", ".", "..") else "_" for part in parts)[:MAX_NAME]


def run_name(axes: Mapping[str, Any], *, regime: str | None = None, seed: int | None = None) -> str:
    """The name of a run or a cell, e.g. ``sequential r=0.10 imb=5 e=20 s=3``.

    Omits axes without a value and appends those of a search: ``r=1 imb=1 e=20 lr=0.0123``.
    """
    words = [regime] if regime is not None else []
    if "ratio" in axes:
        ratio = float(axes["ratio"])
        two_decimals = f"{ratio:.2f}"
        fractional = math.isfinite(ratio) and not ratio.is_integer() and float(two_decimals) == ratio
        words.append(f"r={two_decimals if fractional else f'{ratio:.3g}'}")
    if "imbalance" in axes:
        words.append(f"imb={float(axes['imbalance']):g}")
    if axes.get("shift", "none") != "none":
        words.append(f"shift={axes['shift']}")
    if axes.get("epochs", "-") != "-":
        words.append(f"e={axes['epochs']}")
    if "tune" in axes:
        words.append(f"tune={axes['tune']}")
    further = {key: value for key, value in axes.items() if key not in AXES}
    words += [f"{key.rpartition('.')[2]}={axis_text(v)}" for key, v in further.items()]
    if seed is not None:
        words.append(f"s={seed}")
    return " ".join(words) or "the only cell"


_encode = json.JSONEncoder(default=str).encode


def flatten(mapping: Mapping[str, Any]) -> dict[str, str]:
    """Flattens a nested mapping to dotted params within MLflow's limits; masks passwords, writes None as ``null``."""
    texts = {name: value if isinstance(value, str) else _encode(value) for name, value in leaves(mapping)}
    return {clean_name(name): mask(text)[:MAX_PARAM] for name, text in texts.items()}
