"""Lengths of stages: values computed by hand, and properties for every regime, size and batch.

Properties: a length's samples are those that its batches hold; under `updates` and `samples` every regime gets the total of
sequential, to the update; a stage without a budget gets nothing; an amount of training has one meaning at any batch size.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.stopping.budget import BudgetStopping
from src.stopping.convergence import ConvergenceStopping
from src.stopping.early_stopping import EarlyStopping
from src.stopping.epochs import EpochsStopping
from src.stopping.length import Length, StageSize

SIZES = st.integers(1, 200)
BATCHES = st.one_of(st.just("full"), st.integers(1, 70))


def budget(match: str, **amount: int) -> BudgetStopping:
    return BudgetStopping(
        name="budget",
        match=match,
        **{"epochs": None, "updates": None, "samples": None, "updates_per_part": None, **amount},  # type: ignore[arg-type]
    )


def sequential(*sizes: int) -> list[StageSize]:
    return [StageSize(n_draws=n, n_counted=n, first_alone=k == 0) for k, n in enumerate(sizes)]


def combined(*sizes: int) -> list[StageSize]:
    return [StageSize(n_draws=sum(sizes), n_counted=sum(sizes), first_alone=False)]


def amounts(lengths: list[Length]) -> list[tuple[int, int, int]]:
    """(updates, samples, epochs begun) of every stage."""
    return [(length.updates, length.samples, length.n_epochs) for length in lengths]


def test_epochs_are_passes_of_every_stage_over_its_own_data() -> None:
    stopping = EpochsStopping(name="epochs", epochs=3)
    assert amounts(stopping.lengths(sequential(100, 10), [100, 10], 64)) == [(6, 300, 3), (3, 30, 3)]
    assert amounts(stopping.lengths(combined(100, 10), [100, 10], 64)) == [(6, 330, 3)]


def test_updates_of_sequential_are_divided_by_size_and_the_remainder_goes_to_the_last() -> None:
    # sequential makes 3 x (ceil(100/64) + ceil(10/64)) = 9 updates: floor(9 x 100/110) = 8, and 1
    assert amounts(budget("updates", epochs=3).lengths(sequential(100, 10), [100, 10], 64)) == [
        (8, 400, 4),
        (1, 10, 1),
    ]
    # 9 updates of combined: 4 epochs of 64 + 46, and one update of 64
    assert amounts(budget("updates", epochs=3).lengths(combined(100, 10), [100, 10], 64)) == [(9, 504, 5)]


def test_the_last_batch_is_cut_until_the_samples_come_out() -> None:
    # 3 x 110 = 330 samples: 300 and 30; combined sees its 110 three times
    assert amounts(budget("samples", epochs=3).lengths(sequential(100, 10), [100, 10], 64)) == [
        (6, 300, 3),
        (3, 30, 3),
    ]
    # 77 samples: floor(77 x 100/110) = 70 = a batch of 64 and one of 6; 7 of the 10
    assert amounts(budget("samples", samples=77).lengths(sequential(100, 10), [100, 10], 64)) == [
        (2, 70, 1),
        (1, 7, 1),
    ]
    # 250 samples of 110: two epochs of 64 + 46, then 30
    assert amounts(budget("samples", samples=250).lengths(combined(100, 10), [100, 10], 64)) == [(5, 250, 3)]


def test_marginal_counts_only_the_cost_of_dataset_2() -> None:
    stopping = budget("marginal", epochs=4)
    assert amounts(stopping.lengths(sequential(100, 70), [100, 70], 64)) == [(8, 400, 4), (8, 280, 4)]
    assert [n for n, _, _ in amounts(stopping.lengths(combined(100, 70), [100, 70], 64))] == [8]
    d2_only = [StageSize(n_draws=70, n_counted=70, first_alone=False)]
    assert [n for n, _, _ in amounts(stopping.lengths(d2_only, [100, 70], 64))] == [8]


def test_marginal_with_full_batches_is_one_update_a_pass_of_each_later_data_set() -> None:
    sizes = [10, 100, 10]
    for stages in (sequential(*sizes), combined(*sizes)):
        lengths = budget("marginal", epochs=2).lengths(stages, sizes, "full")
        assert sum(n.updates for n, s in zip(lengths, stages, strict=True) if not s.first_alone) == 4


def test_a_stage_without_a_budget_never_trains() -> None:
    average = [*sequential(1, 2), StageSize(n_draws=3, n_counted=3, first_alone=False, factor=0)]
    for stopping in (budget("updates", updates=100), budget("samples", samples=100), budget("marginal", epochs=5)):
        lengths = stopping.lengths(average, [1, 2], 2)
        assert lengths[-1].updates == lengths[-1].samples == 0
        if stopping.match == "updates":
            assert [length.updates for length in lengths] == [33, 67, 0]


def test_the_caps_of_early_stopping_and_convergence_are_epochs_of_the_stage() -> None:
    early = EarlyStopping(name="early_stopping", max_epochs=5, patience=1, monitor="loss", monitor_on="own")
    converge = ConvergenceStopping(name="convergence", quantity="loss", tolerance=1, max_epochs=5, check_every=1)
    for stopping in (early, converge):
        assert amounts(stopping.lengths(sequential(9, 4), [9, 4], 4)) == [(15, 45, 5), (5, 20, 5)]


@given(n=SIZES, batch=st.integers(1, 70), updates=st.integers(0, 300))
def test_a_length_in_updates_sees_the_samples_of_its_batches(n: int, batch: int, updates: int) -> None:
    length = Length.of_updates(n, batch, updates)
    sizes = [min(batch, n - start) for start in range(0, n, batch)]
    assert length.samples == sum(sizes[k % len(sizes)] for k in range(updates))
    assert length.n_epochs == -(-updates // len(sizes))


@given(n=SIZES, batch=st.integers(1, 70), samples=st.integers(1, 3000))
def test_a_length_in_samples_takes_the_fewest_updates(n: int, batch: int, samples: int) -> None:
    length = Length.of_samples(n, batch, samples)
    assert length.samples == samples
    assert Length.of_updates(n, batch, length.updates - 1).samples < samples
    assert Length.of_updates(n, batch, length.updates).samples >= samples


@settings(max_examples=200)
@given(sizes=st.lists(SIZES, min_size=2, max_size=4), batch=BATCHES, epochs=st.integers(1, 20), data=st.data())
def test_every_regime_gets_the_total_of_sequential(
    sizes: list[int], batch: int | str, epochs: int, data: st.DataObject
) -> None:
    passes = [1 if batch == "full" else -(-n // int(batch)) for n in sizes]
    factors = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=len(sizes), max_size=len(sizes)))
    weighted = [
        StageSize(n_draws=n, n_counted=n, first_alone=False, factor=f) for n, f in zip(sizes, factors, strict=True)
    ]
    for stages in (sequential(*sizes), combined(*sizes), weighted):
        if not any(stage.factor for stage in stages):
            continue
        by_updates = budget("updates", epochs=epochs).lengths(stages, sizes, batch)
        assert sum(length.updates for length in by_updates) == epochs * sum(passes)
        by_samples = budget("samples", epochs=epochs).lengths(stages, sizes, batch)
        assert sum(length.samples for length in by_samples) == epochs * sum(sizes)
        assert all(length.updates == 0 for length, s in zip(by_updates, stages, strict=True) if not s.factor)
    own = EpochsStopping(name="epochs", epochs=epochs).lengths(sequential(*sizes), sizes, batch)
    assert [length.updates for length in own] == [epochs * n for n in passes]
    assert [length.samples for length in own] == [epochs * n for n in sizes]


@pytest.mark.parametrize("match", ["epochs", "updates", "samples"])
def test_an_empty_second_data_set_leaves_the_budget_of_dataset_1_alone(match: str) -> None:
    stopping = budget(match, epochs=3)
    assert amounts(stopping.lengths(sequential(50), [50, 0], 8)) == amounts(
        EpochsStopping(name="epochs", epochs=3).lengths(sequential(50), [50], 8)
    )


def test_updates_of_every_part() -> None:
    """Sequential makes them in every stage, whatever its size; others get that total in equal parts; no data, no updates."""
    rule = budget("updates", updates_per_part=20)
    assert [length.updates for length in rule.lengths(sequential(10, 70, 30), [10, 70, 30], 8)] == [20, 20, 20]
    assert [length.updates for length in rule.lengths(combined(10, 70, 30), [10, 70, 30], 8)] == [60]
    growing = [StageSize(n_draws=n, n_counted=n, first_alone=n == 10) for n in (10, 80, 110)]
    assert [length.updates for length in rule.lengths(growing, [10, 70, 30], 8)] == [20, 20, 20]
    assert [length.updates for length in rule.lengths(sequential(10), [10, 0], 8)] == [20]
