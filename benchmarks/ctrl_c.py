"""Seconds from Ctrl-C to the end of a command, at moments from start-up to training.   python -m benchmarks.ctrl_c

The default grid, and one cell of a CNN in which the second worker helps the first. As at a terminal, the signal goes to the whole
process group. Exits with status 1 if a command takes over 3 s or ends otherwise than by the signal (130 in a shell),
whose stderr it prints.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time

COMMANDS = {
    "default grid": ["-m", "split.ratio=0.1,0.3,1,3,10", "split.imbalance=1,5,20", "stopping.epochs=5,20"],
    "one cell, two workers": ["arch=cnn", "stopping.epochs=200", "seeds=12", "n_workers=2"],
}
MOMENTS = {
    "default grid": (0.3, 0.6, 0.8, 1, 1.2, 1.5, 1.8, 2, 2.2, 2.5, 3, 3.5, 4, 5, 6, 8),
    "one cell, two workers": (2, 4, 8, 12, 16),
}
"""Seconds after the start."""
MOST = 3.0
BY_SIGNAL = {130, -signal.SIGINT}
"""Exit codes: of a command, and of Python before the command has started."""


def interrupted(words: list[str], moment: float) -> tuple[float, int, str]:
    """Seconds until the command ends, its exit code, and its stderr with the stacks of a crash."""
    with tempfile.TemporaryDirectory() as multirun, tempfile.TemporaryFile("w+", errors="replace") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "src.sweep", *words, f"multirun={multirun}"],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
        time.sleep(moment)
        begun = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        code = process.wait()
        seconds = time.monotonic() - begun
        stderr.seek(0)
        return seconds, code, stderr.read()


def main() -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    is_well = True
    for name, words in COMMANDS.items():
        found = {moment: interrupted(words, moment) for moment in MOMENTS[name]}
        codes = {code for _, code, _ in found.values()}
        slowest = max(found, key=lambda moment: found[moment][0])
        print(f"{name}: {len(found)} times, at most {found[slowest][0]:.1f} s (after {slowest:g} s); codes {codes}")
        for moment, (_, code, stderr) in found.items():
            if code not in BY_SIGNAL:
                print(f"after {moment:g} s: code {code}\n{stderr}")
        is_well &= found[slowest][0] <= MOST and codes <= BY_SIGNAL
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
