"""A proxy that hands every request to a server, and drops a share of its answers: what was asked for is done, nobody is told."""

from __future__ import annotations

import random
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DROPPED_HEADERS = ("connection", "transfer-encoding", "content-length", "server", "date")


class LossyProxy(ThreadingHTTPServer):
    """Listens on a free port of this machine. `n_lost` of `n_asked` requests were carried out and not answered."""

    def __init__(self, target: str, share: float, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.share = target, share
        self.n_asked = self.n_lost = 0
        self._random, self._lock = random.Random(seed), threading.Lock()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def is_lost(self) -> bool:
        """Whether the next answer is dropped."""
        with self._lock:
            lost = self._random.random() < self.share
            self.n_asked, self.n_lost = self.n_asked + 1, self.n_lost + lost
            return lost


class _Handler(BaseHTTPRequestHandler):
    server: LossyProxy

    def _pass_on(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        request = urllib.request.Request(
            self.server.target + self.path, self.rfile.read(length) if length else None, headers, method=self.command
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, found, body = answer.status, answer.headers.items(), answer.read()
        except urllib.error.HTTPError as error:
            status, found, body = error.code, error.headers.items(), error.read()
        self.close_connection = True
        if self.server.is_lost():
            return
        self.send_response(status)
        for name, value in found:
            if name.lower() not in DROPPED_HEADERS:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the campaign counts."""


@contextmanager
def lossy(target: str, share: float, seed: int = 0) -> Iterator[LossyProxy]:
    """Runs the proxy in a thread."""
    with LossyProxy(target, share, seed) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()
