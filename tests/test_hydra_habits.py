"""Each row of docs/HYDRA.md: it works, or it is refused in one line that holds the words of its last column."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from src import cli as entry
from src import train
from src.sweep import __main__ as sweep
from tests.command import Command, Done

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "HYDRA.md").read_text()
ROWS = re.findall(r"^\| `(.+?)` \| (works|refused) \| (.+?) \|$", PAGE, re.MULTILINE)
FILES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
ENGINE = "hydra.sweeper.engine=tests.sweep.fake_engine"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's own files, outside the repository."""
    root = tmp_path_factory.mktemp("own")
    for group in ("study", "experiment"):
        (root / group).mkdir()
        (root / group / "mine.yaml").write_text(FILES[0].partition("\n")[2])
    (root / "my.yaml").write_text(FILES[1])
    return root


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Hydra adds handlers to the root logger that write to the streams of the test, and --info lowers its level."""
    root, before = logging.getLogger(), logging.getLogger().level
    yield
    root.setLevel(before)
    for handler in [handler for handler in root.handlers if type(handler) is logging.StreamHandler]:
        root.removeHandler(handler)


def run(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Done:
    words = [str(folder) if word == "FOLDER" else word for word in shlex.split(line)]
    always = ["seeds=2", f"multirun={folder / 'multirun'}", "tracking=off", "trainer=cpu"]
    if words[0] == "src.train":
        given = [word for word in always if word.partition("=")[0] not in ("seeds", words[1].partition("=")[0])]
        return Command("train", train.main, monkeypatch, capsys, *given)(*words[1:])
    modes = {"-sc", "--cfg", "--info"} & set(words)
    always += (
        [] if modes else ["dry_run=true", ENGINE, *([] if "+experiment=nowhere" in words else ["stopping=epochs"])]
    )
    return Command("sweep", sweep.main, monkeypatch, capsys, *([] if "-sc" in words else always))(*words)


@pytest.mark.parametrize(("line", "kind", "text"), ROWS, ids=[row[0] for row in ROWS])
def test_a_row_of_the_table(
    line: str, kind: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(line, folder, monkeypatch, capsys)
    if kind == "works":
        assert (done.code, done.err) == (0, ""), done.err
        assert done.out
    else:
        assert done.code == 2
        assert len(done.err.splitlines()) == 1, done.err
        assert text in done.err
    assert not list(Path().glob("outputs")), "Hydra writes no folder of its own"


@pytest.mark.parametrize(
    ("line", "n_cells"),
    [
        ("-m --config-dir FOLDER study=mine", 4),
        ("-m --config-dir FOLDER +experiment=mine", 4),
        ("-m 'stopping.epochs=range(1,3)'", 2),
        ("-m 'hydra.sweeper.params={split.ratio:\"1,3\"}'", 2),
        ("hydra.mode=MULTIRUN split.ratio=1,3", 2),
    ],
)
def test_the_cells_of_a_row(
    line: str, n_cells: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"cells: {n_cells}" in run(line, folder, monkeypatch, capsys).out


def test_the_table_is_read() -> None:
    assert len(ROWS) == PAGE.count("| works |") + PAGE.count("| refused |") > 40


def test_completion_offers_the_groups_of_a_module_that_is_run_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hydra's own completion reads `python FILE.py` only."""
    monkeypatch.setenv("COMP_LINE", ".venv/bin/python -m src.sweep stopping=e")
    monkeypatch.setenv("COMP_POINT", "40")
    monkeypatch.setattr("sys.argv", ["src/sweep/__main__.py", "-sc", "query=bash"])
    entry.run(sweep.main)
    assert {"stopping=epochs", "stopping=early_stopping"} <= set(capsys.readouterr().out.split())
