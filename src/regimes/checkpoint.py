"""A user's own model in place of a stage: a file that is identified by its content, whatever its path.

Inside a `Config` a checkpoint is the text ``path@digest``: a sweep that resumes elsewhere or later trains from the same
weights, or refuses the file if it has changed.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from src.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".pt", ".pth", ".safetensors")
SHOWN = 4
"""Names that an error lists at most."""


def pin(given: str, key: str) -> str:
    """``path@digest`` of a file, from its path or from that very text. Raises ConfigError under `key`."""
    path, digest = split(given)
    file = Path(path)
    if not file.is_file():
        raise ConfigError(key, path, "no such file; give the path of a .pt, .pth or .safetensors file")
    if file.suffix not in SUFFIXES:
        raise ConfigError(key, path, f"is of an unknown kind; save it as one of {', '.join(SUFFIXES)}")
    status = file.stat()
    found = _digest_of_file(path, status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size)
    if digest is not None and digest != found:
        raise ConfigError(key, path, f"its content is {found} by now, not {digest}; name the file without @{digest}")
    return f"{path}@{found}"


def split(pinned: str) -> tuple[str, str | None]:
    """The path and, if it is there, the digest of ``path@digest``."""
    match = re.fullmatch(r"(.+)@([0-9a-f]{16})", pinned)
    return (match[1], match[2]) if match else (pinned, None)


@functools.lru_cache(maxsize=64)
def _digest_of_file(path: str, *status: int) -> str:
    del status  # a changed file is read again
    return content_digest(Path(path).read_bytes())


def content_digest(content: bytes) -> str:
    """16 hexadecimal digits that name the content of a file."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def read(pinned: str, model: Mapping[str, Tensor], key: str = "checkpoint") -> dict[str, Tensor]:
    """The weights in the file as a state dict of the architecture whose state dict is `model` (shapes alone are read).

    Names must be the architecture's; a file none of whose names are known is taken by position, with a warning, if it has
    tensors of exactly the same shapes in the same order. Raises ConfigError, naming what does not match.
    """
    path, digest = split(pinned)
    content = Path(path).read_bytes()
    if digest is not None and content_digest(content) != digest:
        raise ConfigError(key, path, f"has changed since the run was composed ({digest}); start the command again")
    state = _tensors(path, content, key)
    own = {name: tuple(tensor.shape) for name, tensor in model.items()}
    order = ""
    if not set(own) & set(state) and len(state) == len(own):
        order = (
            f"its names are unknown, so tensors are taken by their order: {next(iter(state))} as {next(iter(own))}, ..."
        )
        state = dict(zip(own, state.values(), strict=True))
    if problems := _differences(state, own):
        listed = ", ".join(problems[:SHOWN]) + (f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else "")
        problem = f"does not fit the architecture: {f'{order}; ' if order else ''}{listed}"
        raise ConfigError(key, path, f"{problem}; choose the arch it was trained with")
    if order:
        warnings.warn(f"{path}: {order}", stacklevel=2)
    return {name: state[name] for name in own}


def _differences(state: Mapping[str, Tensor], own: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What the file lacks, has besides, or has in another shape, by its names."""
    problems = [f"it lacks {name} {list(shape)}" for name, shape in own.items() if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in own]
    return problems + [
        f"{name} is {list(state[name].shape)}, here {list(shape)}"
        for name, shape in own.items()
        if name in state and tuple(state[name].shape) != shape
    ]


def _tensors(path: str, content: bytes, key: str) -> dict[str, Tensor]:
    """The file's tensors by name. Nothing in it is executed: pickled code is refused."""
    import torch
    from safetensors.torch import load

    how = "save it with torch.save(model.state_dict(), path) or safetensors"
    try:
        if path.endswith(".safetensors"):
            state = load(content)
        else:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or foreign file makes the parsers raise anything
        reason = " ".join(str(error).split())[:120] or repr(error)
        raise ConfigError(key, path, f"cannot be read as plain weights ({reason}); {how}") from error
    if not isinstance(state, Mapping) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        known = ", ".join(str(name) for name in list(state)[:SHOWN]) if isinstance(state, Mapping) else type(state)
        raise ConfigError(key, path, f"holds no state dict (but {known}); {how}")
    if not all(torch.isfinite(t).all() for t in state.values()):
        raise ConfigError(key, path, "holds weights that are not finite")
    return dict(state)
