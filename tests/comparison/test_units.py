"""Effects are shown with their sign, and what rounding leaves of zero as 0."""

from __future__ import annotations

from src.comparison.units import format_effect, format_interval, unit_of


def test_rounding_noise_is_zero_and_small_effects_are_not() -> None:
    assert [format_effect(effect) for effect in (None, 0.0, -6.94e-18, 9.99e-15, 6.8e-12)] == ["-", *["0"] * 4]
    assert [format_effect(effect) for effect in (-2e-6, 0.1234, 12.0)] == ["-2e-06", "+0.123", "+12"]
    assert format_interval(-2.12e-22, 0.0105) == "[0, +0.0105]"
    assert format_interval(None, 0.1) == "-"


def test_the_loss_of_a_collapsed_run_is_no_row_of_digits() -> None:
    unit = unit_of("test/union/loss")
    assert (unit.value(0.3094), unit.value(889688.6826)) == ("0.3094", "8.897e+05")
    assert unit.interval(-889681.5569, 7.1257) == "[-8.897e+05, +7.1257]"
