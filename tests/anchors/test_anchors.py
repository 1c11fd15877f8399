"""Every anchor's file composes to one cell that has its rows; the comparison says what its numbers say; the command runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from src.anchors import command
from src.anchors.command import Anchor, AnchorRow, compare, load_anchor
from src.config import parse_regime
from src.errors import ConfigError
from src.io import CONF_DIR
from src.typed import conf_names

ROW = AnchorRow(name="none", of="sequential", metric="test/union/accuracy", value=50.0, margin=3.0)
TINY = Anchor(
    id="tiny",
    source="nobody",
    protocol="Two epochs on digits.",
    overrides=("split.size=60", "stopping.epochs=2", "optimizer.batch_size=8"),
    regimes=["sequential", "combined"],
    seeds=2,
    minutes=0.1,
    deviations=("none",),
    rows=(ROW, dataclasses.replace(ROW, name="gap", minus="combined", value=0.0, margin=100.0, miss="too few images")),
)


def test_every_anchor_composes_to_one_cell_with_its_rows() -> None:
    assert len(conf_names("anchor")) >= 10
    n_rows = 0
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        for name in conf_names("anchor"):
            anchor = load_anchor(name)
            config = command.cell_of(anchor, ["tracking=off"], None, loader).config
            for row in anchor.rows:
                regimes = {
                    parse_regime(entry, config.split.parts) for entry in (row.of, row.minus) if entry is not None
                }
                assert regimes <= set(config.regimes), (name, row.name)
            head = (CONF_DIR / "anchor" / f"{name}.yaml").read_text().splitlines()[:2]
            assert f"python -m src.anchors anchor={name}" in head[1]
            n_rows += 0 if anchor.on_demand else len(anchor.rows)
    assert n_rows >= 14


def test_verdicts_follow_margin_spread_and_seeds() -> None:
    near, far = [49.9, 50.1, 50.0, 50.2], [60.1, 60.0, 59.9, 60.2]
    assert compare(ROW, near).verdict == "equivalent"
    assert compare(ROW, far).verdict == "differs"
    assert compare(ROW, far).z > 50
    assert compare(ROW, [40.0, 62.0, 45.0]).verdict == "consistent"
    two = compare(ROW, [44.0, 46.0])
    assert (two.verdict, two.z) == ("too few seeds", -5.0), "a t test of two seeds needs 12.7"
    wide = dataclasses.replace(ROW, spread=20.0, kind="SD", n=4)
    assert wide.error == 10
    assert compare(wide, far).verdict == "consistent"
    assert compare(wide, far).z == pytest.approx(1.0, abs=0.01)
    assert dataclasses.replace(wide, kind="SEM").error == 20


def test_mistakes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^anchor=buzega: there is no conf/anchor/buzega\.yaml"):
        load_anchor("buzega")
    with pytest.raises(ConfigError, match=r"^seeds=1: must be a number of at least 2"):
        command.main(["seeds=1"])
    with pytest.raises(ConfigError, match=r"^regimes=\[combined\]: is defined by the anchor"):
        command.main(["regimes=[combined]"])


def test_the_command_runs_compares_and_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    later = dataclasses.replace(TINY, id="later", on_demand="a GPU")
    monkeypatch.setattr(command, "conf_names", lambda _: ["later", "tiny"])
    monkeypatch.setattr(command, "load_anchor", lambda name: TINY if name == "tiny" else later)
    page = tmp_path / "page.md"
    words = [f"multirun={tmp_path}", "tracking=off", "trainer=cpu", "n_workers=1", f"write={page}"]
    assert command.main(words) == 0
    printed = capsys.readouterr().out
    assert "2 rows: " in printed
    assert "anchor=later runs on demand: a GPU" in printed
    text = page.read_text()
    assert "| tiny | gap | 0 |" in text
    assert "- *gap misses*: too few images" in text
    assert "not run yet, an estimated 0.1 minutes (on demand: a GPU)" in text
