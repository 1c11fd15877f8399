"""`data=gaussian`: the linear lab, whose exact risks are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from src.data.sources.base import ShiftedTarget, SourceConfig
from src.errors import ConfigError
from src.io import bytes_digest
from src.typed import bounds

if TYPE_CHECKING:
    from src.data.gaussian_samples import Floats, Latents
    from src.data.source import Source
    from src.data.split_config import SplitConfig
    from src.data.stream import Population, Rows, View

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class GaussianData(SourceConfig):
    """x ~ N(0, I) in float64 with a linear target plus noise.

    In a regression each data set may have its own distribution: another target (`target_shift` or `weights`) or other
    inputs (`covariances`, or `rank` and `angle`).
    """

    needs = ("loss=mse",)

    dim: int = field(metadata=bounds(ge=1))
    """Number of features."""
    n_samples: int = field(metadata=bounds(ge=2))
    """All samples there are; the held-out sets come out of them."""
    noise: float = field(metadata=bounds(ge=0))
    """Standard deviation of the noise on the target (before the largest output is taken)."""
    target: Literal["regression", "classification"]
    """``classification``: the class is the largest of `n_classes` linear outputs."""
    n_classes: int = field(metadata=bounds(ge=2))
    """Number of classes; a regression ignores it."""
    draw: Literal["pool", "fresh", "exact"]
    """``pool``: all seeds draw from the same `n_samples`. ``fresh``: each seed has `n_samples` of its own, so seeds are
    independent. ``exact``: fresh, and each data set's training inputs have exactly its covariance C, and its noise is
    orthogonal to them: the mean squared error is then the quadratic with Hessian 2 C around its true weights."""
    target_shift: float = field(metadata=bounds(ge=0))
    """Distance between the true weights of Dataset 1 and those of every other data set."""
    weights: Matrix | None
    """The true weights themselves: one row of `dim` numbers for each data set."""
    covariances: tuple[Matrix, ...] | None
    """Covariance of the inputs: one dim x dim matrix for each data set."""
    rank: int | None = field(metadata=bounds(ge=1))
    """The inputs of each data set fill a subspace of this dimension; null: the whole space."""
    angle: float = field(metadata=bounds(ge=0, le=90))
    """All principal angles between Dataset 2's subspace and Dataset 1's, in degrees; twice that for Dataset 3, ..."""

    @property
    def is_regression(self) -> bool:
        return self.target == "regression"

    @property
    def shifted_target(self) -> ShiftedTarget | None:
        is_plain = self.weights is None and self.covariances is None and self.rank is None
        if not (self.is_regression and self.draw == "fresh" and is_plain):
            return None
        return ShiftedTarget(self.dim, self.noise, self.target_shift)

    def check(self, split: SplitConfig) -> None:
        def refuse(name: str, problem: str, value: object = None) -> None:
            raise ConfigError(f"data.{name}", getattr(self, name) if value is None else value, problem)

        if not self.is_regression:
            plain = {"draw": "pool", "target_shift": 0, "weights": None, "covariances": None, "rank": None}
            for name, value in plain.items():
                if getattr(self, name) != value:
                    refuse(name, "needs data.target=regression")
        if self.weights is not None:
            if self.target_shift:
                refuse("target_shift", "contradicts data.weights; give one of the two")
            if len(self.weights) != split.parts or any(len(row) != self.dim for row in self.weights):
                refuse("weights", f"must be {split.parts} x {self.dim}, a row of data.dim numbers for each data set")
        if self.target_shift and self.dim < 2:
            refuse("target_shift", "is orthogonal to the target; set data.dim to 2 or more")
        if self.rank is None and self.angle:
            refuse("angle", "is between subspaces; set data.rank to their dimension")
        if self.rank is not None and 2 * self.rank > self.dim:
            refuse("rank", f"two such subspaces need data.dim={2 * self.rank} or more")
        if self.covariances is not None:
            if self.rank is not None:
                refuse("rank", "contradicts data.covariances; give one of the two")
            if len(self.covariances) != split.parts:
                found = f"{len(self.covariances)} matrices"
                refuse("covariances", f"must be one for each of {split.parts} data sets", found)
            for matrix in self.covariances:
                if (problem := self._problem_of(matrix)) is not None:
                    refuse("covariances", problem, matrix)
        elif self.draw == "exact":
            least = self.rank or self.dim
            for part, size in enumerate(sizes := split.dataset_sizes()):
                if 0 < size < least:
                    fix = f"data.draw=exact needs at least {least} samples in Dataset {part + 1}"
                    raise ConfigError("split.sizes", list(sizes), fix)

    def _problem_of(self, matrix: Matrix) -> str | None:
        """Why `matrix` is no covariance of the inputs."""
        if len(matrix) != self.dim or any(len(row) != self.dim for row in matrix):
            return f"must be {self.dim} x {self.dim}, as data.dim says"
        if any(matrix[i][j] != matrix[j][i] for i in range(self.dim) for j in range(i)):
            return "must be symmetric"
        import numpy as np

        values = np.linalg.eigvalsh(np.array(matrix))
        if values[0] < -1e-12 * abs(values[-1]):
            return f"has a negative eigenvalue ({values[0]:.3g}); it is no covariance"
        return None

    def load(self, cache: Path) -> Source:
        """The samples of seed 0, all under Dataset 1's distribution; `views` has those of a stream."""
        import torch

        from src.data.source import Source
        from src.data.stream import Bank

        drawn = self.latents(0)
        outputs = drawn.z @ self.true_weights() + self.noise * drawn.noise
        bank = Bank(torch.from_numpy(drawn.z))
        parameters = {key: value for key, value in dataclasses.asdict(self).items() if key != "root"}
        digest = bytes_digest(repr(sorted(parameters.items())).encode(), 16)
        if self.is_regression:
            return Source(bank, torch.from_numpy(outputs), None, digest, generator=self)
        names = tuple(str(label) for label in range(self.n_classes))
        return Source(bank, torch.from_numpy(outputs.argmax(1)), names, digest)

    def true_weights(self) -> Floats:
        """The true weights w* [dim, k] of Dataset 1: columns of length 1, k = 1 for a regression."""
        from src.data.gaussian_samples import unit_columns

        return unit_columns(self.dim, 1 if self.is_regression else self.n_classes)

    def latents(self, seed: int) -> Latents:
        """The latents of a seed, which are those of seed 0 if `draw` is ``pool``."""
        from src.data.gaussian_samples import latents

        owner = 0 if self.draw == "pool" else seed
        return latents(self.n_samples, self.dim, 1 if self.is_regression else self.n_classes, owner)

    def populations(self, n_parts: int) -> tuple[Population, ...]:
        """The distribution of every data set of a regression; equal ones are one object."""
        import numpy as np

        from src.data.gaussian_samples import covariance_root, shifted_target, subspace_root
        from src.data.stream import Population

        found: list[Population] = []
        for part in range(n_parts):
            if self.weights is not None:
                target = np.array(self.weights[part])
            else:
                target = shifted_target(self.true_weights()[:, 0], self.target_shift, part)
            if self.covariances is not None:
                root = covariance_root(np.array(self.covariances[part]))
            else:
                root = subspace_root(self.dim, self.rank, self.angle * part)
            equal = (p for p in found if np.array_equal(p.root, root) and np.array_equal(p.target, target))
            found.append(next(equal, Population(root, target, self.noise)))
        return tuple(found)

    def views(self, source_digest: str, train: Sequence[Rows], seed: int) -> tuple[tuple[Population, ...], list[View]]:
        """See `src.data.stream.Generator`. Equal distributions share a view unless `draw` is ``exact``."""
        from src.data.gaussian_samples import exact, population_digest, population_view

        base = self.latents(seed)
        populations = self.populations(len(train))
        made: dict[object, View] = {}
        views = []
        for part, (population, rows) in enumerate(zip(populations, train, strict=True)):
            is_exact = self.draw == "exact"
            address = part if is_exact else id(population)
            if address not in made:
                content = f"{source_digest} population={population_digest(population)}"
                content += "" if self.draw == "pool" else f" seed={seed}"
                content += f" exact={bytes_digest(rows.tobytes())}" * is_exact
                drawn = exact(base, rows, population.root.shape[1]) if is_exact else base
                made[address] = population_view(population, drawn, content)
            views.append(made[address])
        return populations, views
