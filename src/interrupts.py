"""Ctrl-C in a command's own process: where it is raised, and where the process leaves instead.

Nothing may be raised within an import. Modules of torch import others from C++ that cannot pass an exception on: the
process ended by SIGABRT. Cython modules swallow it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import NoReturn

STOPPED = "stopped; the same command continues from here"
EXIT_STATUS = 128 + signal.SIGINT
SECONDS_TO_LEAVE = 2.0
IMPORTING = "<frozen importlib._bootstrap>"
"""The file name of the functions that are on the stack of every import, also of those that C code starts."""

_is_interrupted = False
_command = 0
"""The process id of the command, whose handler the processes that it forks inherit."""


def listen() -> None:
    """Installs the handler of SIGINT, unless it is ignored (as after nohup) or already handled."""
    global _command, _is_interrupted
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        _command = os.getpid()
        _is_interrupted = False
        signal.signal(signal.SIGINT, _interrupt)


def was_interrupted() -> bool:
    """Whether Ctrl-C came: an exception of any type is then its consequence, since libraries replace it."""
    return _is_interrupted


def is_importing(frame: FrameType | None) -> bool:
    """Whether the code of `frame` runs within an import."""
    while frame is not None:
        if frame.f_code.co_filename == IMPORTING:
            return True
        frame = frame.f_back
    return False


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Ends the command: at once within an import, else by KeyboardInterrupt, which a library may swallow.

    Leaving without cleaning up loses nothing: a command may be killed at any time.
    """
    global _is_interrupted
    del number
    if os.getpid() != _command:
        os._exit(EXIT_STATUS)
    if _is_interrupted:  # a second one, which may have come while this function ran: no lock may be waited for
        _leave()
    _is_interrupted = True
    timer = threading.Timer(SECONDS_TO_LEAVE, _leave)
    timer.daemon = True
    timer.start()
    if is_importing(frame):
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with suppress(Exception):  # nothing may be raised here, also by a pipe that takes no more
                stream.flush()
        _leave()
    raise KeyboardInterrupt


def _leave() -> NoReturn:
    with suppress(OSError):  # a stderr that is closed or full
        os.write(2, f"{STOPPED}\n".encode())
    os._exit(EXIT_STATUS)
