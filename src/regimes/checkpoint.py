"""A user's own model in place of a stage: a file that is identified by its content, whatever its path.

Inside a `Config` a checkpoint is the text ``path@digest``: a sweep that resumes elsewhere or later trains from the same
weights, or refuses the file if it has changed. ``path@digest["cat","dog"]`` names the classes of the file's outputs as
well: they need not be the data's.
"""

from __future__ import annotations

import functools
import io
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from src.environment import require_loadable
from src.errors import ConfigError, foreign_file
from src.io import bytes_digest

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".pt", ".pth", ".safetensors")
HOW_TO_SAVE = "save it with torch.save(model.state_dict(), path) or safetensors"
SHOWN = 4
"""Names that an error lists at most."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The parts of a pinned text: see above."""

    path: str
    digest: str | None = None
    classes: tuple[str, ...] | None = None
    """Class of each row of the file's head; None: the data's classes, in their order."""

    @property
    def text(self) -> str:
        """The pinned text."""
        classes = "" if self.classes is None else json.dumps(self.classes, ensure_ascii=False, separators=(",", ":"))
        return self.path + (f"@{self.digest}" if self.digest else "") + classes

    @property
    def identity(self) -> str:
        """What the weights are, wherever the file lies: 16 hexadecimal digits. The file must be pinned."""
        assert self.digest is not None, self.path
        return self.digest if self.classes is None else bytes_digest(f"{self.digest} {self.classes}".encode())


def pin(given: object, key: str) -> str:
    """The pinned text of a file, from its path, from that very text, or from {path: ..., classes: [...]}.

    Raises ConfigError under `key`.
    """
    if isinstance(given, Mapping):
        classes = given.get("classes")
        if set(given) != {"path", "classes"} or not isinstance(classes, list | tuple):
            raise ConfigError(key, dict(given), "must be a path, or {path: FILE, classes: [name of each output]}")
        names = tuple(map(str, classes))
        if len(set(names)) < len(names):
            raise ConfigError(
                f"{key}.classes", list(classes), "names a class twice; give each output a class of its own"
            )
        found = replace(parts_of(str(given["path"])), classes=names)
    else:
        found = parts_of(str(given))
    path, digest = found.path, found.digest
    file = Path(path)
    if not file.is_file():
        raise ConfigError(key, path, "no such file; give the path of a .pt, .pth or .safetensors file")
    if file.suffix not in SUFFIXES:
        raise ConfigError(key, path, f"is of an unknown kind; save it as one of {', '.join(SUFFIXES)}")
    with foreign_file(key, path, file, HOW_TO_SAVE):
        require_loadable(file)
    status = file.stat()
    now = _digest_of_file(path, status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size)
    if digest is not None and digest != now:
        raise ConfigError(key, path, f"its content is {now} by now, not {digest}; name the file without @{digest}")
    return replace(found, digest=now).text


def split_pin(pinned: str) -> tuple[str, str | None]:
    """The path and, if it is there, the digest of ``path@digest``."""
    match = re.fullmatch(r"(.+)@([0-9a-f]{16})", pinned)
    return (match[1], match[2]) if match else (pinned, None)


def parts_of(pinned: str) -> Checkpoint:
    """The parts of a path or a pinned text."""
    match = re.fullmatch(r"(.+?@[0-9a-f]{16})(\[.*\])", pinned, re.DOTALL)
    if match is None:
        return Checkpoint(*split_pin(pinned))
    return Checkpoint(*split_pin(match[1]), tuple(json.loads(match[2])))


@functools.lru_cache(maxsize=64)
def _digest_of_file(path: str, *status: int) -> str:
    del status  # a changed file is read again
    return bytes_digest(Path(path).read_bytes())


def read(
    pinned: str,
    model: Mapping[str, Tensor],
    key: str = "checkpoint",
    class_names: Sequence[str] | None = None,
    *,
    sums_colours: bool = False,
) -> dict[str, Tensor]:
    """The weights in the file as a state dict of the architecture whose state dict is `model`.

    Names must be the architecture's; a file none of whose names are known is taken by position, with a warning, if it
    has tensors of exactly the same shapes in the same order. If the text names the file's classes, the rows of its head
    go to the outputs of those names among `class_names`, the data's; other outputs keep the weights of `model`. Without
    them, shapes alone are read of `model`. `sums_colours`: see `read_backbone`. Raises ConfigError, naming what does
    not match.
    """
    checkpoint = parts_of(pinned)
    path, digest, classes = checkpoint.path, checkpoint.digest, checkpoint.classes
    content = Path(path).read_bytes()
    if digest is not None and bytes_digest(content) != digest:
        raise ConfigError(key, path, f"has changed since the run was composed ({digest}); start the command again")
    state = _tensors(path, content, key)
    if sums_colours:
        state = _as_grey(state, model)
    own = {name: tuple(tensor.shape) for name, tensor in model.items()}
    order = ""
    if not set(own) & set(state) and len(state) == len(own):
        order = (
            f"its names are unknown, so tensors are taken by their order: {next(iter(state))} as {next(iter(own))}, ..."
        )
        state = dict(zip(own, state.values(), strict=True))
    if classes is not None:
        if class_names is None:
            raise ConfigError(f"{key}.classes", list(classes), "a regression has no classes; leave them out")
        state = _with_head(state, model, classes, class_names, f"{key}.classes")
    if problems := _differences(state, own):
        listed = ", ".join(problems[:SHOWN]) + (f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else "")
        problem = f"does not fit the architecture: {f'{order}; ' if order else ''}{listed}"
        fix = "choose the arch it was trained with"
        if classes is None and class_names is not None and _only_rows_differ(state, own, len(class_names)):
            fix = (
                "if the file has other classes, name them: checkpoint:{path:FILE,classes:[...]}, or [] for a fresh head"
            )
        raise ConfigError(key, path, f"{problem}; {fix}")
    if order:
        warnings.warn(f"{path}: {order}", stacklevel=2)
    return {name: state[name] for name in own}


def read_backbone(pinned: str, model: Mapping[str, Tensor], n_outputs: int, key: str) -> dict[str, Tensor]:
    """The weights in the file as `read` gives them, with the head of `model`, whatever the file's is.

    A first convolution over colours is summed over its channels if the model's is over grey. Raises ConfigError.
    """
    rows = [str(k) for k in range(n_outputs)]
    return read(replace(parts_of(pinned), classes=()).text, model, key, rows, sums_colours=True)


def _with_head(
    state: Mapping[str, Tensor],
    model: Mapping[str, Tensor],
    classes: Sequence[str],
    class_names: Sequence[str],
    key: str,
) -> dict[str, Tensor]:
    """The file's `state` with a head for `class_names`: its own rows by class name, the others from `model`.

    The head is the last weight and bias, with one row for each class. Without any `classes` all of it is the model's.
    """
    given = list(classes)
    names = [name for name, tensor in model.items() if tensor.ndim and tensor.shape[0] == len(class_names)]
    layer = next((name.rpartition(".")[0] for name in reversed(names)), "")
    head = [name for name in names if name.rpartition(".")[0] == layer]
    if not head:
        raise ConfigError(key, given, "the architecture has no last layer with an output for each class")
    n_rows = {len(state[name]) for name in head if name in state and state[name].ndim}
    if classes and n_rows and n_rows != {len(classes)}:
        problem = (
            f"names {len(classes)} classes, but the file's {layer} has {n_rows.pop()} outputs; name each, in order"
        )
        raise ConfigError(key, given, problem)
    shared = [name for name in class_names if name in classes]
    if classes and not shared:
        of_data = ", ".join(class_names[:SHOWN]) + ", ..." * (len(class_names) > SHOWN)
        problem = f"none of them is a class of the data ({of_data}); [] takes none on purpose"
        raise ConfigError(key, given, problem)
    merged = dict(state)
    for name in head:
        if (own := state.get(name)) is None and not classes:  # a file of the layers below the head alone
            merged[name] = model[name]
        elif own is not None and own.shape[1:] == model[name].shape[1:]:
            merged[name] = model[name].detach().clone()
            for of_both in () if merged[name].is_meta else shared:
                merged[name][class_names.index(of_both)] = own[classes.index(of_both)].to(merged[name])
    return merged


def _as_grey(state: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The `state`, a convolution over three colours summed where the model's is over one: equal for grey images."""

    def is_of_colours(name: str, tensor: Tensor) -> bool:
        own = tuple(model[name].shape) if name in model else ()
        return len(own) == 4 and own[1] == 1 and tuple(tensor.shape) == (own[0], 3, *own[2:])

    return {name: t.sum(dim=1, keepdim=True) if is_of_colours(name, t) else t for name, t in state.items()}


def _only_rows_differ(state: Mapping[str, Tensor], own: Mapping[str, tuple[int, ...]], n_classes: int) -> bool:
    """Whether the file fits but for the number of outputs of its head."""
    differ = [name for name in own if name not in state or tuple(state[name].shape) != own[name]]
    same_width = all(name in state and tuple(state[name].shape[1:]) == own[name][1:] for name in differ)
    return set(own) == set(state) and same_width and all(own[name][:1] == (n_classes,) for name in differ)


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

    try:
        if path.endswith(".safetensors"):
            state = load(content)
        else:
            _require_stored(content)
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or foreign file makes the parsers raise anything
        is_pickle = isinstance(error, pickle.UnpicklingError)
        reason = "it holds pickled objects" if is_pickle else " ".join(str(error).split())[:120] or repr(error)
        raise ConfigError(key, path, f"cannot be read as plain weights ({reason}); {HOW_TO_SAVE}") from error
    if not isinstance(state, Mapping) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        known = ", ".join(str(name) for name in list(state)[:SHOWN]) if isinstance(state, Mapping) else type(state)
        raise ConfigError(key, path, f"holds no state dict (but {known}); {HOW_TO_SAVE}")
    for name, tensor in state.items():
        if (kind := _odd_kind(tensor)) is not None:
            raise ConfigError(key, path, f"{name} is {kind}, not a plain tensor of numbers; {HOW_TO_SAVE}")
        if not torch.isfinite(tensor).all():
            raise ConfigError(key, path, "holds weights that are not finite")
    return dict(state)


def _require_stored(content: bytes) -> None:
    """Raise ValueError if an archive unpacks to more than its size: torch.save compresses nothing."""
    if zipfile.is_zipfile(archive := io.BytesIO(content)):
        n_bytes = sum(member.file_size for member in zipfile.ZipFile(archive).infolist())
        if n_bytes > len(content):
            raise ValueError(f"{len(content):,} bytes unpack to {n_bytes:,}")


def _odd_kind(tensor: Tensor) -> str | None:
    """Why a tensor cannot be weights, whatever its shape; None if it can. Touches no values."""
    import torch

    if tensor.is_meta:
        return "without values (meta)"
    if tensor.layout != torch.strided:
        return f"sparse ({tensor.layout})"
    if tensor.is_quantized or tensor.is_complex():
        return "quantised" if tensor.is_quantized else "complex"
    n_bytes, n_stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    return f"a view of {n_stored:,} bytes as {n_bytes:,}" if n_bytes > n_stored else None
