"""The keys of the advice: serving mixes, budgets, prices; mistakes are one line with the fix."""

from __future__ import annotations

import pytest

from src.advise.costs import Cost, Rates, StageCost
from src.advise.question import Budget, split_arguments
from src.errors import ConfigError


def test_own_keys_are_read_and_the_rest_are_settings_of_the_training() -> None:
    words = ["serve={d1:0.3,d2:0.7}", "price.hour=2.5", "value.point=100", "budget=25%", "data=mnist", "split.size=500"]
    question, rest = split_arguments(words)
    assert rest == ["data=mnist", "split.size=500"]
    assert question.mix() == {"d1": 0.3, "d2": 0.7}
    assert question.served == "30 % Dataset 1 and 70 % Dataset 2"
    assert (question.price.hour, question.value.point) == (2.5, 100)
    assert question.allowance() == Budget(share=0.25)
    assert split_arguments(["budget=10min"])[0].allowance() == Budget(seconds=600)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["serve=d3"], "must be d1, d2, union or shares"),
        (["serve={d1:0.5,d2:0.4}"], "sum to 1"),
        (["serve={d1:true,d2:0}"], "must be d1, d2, union"),
        (["budget=fast"], "budget=10min"),
        (["budget=0%"], "budget=10min"),
        (["metric=f1"], "choose one of accuracy"),
        (["value.point=100"], "give price.hour"),
        (["price.minute=1"], "known: hour"),
        (["price=2"], "give price.hour"),
        (["margin=0"], "must be > 0"),
        (["serve=d1,d2"], "takes one value"),
        (["mnist"], "write key=value"),
        (["arrivals=[100,200]"], "give price.hour=... and value.point"),
        (["arrivals=[0]", "price.hour=1", "value.point=1"], "training samples of each arrival"),
        (["arrivals=100", "price.hour=1", "value.point=1"], "training samples of each arrival"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_fix(words: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as error:
        split_arguments(words)
    assert "\n" not in str(error.value)


def test_the_margin_of_a_loss_is_relative_and_lower_is_better() -> None:
    question, _ = split_arguments(["metric=loss"])
    assert question.is_error
    assert question.margin_at(-0.5) == pytest.approx(0.01)
    assert split_arguments([])[0].margin_at(95) == 1


def test_costs_count_updates_and_money_and_a_paid_stage_is_sunk() -> None:
    stages = [
        StageCost(updates=100, samples=6400, epochs=10, first=True),
        StageCost(updates=20, samples=1000, epochs=10, first=False),
    ]
    rates = Rates(seconds=0.5, flops=10.0, hour=7.2)
    whole, sunk = (Cost.of(stages, rates, paid=paid) for paid in (False, True))
    assert whole == Cost(updates=120, samples=7400, flops=74000, seconds=60, money=pytest.approx(0.12))  # type: ignore[arg-type]
    assert sunk == Cost(updates=20, samples=1000, flops=10000, seconds=10, money=pytest.approx(0.02))  # type: ignore[arg-type]
    assert Cost.of(stages, rates, paid=False, scale=0.5).seconds == 30
    assert stages[1].at(0.1) == StageCost(updates=10, samples=100, epochs=10, first=False)  # an epoch has an update
