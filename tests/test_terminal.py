"""Foreign texts reach no terminal, log or page with their control sequences, by whichever channel they go."""

from __future__ import annotations

import io
import logging
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.table import Table

from src.comparison.text_table import TextTable
from src.errors import ConfigError, foreign_file
from src.progress import Display, SweepProgress
from src.report.page import page_environment
from src.terminal import TextOutput, console, printable
from src.tracking.outbox import Deliverer

ORDINARY = "größe naïve 数据 कक्षा فئة \u0634\u200c\u0647 👩\u200d🔬 \u00e9\tc [bold] :cat: {x} 100% <&>"
HOSTILE = {
    **{f"control {code:#x}": chr(code) for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"},
    **{f"bidirectional {code:#x}": chr(code) for code in (0x202A, 0x202E, 0x2066, 0x2069, 0x200F, 0x061C)},
    "line separator": "\u2028",
    "byte": "\udce9",
    "colour": "\x1b[31m",
    "title": "\x1b]0;title\x07",
    "clipboard": "\x1b]52;c;AAAA\x1b\\",
    "link": "\x1b]8;;http://x\x1b\\",
}
EVERYTHING = "".join(f"a{text}b" for text in HOSTILE.values())
SEQUENCE = r"\x1b\[[0-9;?]*[A-Za-z]"
RICH = ("console", "table", "results", "progress")
Channel = Callable[[str], object]


def fails(text: str) -> None:
    raise OSError(text)


def log(text: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger("foreign").addHandler(handler)
    logging.getLogger("foreign").warning("cell %s", text)
    logging.getLogger("foreign").removeHandler(handler)


def trace(text: str) -> None:
    try:
        fails(text)
    except OSError:
        traceback.print_exc()


def refuse(text: str) -> None:
    with pytest.raises(ConfigError) as caught, foreign_file("data.path", text, Path(text.replace("/", "")), text):
        fails(text)
    io.TextIOWrapper.write(sys.stderr, str(caught.value))


def show_table(text: str) -> None:
    table = Table(title=text, caption=text)
    table.add_column(text)
    table.add_row(text)
    console().print(table)


def show_results(text: str) -> None:
    table = TextTable(heads=("cell", text), rows=((text, f"**{text}**"),), align="ll", title=text)
    console().print(table.terminal())
    io.TextIOWrapper.write(sys.stdout, table.markdown())


def show_progress(text: str) -> None:
    with Display(console(stderr=True), SweepProgress(n=1, n_done=0, n_open=1, n_waiting=1, counts=[text])) as display:
        display.say(text)
        display.show(SweepProgress(n=1, n_done=1, n_open=0, n_waiting=0, counts=[text], result=text), last=True)


def warn_of_mlflow(text: str) -> None:
    Deliverer(Path("s"), None)._warn(text)  # type: ignore[arg-type]


def show_page(text: str) -> None:
    page = page_environment().from_string("<p title='{{ text }}'>{{ text }}</p>{% for t in texts %}{{ t }}{% endfor %}")
    io.TextIOWrapper.write(sys.stdout, page.render(text=text, texts=[text]))


CHANNELS: dict[str, Channel] = {
    "print": print,
    "write": lambda text: sys.stderr.writelines([text, text]),
    "logging": log,
    "traceback": trace,
    "warning": lambda text: print(warnings.formatwarning(text, UserWarning, "file", 1), file=sys.stderr),
    "refusal": refuse,
    "console": lambda text: console().print(text, style="dim"),
    "table": show_table,
    "results": show_results,
    "progress": show_progress,
    "MLflow": warn_of_mlflow,
    "page": show_page,
}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """What a channel writes to standard output and standard error, which are made as a command makes them."""

    def show(channel: str, text: str) -> str:
        found = io.BytesIO()
        with monkeypatch.context() as patch:
            for name in ("stdout", "stderr"):
                output = TextOutput(found, "utf-8", errors="backslashreplace", write_through=True)
                patch.setattr(sys, name, output)
            patch.setattr(logging.getLogger(), "handlers", [])  # a captured byte cannot reach xdist's controller
            CHANNELS[channel](text)
            return found.getvalue().decode()

    return show


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("is_terminal", [False, True])
def test_foreign_text_is_shown_without_its_control_sequences(
    channel: str, is_terminal: bool, shown: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "10000")
    monkeypatch.setattr(TextOutput, "isatty", lambda _: is_terminal)
    monkeypatch.setenv("TERM", "xterm")
    own = set(re.findall(SEQUENCE, shown(channel, "plain")))  # colours and movements of the cursor
    assert bool(own) == (is_terminal and channel in RICH)
    foreign = shown(channel, EVERYTHING)
    assert set(re.findall(SEQUENCE, foreign)) <= own
    rest = re.sub(SEQUENCE, "", foreign).replace("\r", "" if is_terminal else "\r")
    assert [name for name, text in HOSTILE.items() if text[0] in rest] == []
    for escaped in ("\\x00", "\\u202e"):
        assert escaped in foreign
    ordinary = shown(channel, ORDINARY)
    words = ["größe", "数据", "[bold]"] if channel == "page" else ORDINARY.expandtabs(1).split(" ")
    assert [word for word in words if word not in ordinary] == []


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_printable_escapes_nothing_but_what_a_terminal_obeys(text: str) -> None:
    first, rest = printable(f"a{text}\n{ORDINARY}").split("\n")
    assert rest == ORDINARY
    assert first.isascii()
    assert first.isprintable()
    assert first.startswith("a\\")
