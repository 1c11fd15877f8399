"""The report is one complete, self-contained page that shows only existing results.

Properties: the page loads nothing, every plot has a text alternative and a PNG next to the page; its numbers are those of the
analysis; it reports empty sweeps and failed, diverged and missing runs; it gives the reason for missing weights; it compares
budgets under several matching rules; in a browser it runs without an error, sorts, filters and selects.
"""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
import subprocess
from concurrent.futures import ProcessPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import pytest

from src.cells.resolve import resolve
from src.cells.run import run_cell
from src.comparison.sentences import summary
from src.comparison.tables import csv_table
from src.comparison.verdicts import judge, judge_test_sets
from src.config import compose
from src.errors import ConfigError
from src.report.command import read_sweep
from src.report.page import write_report
from tests.report.report_sweeps import config, write_cell, write_failed, write_grid

GRID = [
    f"split.ratio={r} split.imbalance={i} stopping.epochs={e}" for r in (0.5, 1, 2) for i in (1, 3) for e in (1, 2)
] + ["split.ratio=2 split.imbalance=3 stopping.epochs=5"]  # 13 rows: enough for a filter


class Page(HTMLParser):
    """A parsed page: its tags, images, text and the contents of its tables."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def rows(self, id_: str) -> list[list[str]]:
        """Text of the fields of every row in one section."""
        section = self.source[self.source.index(f'<section id="{id_}"') :]
        body = section[section.index("<tbody>") : section.index("</tbody>")]
        rows = re.findall(r"<tr>(.*?)</tr>", body, flags=re.DOTALL)
        return [[html.unescape(field) for field in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows]


def report(multirun: Path, sweep: str) -> Page:
    return Page(write_report(read_sweep(multirun, sweep))[0])


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep over three axes with a report."""
    multirun = tmp_path_factory.mktemp("multirun")
    write_grid(multirun, "grid", GRID)
    write_report(read_sweep(multirun, "grid"))
    return multirun


@pytest.fixture(scope="module")
def page(grid: Path) -> Page:
    return Page(grid / "grid" / "report" / "report.html")


# ------------------------------------------------------------------------------------------------ the page


def test_the_page_is_self_contained(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    assert not page.all("script") or all("src" not in script for script in page.all("script"))
    styles = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in styles
    assert "@import" not in styles


def test_every_plot_has_a_text_alternative_and_a_png(grid: Path, page: Page) -> None:
    images = page.all("img")
    assert len(images) >= 8
    assert all(len(image["alt"] or "") > 30 for image in images)
    assert len(list((grid / "grid" / "report").glob("*.png"))) == len(images)


def test_ids_are_unique_and_every_link_has_a_target(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"] for link in page.all("a")} == {f"#{id_}" for id_ in ids}


def test_its_numbers_are_those_of_the_analysis(grid: Path, page: Page) -> None:
    sweep = read_sweep(grid, "grid")
    verdicts = judge(sweep.records, sweep.labels)
    assert summary(judge_test_sets(lambda metric: judge(sweep.records, sweep.labels, metric))) in page.text
    assert (grid / "grid" / "report" / "cells.csv").read_text() == csv_table(verdicts)
    rows = page.rows("cells")
    assert len(rows) == len(GRID)
    winners = sorted(verdict.winner for verdict in verdicts)
    assert sorted(row[11] for row in rows) == winners
    assert {"sequential", "combined"} <= set(winners)
    assert all(row[10] == "10" for row in rows)


def test_three_axes_give_a_map_of_every_pair(page: Page) -> None:
    labels = [a["data-label"] for tag, a in page.tags if tag == "div" and "data-label" in a]
    assert labels[0] == "all cells"
    assert set(labels[1:4]) == {"ratio × imbalance", "ratio × epochs", "imbalance × epochs"}


def test_a_large_grid_is_shown_by_averages_first_and_says_what_is_left_out(grid: Path, page: Page) -> None:
    folder = grid / "grid" / "report"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    write_report(read_sweep(grid, "grid"), most_cells=3)
    large, verdicts = Page(folder / "report.html"), judge(read_sweep(grid, "grid").records, ["sequential", "combined"])
    left_out = f"This page shows the 3 cells with the largest differences of {len(GRID)}, and no map of single cells"
    assert left_out in large.text
    assert f"python -m src.report sweep=grid multirun={grid} most_cells={len(GRID)} shows all here." in large.text
    assert (folder / "cells.csv").read_bytes() == before[folder / "cells.csv"], "the file has all cells"
    assert [a["data-label"] for tag, a in large.tags if tag == "div" and "data-label" in a][:3] == [
        a["data-label"] for tag, a in page.tags if tag == "div" and "data-label" in a
    ][1:4], "the maps of averages alone"
    assert not (folder / "map-sequential-combined.png").exists()
    levels = large.rows("cells")
    assert {row[0] for row in levels} == {"ratio", "imbalance", "epochs"}
    for axis, level, _, difference, *_, n_cells, wins_a, wins_b in levels:
        own = [verdict for verdict in verdicts if f"{verdict.axes[axis]:g}" == level]
        assert int(n_cells) == len(own)
        assert (int(wins_a), int(wins_b)) == tuple(sum(v.winner == r for v in own) for r in ("sequential", "combined"))
        mean = 100 * sum(verdict.difference or 0.0 for verdict in own) / len(own)
        assert float(difference) == pytest.approx(mean, abs=0.051)
    shown = large.source[large.source.index("Effect in every cell") :]
    assert shown[: shown.index("</table>")].count("<tr>") == 1 + 3
    largest = sorted(verdicts, key=lambda verdict: -abs(verdict.difference or 0.0))[:3]
    assert all(
        f">{100 * abs(verdict.difference or 0.0):.1f}" in shown.replace("+", "").replace("-", "") for verdict in largest
    )
    write_report(read_sweep(grid, "grid"))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before, "the whole page again"


def test_a_second_report_is_the_same_page(grid: Path, page: Page) -> None:
    assert report(grid, "grid").source == page.source


@pytest.mark.usefixtures("page")
def test_an_interrupted_report_leaves_the_plots_of_the_one_before(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    files = {path.name for path in (grid / "grid" / "report").iterdir()}
    monkeypatch.setattr("src.report.page._content", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_report(read_sweep(grid, "grid"))
    assert {path.name for path in (grid / "grid" / "report").iterdir()} == files


def test_the_ledger_counts_every_run(grid: Path, page: Page) -> None:
    with (grid / "grid" / "report" / "ledger.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(GRID) * 20
    combined, sequential = page.rows("ledger")
    assert combined[:5] == ["epochs", "combined", str(len(GRID) * 10), "16", "120"]
    assert sequential[1] == "sequential"
    assert sequential[7:] == ["50 %", "1.25", "1.00"]
    assert sum(int(row["updates"]) for row in rows if row["regime"] == "sequential") == 20 * len(GRID) * 10


def test_evicted_weights_are_reported(page: Page) -> None:
    assert page.text.count("are no longer in the stage store") == 2


# ------------------------------------------------------------------------------------------------ from nothing to much


def test_a_sweep_without_results(tmp_path: Path) -> None:
    cell = config("empty", seeds=2)
    write_cell(tmp_path, cell, 0.0, skip=lambda *_: True)
    page = report(tmp_path, "empty")
    assert "nothing to report yet" in page.text
    assert not page.all("img")
    assert "missing 4" in page.text


def test_a_sweep_that_is_not_there_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    write_cell(tmp_path, config("mine", seeds=1), 0.0)
    with pytest.raises(ConfigError, match=r"sweep=yours: .*sweeps here: mine"):
        read_sweep(tmp_path, "yours")


def test_one_regime_alone_is_not_compared(tmp_path: Path) -> None:
    write_cell(tmp_path, config("half"), 0.0, skip=lambda regime, _: regime == "combined")
    page = report(tmp_path, "half")
    assert "Nothing can be compared yet" in page.text
    assert "cells" not in {a.get("id") for _, a in page.tags}


def test_one_cell_is_a_report(tmp_path: Path) -> None:
    write_cell(tmp_path, config("one"), -0.1)
    page = report(tmp_path, "one")
    assert "Combined wins on union by" in page.text
    assert [row[8] for row in page.rows("cells")] == ["combined (if trained)"]
    assert "about runs that train: none of 10 runs of combined collapsed" in page.text, "below the table"


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


def test_failed_diverged_missing_and_damaged_runs_are_listed(tmp_path: Path) -> None:
    cell = config("trouble")
    name = write_cell(tmp_path, cell, 0.05, skip=lambda regime, seed: regime == "combined" and seed in (2, 3, 5))
    write_failed(tmp_path, cell, name, "combined", 3, "RuntimeError: <out of memory>")
    runs = tmp_path / "trouble" / "cells" / name
    diverged = json.loads((runs / "combined-4" / "result.json").read_text())
    (runs / "combined-4" / "result.json").write_text(
        json.dumps({**diverged, "status": "diverged", "result": {**diverged["result"], "metrics": {}}})
    )
    (runs / "sequential-6" / "result.json").write_text("{")
    whole = write_cell(tmp_path, config("trouble", "split.ratio=2"), 0.05, with_history=False)
    page = report(tmp_path, "trouble")
    assert "RuntimeError: <out of memory>" in page.text
    assert f"{name[:8]} combined, seed 4: its loss is not finite" in page.text
    assert f"{name[:8]} combined: seeds 2, 5" in page.text
    assert "sequential-6/result.json" in page.text
    assert "The curves of this cell are not on disk" in page.text
    winners = {(row[3], row[10]) for row in page.rows("cells")}
    assert winners == {("0 / 1", "inconclusive"), ("0 / 0", "sequential (if trained)")}
    assert whole[:8] not in page.text[page.text.index("Runs without a result") :]


def test_a_cell_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    first, second = write_grid(tmp_path, "old", ["split.ratio=1", "split.ratio=2"])
    (tmp_path / "old" / "cells" / first / "cell.yaml").write_text("data: {name: gone}")
    page = report(tmp_path, "old")
    assert f"{first}/cell.yaml" in page.text
    assert len(page.rows("cells")) == 2
    assert second


def test_regimes_of_an_earlier_command_stay_on_the_page(tmp_path: Path) -> None:
    write_cell(tmp_path, config("grown", "regimes=[sequential,combined,d2_only]"), 0.05)
    from src.sweep.folder import SweepFolder

    folder = SweepFolder(tmp_path, "grown")
    (cell,) = (path.name for path in (tmp_path / "grown" / "cells").iterdir())
    folder.write_cell(cell, config("grown"))
    page = report(tmp_path, "grown")
    pairs = {("sequential", "combined"), ("sequential", "d2_only"), ("combined", "d2_only")}
    assert {(row[0], row[2]) for row in page.rows("cells")} == pairs


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


# ------------------------------------------------------------------------------------------------ real weights


def test_a_trained_cell_is_analysed(tmp_path: Path) -> None:
    """Real runs of three classes, the third absent from Dataset 2: the plots of drift and landscape, exact paths on them."""
    words = ["split.sizes=[40,40]", "split.classes=[3,5,8]", "split.priors=[[.8,.1,.1],[.1,.9,0]]", "trainer=cpu"]
    cell = compose([*words, "seeds=3", "stopping.epochs=3", "tracking=off", "sweep=real", f"multirun={tmp_path}"])
    from src.sweep.folder import SweepFolder

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


# ------------------------------------------------------------------------------------------------ in a browser

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
PROBE = """
<script>
addEventListener("load", () => {
const heads = [...document.querySelectorAll("#cells th")];
const column = (k) => [...document.querySelectorAll("#cells tbody tr")].map((row) => row.cells[k].textContent);
const at = heads.findIndex((head) => head.textContent.includes("points"));
heads[at].querySelector("button").click();
const up = column(at);
heads[at].querySelector("button").click();
const down = column(at);
const filter = document.querySelector("[data-filter]");
if (filter) { filter.value = "combined"; filter.dispatchEvent(new Event("input")); }
const shown = [...document.querySelectorAll("#cells tbody tr")].filter((row) => !row.hidden).length;
const picker = document.querySelector("#curves [data-picker]");
const visible = () => [...picker.querySelectorAll(".choice")].filter((c) => !c.hidden).map((c) => c.dataset.label);
const before = visible();
const select = picker.querySelector("select");
select.value = "1";
select.dispatchEvent(new Event("change"));
const broken = [...document.images].filter((image) => !image.complete || !image.naturalWidth).length;
const found = { up, down, shown, before, after: visible(), broken, wide: document.documentElement.scrollWidth - innerWidth };
console.log("PROBE " + JSON.stringify(found));
});
</script>
"""


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_shows_it_without_an_error(page: Page, tmp_path: Path, width: int) -> None:
    """No line on the console but the probe's; sorting turns round, the filter keeps winners' rows, one choice is seen, every
    plot is drawn, and nothing makes the page wider than the window."""
    file = tmp_path / "page.html"
    file.write_text(page.source.replace("</body>", PROBE + "</body>"))
    assert CHROMIUM is not None
    quiet = ["--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", *quiet, "--disable-sync", "--no-first-run", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    output = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert len(output) == 1, output
    match = re.search(r'PROBE (\{.*\})"', output[0])
    assert match, output[0]
    found = json.loads(match.group(1))
    assert found["down"] == found["up"][::-1]
    assert [float(value) for value in found["up"]] == sorted(float(value) for value in found["up"])
    assert 0 < found["shown"] < 14
    assert len(found["before"]) == len(found["after"]) == 1
    assert found["before"] != found["after"]
    assert found["broken"] == 0
    assert found["wide"] <= 0
