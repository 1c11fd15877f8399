"""What a terminal may be shown: texts without control sequences, and rich's console for them.

Names of files, classes and sweeps, and the messages of libraries and servers are foreign. A terminal obeys the control
sequences in them, and reverses text after a bidirectional override.
"""

from __future__ import annotations

import functools
import io
import re
import sys
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from rich.console import Console

UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and line feed
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # the direction of text, line and paragraph separators
    "\ud800-\udfff]"  # bytes of a file name that are no text
)


def printable(text: str) -> str:
    """The text with control characters, bidirectional overrides and lone surrogates escaped."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class TextOutput(io.TextIOWrapper):
    """A standard stream that shows every text as `printable` and has rich's own sequences pass by `escapes`."""

    def write(self, text: str, /) -> int:
        body = text.removeprefix("\r")  # by which progress bars return to the start of their line
        return super().write("\r" * (len(text) - len(body)) + printable(body))

    @property
    def escapes(self) -> IO[str]:
        """The same stream for a writer of control sequences."""
        return cast(IO[str], _Escapes(self))


class _Escapes:
    def __init__(self, stream: TextOutput) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return io.TextIOWrapper.write(self._stream, text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """rich's console on stdout or stderr, where texts are plain: no markup, no emoji codes, `printable`.

    `width`: columns where the stream is no terminal.
    """
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else width
    file = stream.escapes if isinstance(stream, TextOutput) else None
    return _console_class()(file=file, stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


@functools.cache
def _console_class() -> type[Console]:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class PlainConsole(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else segment._replace(text=printable(segment.text))

    return PlainConsole
