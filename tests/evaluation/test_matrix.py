"""Forgetting and transfer follow the papers' formulas on matrices computed by hand; undefined values are None."""

import pytest

from src.evaluation.matrix import average_accuracy, backward_transfer, forgetting, forward_transfer, learning_accuracy

SEQUENTIAL = ([[0.9, 0.3], [0.7, 0.8]], [[0], [1]])
THREE = ([[0.9, 0.1, 0.1], [0.95, 0.8, 0.2], [0.6, 0.7, 0.85]], [[0], [1], [2]])


def test_two_stages_by_hand() -> None:
    matrix, parts = SEQUENTIAL
    assert forgetting(matrix, parts) == pytest.approx(0.2)
    assert backward_transfer(matrix, parts) == pytest.approx(-0.2)
    assert learning_accuracy(matrix, parts) == pytest.approx(0.85)
    assert average_accuracy(matrix) == pytest.approx(0.75)


def test_three_stages_by_hand_forgetting_counts_from_the_best() -> None:
    matrix, parts = THREE
    assert forgetting(matrix, parts) == pytest.approx(((0.95 - 0.6) + (0.8 - 0.7)) / 2)
    assert backward_transfer(matrix, parts) == pytest.approx(((0.6 - 0.9) + (0.7 - 0.8)) / 2)
    assert learning_accuracy(matrix, parts) == pytest.approx((0.9 + 0.8 + 0.85) / 3)
    assert average_accuracy(matrix) == pytest.approx((0.6 + 0.7 + 0.85) / 3)


def test_forward_transfer_by_hand() -> None:
    """Accuracy just before a data set's own stage minus that of the untrained network; undefined for the first stage."""
    matrix, parts = THREE
    assert forward_transfer(matrix, parts, [0.5, 0.15, 0.05]) == pytest.approx(((0.1 - 0.15) + (0.2 - 0.05)) / 2)
    assert forward_transfer([[0.9, 0.3], [0.8, 0.85]], [[0], [0, 1]], [0.1, 0.1]) == pytest.approx(0.2)
    assert forward_transfer([[0.9, 0.8]], [[0, 1]], [0.1, 0.1]) is None
    assert forward_transfer(matrix, parts, [0.5, None, 0.05]) is None


def test_the_other_order_forgets_dataset_2() -> None:
    assert forgetting([[0.4, 0.9], [0.8, 0.5]], [[1], [0]]) == pytest.approx(0.4)
    assert learning_accuracy([[0.4, 0.9], [0.8, 0.5]], [[1], [0]]) == pytest.approx(0.85)


def test_warm_start_can_lose_dataset_1_though_it_stays_in_the_mixture() -> None:
    matrix, parts = [[0.9, 0.3], [0.8, 0.85]], [[0], [0, 1]]
    assert forgetting(matrix, parts) == pytest.approx(0.1)
    assert learning_accuracy(matrix, parts) == pytest.approx((0.9 + 0.85) / 2)


@pytest.mark.parametrize("parts", [[[0, 1]], [[0]], [[1]]])
def test_forgetting_of_one_stage_is_undefined(parts: list[list[int]]) -> None:
    assert forgetting([[0.9, 0.8]], parts) is None
    assert backward_transfer([[0.9, 0.8]], parts) is None


def test_learning_accuracy_averages_over_the_trained_data_sets() -> None:
    assert learning_accuracy([[0.9, 0.8]], [[0, 1]]) == pytest.approx(0.85)
    assert learning_accuracy([[0.9, 0.3]], [[0]]) == 0.9


def test_a_metric_of_an_undefined_entry_is_undefined() -> None:
    lost_at_the_end = [[0.9, 0.3], [None, None]]
    assert forgetting(lost_at_the_end, [[0], [1]]) is None
    assert learning_accuracy(lost_at_the_end, [[0], [1]]) is None
    assert average_accuracy(lost_at_the_end) is None
    unneeded = [[0.9, None], [0.7, 0.8]]
    assert forgetting(unneeded, [[0], [1]]) == pytest.approx(0.2)
    no_dataset_2 = [[0.9, None]]
    assert average_accuracy(no_dataset_2) is None
    assert learning_accuracy(no_dataset_2, [[0]]) == 0.9


def test_zero_forgetting_is_zero_and_not_undefined() -> None:
    assert forgetting([[0.9, 0.3], [0.9, 0.8]], [[0], [1]]) == 0.0
