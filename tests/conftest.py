"""For all tests: one thread, and the arithmetic of the commands, set before a library is loaded that asks for them."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_CBWR", "AUTO")  # as src.training.devices sets it, which is too late after another's product
