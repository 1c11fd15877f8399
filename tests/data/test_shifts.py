"""A shift changes what its kind names, by its amount, and the same sample always alike.

Properties (every input shift): shape and type stay; a sample's shifted pixels do not depend on the subset it is in; no
other row is read. Oracles: a quarter turn, the multiset of pixels, the deviation of the noise, cycles of labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from src.data.shifts import SHIFTS, ShiftConfig, pixel_permutation, relabel
from src.data.source import CHUNK
from src.data.stream import Rows

INPUT_SHIFTS = [kind for kind, rule in SHIFTS.items() if rule.inputs is not None]
RNG = np.random.default_rng(0)
BYTES = torch.from_numpy(RNG.integers(0, 256, (50, 3, 7, 7), dtype=np.uint8))
BANKS = {"bytes": BYTES, "float32": BYTES.float() / 255, "float64": BYTES.double() / 255}


def shift_inputs(kind: Any, x: torch.Tensor, rows: Rows, amount: float, seed: int, part: int) -> torch.Tensor:
    return ShiftConfig(kind=kind, amount=amount, source=None).shifted(x, rows, seed, part)


@pytest.mark.parametrize("bank", list(BANKS))
@pytest.mark.parametrize("kind", INPUT_SHIFTS)
def test_sample_is_shifted_alike_in_every_subset(kind: str, bank: str) -> None:
    x, amount = BANKS[bank], 33.0 if kind == "rotate" else 0.5
    everything = shift_inputs(kind, x, np.arange(50), amount, seed=3, part=1)
    some = np.array([4, 7, 31, 49])
    alone = shift_inputs(kind, x, some, amount, seed=3, part=1)
    assert (alone.dtype, alone.shape) == (x.dtype, (4, *x.shape[1:]))
    assert torch.equal(alone, everything[torch.from_numpy(some)])
    assert not torch.equal(alone, x[torch.from_numpy(some)])


@pytest.mark.parametrize("kind", INPUT_SHIFTS)
def test_rows_beyond_one_chunk_are_shifted_alike(kind: str) -> None:
    x = BYTES[:1, :1, :2, :2].expand(CHUNK + 3, -1, -1, -1)
    rows = np.arange(CHUNK + 3)
    tail = shift_inputs(kind, x, rows[CHUNK - 2 :], 0.5, seed=0, part=1)
    assert torch.equal(shift_inputs(kind, x, rows, 0.5, seed=0, part=1)[CHUNK - 2 :], tail)


@pytest.mark.parametrize("part", [1, 2, 3])
def test_quarter_turns_are_exact_and_add_up(part: int) -> None:
    turned = shift_inputs("rotate", BYTES, np.arange(50), 90.0, seed=0, part=part)
    assert torch.equal(turned, torch.rot90(BYTES, part, (2, 3)))


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_permutation_moves_the_requested_share_of_pixels_for_all_samples(share: float) -> None:
    taken = pixel_permutation(49, share, seed=5, part=1)
    assert sorted(taken.tolist()) == list(range(49))
    assert (taken != np.arange(49)).sum() == int(49 * share + 0.5)
    shifted = shift_inputs("permute", BYTES, np.arange(50), share, seed=5, part=1)
    assert torch.equal(shifted.flatten(2), BYTES.flatten(2)[:, :, torch.from_numpy(taken)])


def test_larger_permutation_moves_the_same_pixels_and_more() -> None:
    small, large = (set(np.flatnonzero(pixel_permutation(49, share, 5, 1) != np.arange(49))) for share in (0.2, 0.6))
    assert small < large


def test_features_are_permuted_as_pixels_are() -> None:
    x = torch.arange(24.0).view(4, 6)
    shifted = shift_inputs("permute", x, np.arange(4), 1.0, seed=0, part=1)
    assert torch.equal(shifted.sort(dim=1).values, x)
    assert torch.equal(shifted - shifted[0], x - x[0])


def test_noise_has_its_deviation_on_the_pixel_scale_and_differs_between_samples_seeds_and_parts() -> None:
    grey = torch.full((40, 1, 20, 20), 128, dtype=torch.uint8)
    rows = np.arange(40)
    for x in (grey, grey.float() / 255):
        shifted = shift_inputs("noise", x, rows, 0.1, seed=0, part=1)
        difference = shifted.double() - x.double()
        assert float(difference.std()) * (1 / 255 if x.dtype == torch.uint8 else 1) == pytest.approx(0.1, rel=0.03)
        assert not torch.equal(shifted[0], shifted[1])
        assert not torch.equal(shifted, shift_inputs("noise", x, rows, 0.1, seed=1, part=1))
        assert not torch.equal(shifted, shift_inputs("noise", x, rows, 0.1, seed=0, part=2))


def test_noisy_bytes_are_clipped_not_wrapped() -> None:
    white = torch.full((1, 1, 20, 20), 250, dtype=torch.uint8)
    shifted = shift_inputs("noise", white, np.arange(1), 0.5, seed=0, part=1)
    assert float((shifted == 255).double().mean()) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(("amount", "n_moved"), [(0.01, 2), (0.2, 2), (0.25, 3), (0.5, 5), (1.0, 10)])
def test_relabel_exchanges_a_share_of_the_classes_in_one_cycle(amount: float, n_moved: int) -> None:
    mapping = relabel(range(10), amount, seed=1, part=1)
    assert sorted(mapping) == sorted(mapping.values()) == list(range(10))
    moved = [c for c in mapping if mapping[c] != c]
    assert len(moved) == n_moved
    label, cycle = moved[0], []
    while label not in cycle:
        cycle.append(label)
        label = mapping[label]
    assert sorted(cycle) == sorted(moved)
    assert mapping == relabel(range(10), amount, seed=1, part=1)


def test_relabel_stays_within_the_classes_of_the_data_set() -> None:
    mapping = relabel([2, 5, 7], 1.0, seed=0, part=1)
    assert set(mapping.values()) == {2, 5, 7}
    assert len({str(relabel(range(10), 0.2, seed, 1)) for seed in range(8)}) > 1
