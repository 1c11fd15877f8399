"""Errors shown to the user in one line, and the ways to leave a cell early."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from src.terminal import printable


class ConfigError(ValueError):
    """A mistake of the user's in the configuration: one line with the key, the value and the fix."""

    def __init__(self, key: str, value: object, problem: str) -> None:
        shown = value if isinstance(value, str) else json.dumps(value, default=str)
        line = " ".join(f"{key}={shown}: {problem}".split())
        super().__init__(printable(line))
        self.key = key
        self.value = value
        self.problem = problem

    def adding(self, remark: str) -> ConfigError:
        """The same error with a remark at its end."""
        return ConfigError(self.key, self.value, f"{self.problem} ({remark})")


@contextmanager
def foreign_file(key: str, value: str, file: Path, fix: str) -> Iterator[None]:
    """Report every exception of a library that reads a user's file as a ConfigError that names key, file and fix.

    Libraries raise whatever their parser runs into (struct.error, KeyError, RecursionError), so no list is complete.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, OSError | ValueError) and str(error) else f"{error!r}"
        if isinstance(error, OSError) and error.filename == str(file) and error.strerror:
            reason = error.strerror  # the file is named already
        raise ConfigError(key, value, f"cannot read {file} ({reason[:300]}); {fix}") from error


def require_utf8(key: str, value: str, name: str, fix: str) -> None:
    """Raise ConfigError if `name` has bytes that are not UTF-8: YAML, JSON and databases cannot store it."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(key, value, f"{name} is not UTF-8; {fix}") from error


def one_line(error: Exception) -> str:
    """The type and the message of an error, without line breaks."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`; did you mean X?`, or the list of what there is when nothing is close."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


class Interrupted(BaseException):
    """Raised by a hook of `RunControl` to leave the cell at once; finished runs and trained stages stay, the rest
    waits.

    Not an Exception, so that no handler of a run's failure catches it.
    """


class ClaimLost(Interrupted):
    """Raised by `RunControl.before_run`: another worker has taken the cell over, and writes its runs."""


class Pruned(BaseException):
    """Raised by `RunControl.on_progress` to end the cell for good; the text is the reason. Trained stages stay."""
