"""How long a stage trains, in updates and samples."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Length:
    """The most a stage trains: `updates` optimizer steps on `samples` samples, in epochs of `n_draws` draws.

    Every epoch has ceil(n_draws / batch_size) updates; its last batch holds the remainder. Only the last batch of the
    stage may be cut further, so that the total is exactly `samples`.
    """

    n_draws: int
    batch_size: int
    updates: int
    samples: int

    @property
    def updates_per_epoch(self) -> int:
        """Updates in a whole epoch."""
        return -(-self.n_draws // self.batch_size)

    @property
    def n_epochs(self) -> int:
        """Number of epochs, a partial last one included."""
        return -(-self.updates // self.updates_per_epoch) if self.updates else 0

    def curve_every(self, curve_points: int) -> int:
        """Epochs between two regular points of the stage's curves, which have at most `curve_points` of them."""
        return max(1, -(-self.n_epochs // curve_points))

    def regular_points(self, curve_points: int, n_done: int) -> list[int]:
        """The updates of the regular points up to `n_done` updates."""
        step = self.curve_every(curve_points) * self.updates_per_epoch
        return list(range(step, n_done + 1, step))

    @property
    def smallest_batch(self) -> int:
        """Samples of the smallest batch; 0 if nothing is trained."""
        if not self.updates:
            return 0
        n_whole, rest = divmod(self.samples, self.n_draws)
        remainders = [self.n_draws % self.batch_size if n_whole else 0, rest % self.batch_size]
        return min([remainder for remainder in remainders if remainder], default=min(self.batch_size, self.samples))

    @property
    def whole_epochs(self) -> bool:
        """Whether the last epoch is complete."""
        return self.samples == self.n_epochs * self.n_draws and self.updates == self.n_epochs * self.updates_per_epoch

    @property
    def all_at_once(self) -> bool:
        """Whether every update sees as many samples as an epoch draws."""
        return self.batch_size >= self.n_draws and self.samples == self.updates * self.n_draws

    @classmethod
    def of_epochs(cls, n_draws: int, batch_size: int, epochs: float) -> Length:
        """`epochs` passes; a fraction ends inside a pass, after a whole update."""
        return cls.of_updates(n_draws, batch_size, round(epochs * -(-n_draws // batch_size)))

    @classmethod
    def of_updates(cls, n_draws: int, batch_size: int, updates: int) -> Length:
        """A number of updates with whole batches."""
        whole, rest = divmod(updates, -(-n_draws // batch_size))
        return cls(n_draws, batch_size, updates, whole * n_draws + rest * batch_size)

    @classmethod
    def of_samples(cls, n_draws: int, batch_size: int, samples: int) -> Length:
        """A number of samples; the last batch is cut to it."""
        whole, rest = divmod(samples, n_draws)
        return cls(n_draws, batch_size, whole * -(-n_draws // batch_size) + -(-rest // batch_size), samples)


@dataclass(frozen=True)
class StageSize:
    """The sizes of a stage that decide its length."""

    n_draws: int
    """Samples drawn in one epoch."""
    n_counted: int
    """Size by which the stage's share of the budget is counted."""
    first_alone: bool
    """Whether the stage trains on Dataset 1 alone, from fresh weights."""
    factor: float = 1.0
    """Factor on the stage's budget."""
    repeats: int = 1
    """How many times in a row an epoch draws each sample."""
    batch_factor: int = 1
    """Factor on the batch size."""

    def batch(self, batch_size: int | str) -> int:
        """The number that `optimizer.batch_size` stands for."""
        return self.n_draws // self.repeats if batch_size == "full" else int(batch_size) * self.batch_factor

    def passes(self, batch_size: int | str, n_passes: float) -> Length:
        """The length of `n_passes` passes over the counted data.

        A replay stage makes as many updates as Dataset 2 alone takes. With `repeats` = 10, one epoch is ten passes.
        """
        batch = self.batch(batch_size)
        if self.repeats > 1:
            return Length.of_samples(self.n_draws, batch, round(n_passes * self.n_counted))
        return Length.of_updates(self.n_draws, batch, round(n_passes * -(-self.n_counted // batch)))
