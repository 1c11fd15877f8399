"""The first module that the fork server loads: it ends with its command, even while it loads others.

Else the reader of a pipe (`... | tee log`) would wait for its imports after a command that ended early, as by a
mistake in the data. On systems other than Linux it does.
"""

from __future__ import annotations

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h: the signal that a process receives when its parent ends."""

if sys.platform == "linux":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
