"""A screenshot of an MLflow page in a real browser.

    python -m benchmarks.mlflow_screenshot http://127.0.0.1:5000 docs/mlflow-ui.png [--page runs|RUN_ID|PATH] [--width 1600]

`runs` is the table of the experiment, in one of the views that tracking saves with it (src/tracking/views.py). The server
must not ask for a password: start it by `python -m src.ui login=false`. Needs chromium (Debian: apt-get install chromium), driven by the DevTools protocol.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp

from src.tracking.views import view_path

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
]
LOADED = "document.querySelectorAll('[role=row]').length > 2 || document.body.innerText.includes('Status')"


NO_ASSISTANT = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""
OPEN_ROWS = """(async () => {
    const opened = new Set();
    for (let round = 0; round < 10; round++)
        for (const button of document.querySelectorAll("[data-component-id*='runnamecellrenderer'] ")) {
            const row = button.closest("[role=row]").getAttribute("row-id");
            if (opened.has(row)) continue;
            opened.add(row);
            button.click();
            await new Promise((done) => setTimeout(done, 300));
        }
    return opened.size;
})()"""


def page_url(server: str, page: str, experiment: str, view: str, *, charts: bool = False) -> str:
    """The address of a page; `runs` opens one of the experiment's saved views."""
    query = urllib.parse.urlencode({"experiment_name": experiment})
    with urllib.request.urlopen(f"{server}/api/2.0/mlflow/experiments/get-by-name?{query}") as answer:
        found = json.load(answer)["experiment"]["experiment_id"]
    if page == "runs":
        return server + view_path(found, view, charts=charts)
    path = page if "/" in page else f"experiments/{found}/runs/{page}"
    return f"{server}/#/{path}"


async def devtools_address(profile: Path) -> str:
    """Chromium writes the port it has chosen into its profile."""
    for _ in range(300):
        if (profile / "DevToolsActivePort").exists():
            port, path = (profile / "DevToolsActivePort").read_text().split("\n")[:2]
            return f"ws://127.0.0.1:{port}{path}"
        await asyncio.sleep(0.1)
    raise TimeoutError("chromium did not start within 30 s")


class Browser:
    """One tab of chromium, driven by DevTools commands."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._n = 0
        self._session: str | None = None

    async def open(self, width: int, height: int) -> None:
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        await self.call("Page.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **size)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._n += 1
        message = {"id": self._n, "method": method, "params": parameters}
        await self._socket.send_json(message | ({"sessionId": self._session} if self._session else {}))
        while True:
            answer = await self._socket.receive_json(timeout=60)
            if answer.get("id") == self._n:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])

    async def evaluate(self, script: str) -> Any:
        answer = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    async def settle(self, seconds: float) -> None:
        """Wait until the page shows something, then `seconds` more for its tables and charts to be drawn."""
        for _ in range(600):
            if await self.evaluate(LOADED):
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(seconds)


async def save_plot(url: str, width: int, height: int, settle_s: float, script: str | None) -> bytes:
    """PNG of the page with all its rows open, after `script`."""
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder)
        command = ["chromium", *FLAGS, f"--user-data-dir={profile}"]
        chromium = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(await devtools_address(profile), max_msg_size=0) as socket,
            ):
                browser = Browser(socket)
                await browser.open(width, height)
                await browser.call("Page.addScriptToEvaluateOnNewDocument", source=NO_ASSISTANT)
                await browser.call("Page.navigate", url=url)
                await browser.settle(settle_s)
                await browser.evaluate(OPEN_ROWS)
                if script is not None:
                    print(await browser.evaluate(script))
                await browser.settle(settle_s / 2)
                return base64.b64decode((await browser.call("Page.captureScreenshot", format="png"))["data"])
        finally:
            os.killpg(chromium.pid, signal.SIGKILL)
            chromium.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server")
    parser.add_argument("target", type=Path)
    parser.add_argument("--page", default="runs")
    parser.add_argument("--experiment", default="digits-mlp", help="the name of the sweep")
    parser.add_argument(
        "--view", default="cells", help="the saved view that `runs` opens: cells, regimes, curves, grid"
    )
    parser.add_argument("--charts", action="store_true", help="its charts in place of its table")
    parser.add_argument("--width", type=int, default=1600)
    parser.add_argument("--height", type=int, default=1000)
    parser.add_argument("--settle", type=float, default=4.0, help="seconds for the page to be drawn")
    parser.add_argument("--script", help="JavaScript to run before the screenshot; its value is printed")
    options = parser.parse_args()
    url = page_url(options.server, options.page, options.experiment, options.view, charts=options.charts)
    image = asyncio.run(save_plot(url, options.width, options.height, options.settle, options.script))
    options.target.parent.mkdir(parents=True, exist_ok=True)
    options.target.write_bytes(image)
    print(f"{url} -> {options.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
