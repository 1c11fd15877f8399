"""Random generators addressed by content, so that nothing depends on what ran before.

Four kinds of randomness derive from the one seed of a run: the draw of the data, the initial weights, the batch order,
and noise (dropout, augmentation). Each generator is named by (seed, kind, address...); equal names give equal numbers
in any process, in any order, however often asked.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np

Kind = Literal["data", "init", "order", "noise"]


def derive(seed: int, kind: Kind, *address: object) -> int:
    """A 63-bit number that names one generator: a hash of the seed, the kind and the address."""
    text = "\x1f".join([str(int(seed)), kind, *(str(part) for part in address)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, kind: Kind, *address: object) -> np.random.Generator:
    """A numpy generator of its own for (seed, kind, address)."""
    return np.random.Generator(np.random.PCG64(derive(seed, kind, *address)))
