"""Errors shown to the user in one line, and the two ways to leave a cell early."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence


class ConfigError(ValueError):
    """A mistake of the user's in the configuration: one line with the key, the value and the fix."""

    def __init__(self, key: str, value: object, problem: str) -> None:
        shown = value if isinstance(value, str) else json.dumps(value, default=str)
        super().__init__(" ".join(f"{key}={shown}: {problem}".split()))
        self.key = key
        self.problem = problem


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`; did you mean X?`, or the list of what there is when nothing is close."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


class Interrupted(BaseException):
    """Raised by a hook of `RunControl` to leave the cell at once; finished runs and trained stages stay, the rest waits.

    Not an Exception, so that no handler of a run's failure catches it.
    """


class Pruned(BaseException):
    """Raised by `RunControl.on_progress` to end the cell for good; the text is the reason. Trained stages stay."""
