"""Whether an architecture is sound and fits the data, said before anything is trained.

Nothing here imports torch, until a model of torchvision is shown the shape of the data.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from src.errors import ConfigError
from src.models.config import ArchConfig, CnnArch, LinearArch, MlpArch, TorchvisionArch


def check_arch(arch: ArchConfig) -> None:
    """Raise `ConfigError` where `arch` contradicts itself or names an unknown model, whatever the data."""
    if isinstance(arch, MlpArch | CnnArch) and not arch.widths:
        raise ConfigError("arch.widths", [], "needs at least one layer; use arch=linear for none")
    if isinstance(arch, MlpArch) and arch.depth is not None and len(arch.widths) != 1:
        problem = f"repeats a single width, and arch.widths has {len(arch.widths)}; give one width or arch.depth=null"
        raise ConfigError("arch.depth", arch.depth, problem)
    if isinstance(arch, TorchvisionArch):
        known = torchvision_models()
        if arch.model not in known:
            close = difflib.get_close_matches(arch.model.lower(), known, n=3, cutoff=0.4)
            fix = f"did you mean {' or '.join(close)}?" if close else f"take one of {', '.join(known)}"
            raise ConfigError("arch.model", arch.model, f"no classification model of torchvision; {fix}")


def torchvision_models() -> list[str]:
    """Names of torchvision's classification models, read from its source: to import it takes seconds."""
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None, "torchvision is not installed"
    assert spec.origin is not None, spec
    registered = re.compile(r"^@register_model\(\)\n(?:.*\n)*?def (\w+)", re.MULTILINE)
    files = (Path(spec.origin).parent / "models").glob("*.py")
    return sorted(name for file in files for name in registered.findall(file.read_text(encoding="utf-8")))


def validate_arch(arch: ArchConfig, input_shape: Sequence[int], n_outputs: int) -> None:
    """Raise `ConfigError` where `arch` is unsound (`check_arch`) or cannot take samples of `input_shape`.

    `input_shape`: (channels, height, width) or (features,). A model of torchvision is built without memory (on the meta
    device) and shown two samples, so that images too small for it are refused here.
    """
    assert min(input_shape) >= 1, input_shape
    assert n_outputs >= 1, n_outputs
    check_arch(arch)
    if isinstance(arch, LinearArch | MlpArch):
        return
    if len(input_shape) != 3:
        problem = f"needs images [channels, height, width], the data has shape {list(input_shape)}; use arch=mlp"
        raise ConfigError("arch", arch.name, problem)
    if isinstance(arch, CnnArch):
        side = min(input_shape[1:])
        n_pools = len(arch.widths)
        if side < 2**n_pools:
            fits = side.bit_length() - 1
            fix = f"give at most {fits} width{'s' if fits > 1 else ''}" if fits else "use arch=mlp"
            problem = f"{n_pools} convolutions halve the image {n_pools} times, and a side of {side} pixels has no room; {fix}"
            raise ConfigError("arch.widths", list(arch.widths), problem)
    if isinstance(arch, TorchvisionArch):
        from src.models.named import validate_named

        validate_named(arch.model, tuple(input_shape), n_outputs)
