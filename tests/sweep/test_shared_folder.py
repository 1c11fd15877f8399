"""Whoever writes to a shared multirun/ cannot make a command of another user run code or hand out files."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from src import cli
from src.config import compose
from src.config.serialize import config_text, read_config
from src.errors import ConfigError
from src.sweep.folder import SweepFolder
from src.sweep.search.search import load_search
from src.tracking.outbox import Outbox
from src.tracking.record import Record
from src.tracking.runs import record_of

PLUGIN = """
from pathlib import Path
from src.regimes.stage import Mixture, Stage, Start
Path(__file__).with_suffix(".ran").touch()
def own(n_parts):
    return [Stage(mixture=Mixture(parts=(0,)), start=Start())]
REGIMES = {"own": own}
"""


@pytest.fixture(autouse=True)
def _no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_PLUGINS", "")


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "multirun" / "evil.py"
    path.parent.mkdir()
    path.write_text(PLUGIN)
    return path


def planted(plugin: Path, tmp_path: Path) -> Path:
    """A cell.yaml that names the plugin, as its author wrote it."""
    from src.config.plugins import pin_plugins

    config = dataclasses.replace(compose(["regimes=[sequential]"]), plugins=pin_plugins([str(plugin)]))
    path = tmp_path / "multirun/s/cells/c/cell.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(config_text(config))
    return path


def test_a_plugin_that_only_the_shared_folder_names_does_not_run(plugin: Path, tmp_path: Path) -> None:
    path = planted(plugin, tmp_path)
    with pytest.raises(ConfigError, match=r"^plugins=.*evil\.py: a file of .* names it.*add plugins=\["):
        read_config(path, tmp_path / "multirun")
    search = tmp_path / "multirun/s/searches/x/search.json"
    search.parent.mkdir(parents=True)
    search.write_text(json.dumps({"bases": [[[], {"plugins": [str(plugin)]}]]}))
    with pytest.raises(ConfigError, match=r"^plugins=.*evil\.py: a file of .* names it"):
        load_search(SweepFolder(tmp_path / "multirun", "s"), "x")
    assert not plugin.with_suffix(".ran").exists()


@pytest.mark.parametrize("by", ["the command line", "the environment"])
def test_a_plugin_that_the_user_names_runs(
    by: str, plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = planted(plugin, tmp_path)
    if by == "the environment":
        monkeypatch.setenv("SWEEP_PLUGINS", str(plugin))
    else:
        compose([f"plugins=[{plugin}]"])
    assert read_config(path, tmp_path / "multirun").plugins
    assert plugin.with_suffix(".ran").exists()


def test_artifacts_and_entries_outside_of_the_sweep_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    sweep_dir = tmp_path / "multirun" / "s"
    sweep_dir.mkdir(parents=True)
    times = dict.fromkeys(("started_at", "finished_at"), "2026-01-01T00:00:00+00:00")
    body = {"sweep": "s", "note": "", "command": "c", "metrics": {}, **times}
    (sweep_dir / "link").symlink_to(tmp_path / "secret")
    for name in ("../../secret", str(tmp_path / "secret"), "link"):
        (sweep_dir / "summary.json").write_text(json.dumps({**body, "artifacts": [name]}))
        with pytest.raises(ValueError, match="lies outside of"):
            record_of(sweep_dir)
    outbox = Outbox(sweep_dir)
    outbox.folder.mkdir()
    (outbox.folder / "0.json").write_text(json.dumps({"schema": 1, "folder": "../.."}))
    delivery = outbox.deliver(Nothing())
    ((_, reason),) = delivery.refused
    assert "lies outside of" in reason


class Nothing:
    def write(self, records: Sequence[Record]) -> int:
        assert not records
        return 0

    def close(self) -> None: ...


def test_a_password_that_hydra_cannot_read_is_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for word in ("storage=postgresql://lab:ge'heim@host/db", "storge=postgresql://lab:ge-heim@host/db"):
        monkeypatch.setattr(sys, "argv", ["src/sweep.py", word])
        with pytest.raises(SystemExit):
            cli.run(lambda _: None)
        error = capsys.readouterr().err
        assert "lab:***@host/db" in error
        assert "heim" not in error
