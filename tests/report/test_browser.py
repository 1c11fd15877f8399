"""In a browser the page runs without an error, sorts, filters and selects."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.report.report_page import Page

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
