"""A written report, parsed."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path

from src.report.command import read_sweep
from src.report.page import write_report

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
