"""Sections that not every report has: budgets under several matching rules, claims, trained weights, a network of one's own."""

from __future__ import annotations

import json
import re
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.config import compose
from src.report.command import read_sweep
from src.report.page import write_report
from src.sweep.folder import SweepFolder
from tests.report.report_page import Page, report
from tests.report.report_sweeps import config, write_cell


def test_budget_matching_rules_are_compared_in_one_table(tmp_path: Path) -> None:
    words = [
        f"stopping=budget stopping.epochs=2 stopping.match={match} split.ratio={ratio}"
        for match in ("epochs", "updates", "samples", "marginal")
        for ratio in (1, 2)
    ]
    for k, line in enumerate(words):
        write_cell(tmp_path, config("match", *line.split()), 0.02 * (k // 2 - 1))
    page = report(tmp_path, "match")
    section = page.source[page.source.index("The same cells under other ways") :]
    heads = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', section)[:5]
    assert heads == ["ratio", "epochs", "updates", "samples", "marginal"]
    body = section[: section.index("</tbody>")]
    (row,) = (row for row in re.findall(r"<tr>(.*?)</tr>", body, flags=re.DOTALL) if ">2<" in row)
    winners = [re.search(r"(sequential|combined|undecided)$", f) for f in re.findall(r"<td[^>]*>(.*?)</td>", row)[1:]]
    assert [w.group() if w else None for w in winners] == ["combined", "undecided", "sequential", "sequential"]


def test_claims_are_shown_where_they_were_settled(tmp_path: Path) -> None:
    write_cell(tmp_path, config("one", seeds=6), -0.1)
    claim = {"id": "forgets-d1", "data": "digits", "predicted": "positive", "effect": 0.25, "ci_low": 0.2}
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "claims.json").write_text(
        json.dumps([{**claim, "ci_high": 0.3, "p": 0.0004, "n": 12, "verdict": "supported"}])
    )
    (row,) = report(tmp_path, "one").rows("claims")
    assert row == ["forgets-d1", "digits", "positive", "+0.25", "[+0.2, +0.3]", "12", "<0.001", "supported"]


OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self, in_features, n_outputs):
        super().__init__()
        self.head = nn.Linear(in_features, n_outputs)

    def forward(self, x):
        return self.head(x.flatten(1))
"""


def test_a_network_of_ones_own_reaches_the_process_that_draws(tmp_path: Path) -> None:
    (tmp_path / "my_net.py").write_text(OWN)
    with ProcessPoolExecutor(1) as drawing:
        drawing.submit(int).result()  # it starts before this process loads the file
        write_cell(tmp_path, config("own", f"plugins=[{tmp_path / 'my_net.py'}]", "arch=Net"), -0.1)
        page = Page(write_report(read_sweep(tmp_path, "own"), drawing)[0])
    assert "are no longer in the stage store" in page.text
    assert f"python -m src.report sweep=own multirun={tmp_path} 'plugins=[{tmp_path / 'my_net.py'}]'" in page.text


def test_a_trained_cell_is_analysed(tmp_path: Path) -> None:
    """Real runs of three classes, the third absent from Dataset 2: the plots of drift and landscape, exact paths on them."""
    words = ["split.sizes=[40,40]", "split.classes=[3,5,8]", "split.priors=[[.8,.1,.1],[.1,.9,0]]", "trainer=cpu"]
    cell = compose([*words, "seeds=3", "stopping.epochs=3", "tracking=off", "sweep=real", f"multirun={tmp_path}"])
    SweepFolder(tmp_path, "real").write_cell(resolve(cell).hash, cell)
    run_cell(resolve(cell))
    page = report(tmp_path, "real")
    files = {path.stem for path in (tmp_path / "real" / "report").glob("*.png")}
    drift = {"drift-layers", "drift-updates", "drift-probabilities", "drift-restoration"}
    assert files >= drift | {"landscape-d1", "landscape-d2", "landscape-union", "landscape-ways"}
    alts = " ".join(str(image["alt"]) for image in page.all("img"))
    assert "update by update" in alts
    assert re.search(r"In the last stage: 8 from \d+ to \d+ %", alts)
    assert "not exactly at" not in page.text
    assert "the nearest point of sequential's path" in page.text

    shutil.rmtree(tmp_path / ".stages")
    assert "are no longer in the stage store" in report(tmp_path, "real").text
