"""The GPUs of this machine as its processes may see them: by the driver's list and the mask they inherit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import NamedTuple

MASK = "CUDA_VISIBLE_DEVICES"

_LINE = re.compile(r"^\s*(GPU|MIG)\b.*\(UUID: ([^)]+)\)", re.M)


class Gpu(NamedTuple):
    """`shown`: how it is named in a mask, as the user wrote it if he did; `uuid`: the same for every process here."""

    shown: str
    uuid: str

    @property
    def is_part(self) -> bool:
        """Whether it is a part of a divided GPU (MIG): a process can use one of them, and no group several."""
        return self.uuid.startswith("MIG")


def gpus_here() -> tuple[Gpu, ...]:
    """The GPUs that a process started from here may use; none where there is no driver."""
    if shutil.which("nvidia-smi") is None:
        return ()
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=60)
    return seen(listed.stdout if listed.returncode == 0 else "", os.environ.get(MASK))


def seen(listing: str, mask: str | None) -> tuple[Gpu, ...]:
    """The GPUs of a listing of ``nvidia-smi -L`` that `mask` leaves, in its order; without one, all of them.

    As CUDA reads it: an index counts whole GPUs, a UUID may be shortened, and the first entry that names none ends the
    list. A divided GPU (MIG) is its parts.
    """
    found = [(kind, uuid) for kind, uuid in _LINE.findall(listing)]
    whole = [uuid for kind, uuid in found if kind == "GPU"]
    divided = {found[k - 1][1] for k, (kind, _) in enumerate(found) if kind == "MIG" and found[k - 1][0] == "GPU"}
    if mask is None:
        return tuple(Gpu(uuid, uuid) for _, uuid in found if uuid not in divided)
    chosen: list[Gpu] = []
    for entry in filter(None, (part.strip() for part in mask.split(","))):
        if entry.isdigit():
            matching = whole[int(entry) : int(entry) + 1]
        else:
            matching = [uuid for _, uuid in found if uuid.startswith(entry)]
        if len(matching) != 1 or matching[0] in (gpu.uuid for gpu in chosen):
            break
        chosen.append(Gpu(entry, matching[0]))
    return tuple(chosen)
