"""`data=torchvision`: any classification data set of torchvision by name, read image by image through its own class."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from src.axes import number
from src.data.sources.base import SourceConfig
from src.errors import ConfigError, did_you_mean
from src.locks import LONG_SECONDS, locked
from src.typed import bounds

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from src.data.source import Source

TEST_SPLITS = ("test", "val", "valid")
"""What classes with a `split` call their held-out set, the first of which exists."""
WORDS: Mapping[str, Any] = {"true": True, "false": False, "null": None}


@dataclass(frozen=True, kw_only=True)
class TorchvisionDataset(SourceConfig):
    """A classification data set of torchvision; its test set is the official test set, where it has one.

    The class decides what files it needs, checks and downloads.
    """

    where = frozenset({"root", "download"})
    needs = ("data.dataset=KMNIST",)

    dataset: str
    """Name of the class in `torchvision.datasets`."""
    arguments: tuple[str, ...] = ()
    """Its further arguments, each as ``name:value``."""
    download: bool
    """Let torchvision fetch missing files."""
    image_size: int | None = field(default=None, metadata=bounds(ge=1))
    """The shorter side is scaled to this, the middle square kept; null: images as they are, all of one size."""
    channels: Literal[1, 3] | None = None
    """1: grey, 3: RGB; null: as the first image has."""

    @property
    def label(self) -> str:
        values = [argument.rpartition(":")[2] for argument in self.arguments]
        return re.sub(r"[^\w.-]", "_", "-".join([self.dataset, *values]))

    def load(self, cache: Path) -> Source:
        """Samples of the training set come first."""
        import numpy as np
        import torch

        from src.data.source import make_source

        del cache
        parts = self._parts()
        images, labels = zip(*(self._read(part) for part in parts), strict=True)
        if len({part.shape[1:] for part in images}) > 1:
            raise self._sizes(images[0].shape[1:], images[1].shape[1:])
        x, y = torch.from_numpy(np.concatenate(images)), np.concatenate(labels)
        present, numbered = np.unique(y, return_inverse=True)  # EMNIST's letters count from 1
        known = [str(name) for name in getattr(parts[0], "classes", ())]
        names = [known[k] if 0 <= k < len(known) else str(k) for k in present.tolist()]
        names = names if len(set(names)) == len(names) else [str(k) for k in present.tolist()]
        if len(names) < 2:
            raise self._error(f"has one class only, {names[0]}; it needs 2 or more")
        is_test = torch.arange(len(y)) >= len(labels[0]) if len(parts) > 1 else None
        source = make_source(x, torch.from_numpy(numbered.astype(np.int64)), tuple(names), is_test)
        return replace(source, are_numbered=present.tolist() == list(range(len(present))))

    def _parts(self) -> list[Any]:
        """The training and the test set, or the one set that the class has or the arguments name."""
        from torchvision import datasets

        known = [name for name in datasets.__all__ if name not in ("ImageFolder", "DatasetFolder", "VisionDataset")]
        if self.dataset not in known:
            raise self._error(f"torchvision has no such data set; {did_you_mean(self.dataset, known)}")
        kind = getattr(datasets, self.dataset)
        parameters = set(inspect.signature(kind).parameters)
        if issubclass(kind, datasets.MNIST):
            parameters |= {"train", "download"}  # some of its subclasses pass them on
        given = self._given()
        given |= {"root": str(self.folder)} if "root" in parameters else {}
        if "train" in parameters and "train" not in given:
            return [self._open(kind, parameters, {**given, "train": is_train}) for is_train in (True, False)]
        if "split" in parameters and "split" not in given:
            first = self._open(kind, parameters, {**given, "split": "train"})
            for name in TEST_SPLITS:
                try:
                    return [first, self._open(kind, parameters, {**given, "split": name})]
                except ValueError as error:
                    if isinstance(error, ConfigError) and not isinstance(error.__cause__, ValueError):
                        raise  # files are missing, which is no unknown split
            return [first]
        return [self._open(kind, parameters, given)]

    def _given(self) -> dict[str, Any]:
        pairs = [argument.partition(":") for argument in self.arguments]
        if wrong := [name for name, colon, _ in pairs if not colon or not name.isidentifier()]:
            raise ConfigError(
                "data.arguments", list(self.arguments), f"{wrong[0]} is no NAME:VALUE, e.g. [split:letters]"
            )
        return {name: WORDS[value] if value in WORDS else number(value) for name, _, value in pairs}

    def _open(self, kind: Any, parameters: set[str], given: Mapping[str, Any]) -> Any:
        """The data set, downloaded if it is missing and may be. One process downloads while the others wait."""
        by_hand = f"copy torchvision's files of {self.dataset} below it, or point data.root to a folder that holds them"
        try:
            try:
                return kind(**given)
            except (RuntimeError, OSError):
                if not (self.download and "download" in parameters):
                    raise
                self.folder.mkdir(parents=True, exist_ok=True)
                with locked(self.folder / f".{self.dataset}.lock", seconds=LONG_SECONDS):
                    return kind(**given, download=True)
        except (RuntimeError, OSError, EOFError) as error:
            offline = self.download or "download" not in parameters
            fix = f"check the network, or {by_hand}" if offline else f"set data.download=true, or {by_hand}"
            problem = f"holds no complete {self.dataset} ({str(error)[:300]}); {fix}"
            raise ConfigError("data.root", self.root, problem) from error
        except (TypeError, ValueError, ModuleNotFoundError) as error:
            taken = ", ".join(sorted(parameters - {"root", "transform", "target_transform", "loader", "kwargs"}))
            problem = f"{self.dataset} refuses them ({str(error)[:300]}); it takes {taken}"
            raise ConfigError("data.arguments", list(self.arguments), problem) from error

    def _read(self, part: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Images [n, channels, height, width] and class numbers [n] of one set."""
        import numpy as np
        from PIL import Image

        from src.data.image_cache import pixels_of

        images: NDArray[np.uint8] | None = None
        labels = np.zeros(len(part), np.int64)
        for row in range(len(part)):
            image, label = part[row][:2]
            if not isinstance(image, Image.Image) or isinstance(label, bool) or not isinstance(label, int | np.integer):
                raise self._error(
                    "has no images with one class each; detection, segmentation and video have other tools"
                )
            channels = self.channels or (1 if image.mode in ("1", "L", "I;16") else 3)
            pixels = pixels_of(image, self.image_size, images.shape[1] if images is not None else channels)
            if images is None:
                images = np.empty((len(part), *pixels.shape), np.uint8)
            if pixels.shape != images.shape[1:]:
                raise self._sizes(images.shape[1:], pixels.shape)
            images[row], labels[row] = pixels, int(label)
        if images is None:
            raise self._error("has no images")
        return images, labels

    def _sizes(self, one: tuple[int, ...], other: tuple[int, ...]) -> ConfigError:
        shown = " and ".join("x".join(map(str, shape[::-1][:2])) for shape in (one, other))
        return ConfigError(
            "data.image_size", None, f"images of {self.dataset} differ in size ({shown}); e.g. data.image_size=64"
        )

    def _error(self, problem: str) -> ConfigError:
        return ConfigError("data.dataset", self.dataset, problem)
