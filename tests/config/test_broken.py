"""Broken configurations: each is refused in one line that names the key, and its advice is followed and accepted.

Most advice is read from the line itself by `RULES`. Where a line says what a value must be and names none, `STATED` has one.
"""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Callable, Mapping, Sequence

import pytest

from src.cli import MISTAKES, explain
from src.config import compose
from tests.config.broken import BROKEN

Words = list[str]

COMPLETE = {"stopping=budget": "stopping.epochs=3"}
"""What the first choice of a list needs in addition."""

OF_TYPE = {"a whole number": "1", "a number": "1", "a finite number": "1", "true or false": "true", "a text": "t"}
OF_TYPE |= {"a list, each item a whole number": "[1]", "a list, each item flip or crop": "[flip]"}

STATED: Mapping[str, str] = {
    "+split.extra=1": "split.size=300",
    "+extra=1": "seeds=2",
    "+optimizer.nesterov=true": "optimizer.momentum=0.5",
    "+data.path=x": "data.root=x",
    "optimizer.learning_rate=0.1": "optimizer.lr=0.1",
    "split.shift.amont=3": "split.shift.amount=3 split.shift.kind=rotate",
    "search=hyperband": "search=grid",
    "split.shift=rotate": "split.shift.kind=rotate split.shift.amount=30",
    "seeds=few": "seeds=[0,3]",
    "seeds=[0,0]": "seeds=[0,1]",
    "seeds=[a]": "seeds=2",
    "seeds=[-1]": "seeds=[1]",
    "regimes=[3]": "regimes=[combined,{replay:{share:0.1}}]",
    "regimes=[{sequential:3}]": "regimes=[{replay:{share:0.05}}]",
    "regimes=[{sequential:{share:0.1}}]": "regimes=[{sequential:{lr_factor:0.1}}]",
    "regimes=[{sequential:{lr_factor:fast}}]": "regimes=[{sequential:{lr_factor:0.1}}]",
    "regimes=[combined,combined]": "regimes=[combined]",
    "augment=[flip,flip]": "arch=cnn augment=[flip]",
    "augment=[mixup]": "arch=cnn augment=[flip,crop]",
    "split.ratio=1e-6": "split.ratio=1e-6 split.size=4000000",
    "split.sizes=[0,100]": "split.sizes=[1,100]",
    "split.sizes=[100,-1]": "split.sizes=[100,0]",
    "split.sizes=[100,100,100]": "split.sizes=[100,100]",
    "split.parts=3 split.ratio=2": "split.parts=3 split.sizes=[100,100,200]",
    "split.val=0.5 split.test=0.5": "split.val=0.4 split.test=0.5",
    "split.priors=[[0.5,0.4],[0.5,0.5]]": "split.priors=[[0.5,0.5],[0.5,0.5]]",
    "split.priors=[[0.5,0.5]]": "split.priors=[[0.5,0.5],[0.5,0.5]]",
    "split.classes=[0,0]": "split.classes=[0,1]",
    "split.classes=[[0,1],[2,3],[4,5]]": "split.classes=[[0,1],[2,3]]",
    "split.shift.kind=source": "split.shift.kind=source split.shift.source=mnist",
    "stopping=budget stopping.epochs=3 stopping.match=marginal split.sizes=[100,0]": (
        "stopping=budget stopping.epochs=3 stopping.match=marginal split.sizes=[100,10]"
    ),
    "launcher=slurm launcher.gpus=1 trainer.devices=2": "launcher=slurm launcher.gpus=2 trainer.devices=2",
    "launcher=ray launcher.address=ray://head:10001": "launcher=ray launcher.address=head:6379",
    "tracking.uri=postgresql://lab:geheim@host/db": "tracking.uri=postgresql://lab@host/db",
    "arch.widths=[64,32] arch.depth=2": "arch.widths=[64] arch.depth=2",
}


def without(words: Sequence[str], *keys: str) -> Words:
    return [word for word in words if word.lstrip("+").partition("=")[0] not in keys]


def put(words: Sequence[str], setting: str) -> Words:
    """The words with a setting in place of the one that has its key, or after them."""
    return [*without(words, setting.partition("=")[0]), setting]


def renamed(words: Words, key: str, names: str) -> list[Words]:
    return [
        [name + word[len(key) :] if word.startswith(f"{key}=") else word for word in words]
        for name in names.split(" or ")
    ]


def choices(words: Words, key: str, listed: str) -> list[Words]:
    """Each of a list of choices, which is spelled "a, b or c" or "a or b"."""
    return [put(words, f"{key}={value}") for value in re.split(r", | or ", listed)]


def first(words: Words, key: str, listed: str) -> list[Words]:
    """The first choice of a list, with what it needs."""
    name = listed.partition(", ")[0]
    in_list = any(word.startswith(f"{key}=[") for word in words)
    setting = f"{key}=[{name}]" if in_list else f"{key}={name}"
    return [[*put(words, setting), *filter(None, [COMPLETE.get(setting)])]]


def in_range(words: Words, key: str, bound: str) -> list[Words]:
    """A value inside of "> 0 and < 1" or ">= 1"."""
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", bound)]
    value = numbers[0] if bound.startswith(">=") else sum(numbers) / 2 if len(numbers) == 2 else numbers[0] + 1
    in_list = any(word.startswith(f"{key}=[") for word in words)
    return [put(words, f"{key}=[{value:g}]" if in_list else f"{key}={value:g}")]


def of_type(words: Words, key: str, kinds: str) -> list[Words]:
    """A value of the type that the line names."""
    value = "null" if kinds.endswith(" or null") else OF_TYPE[kinds.removesuffix(" or full").removesuffix(" or auto")]
    return [put(words, f"{key}={value}")]


def one_of(words: Words, _: str, listed: str) -> list[Words]:
    options = [option.rstrip(")").split(" (with ") for option in listed.split(", ")]
    rest = without(words, *(name for name, *_ in options))
    return [[*rest, f"{name}=3", *needed] for name, *needed in options]


RULES: Sequence[tuple[str, Callable[[Words, str, str], list[Words]]]] = [
    (r"unknown key; did you mean (.+)\?$", renamed),
    (r"did you mean (.+)\?$", choices),
    (r"takes exactly one of (.+)$", one_of),
    (r"contradicts (split\.\w+); give one of the two$", lambda w, k, other: [without(w, k), without(w, other)]),
    (r"leave it out$|has no effect with optimizer=", lambda w, k, _: [without(w, k)]),
    (r"must be at least 1, or a list such as (\S+)$", lambda w, k, it: [put(w, f"{k}=1"), put(w, it)]),
    (r"needs at least one layer; use (\S+) for none$", lambda w, k, it: [put(without(w, k), it)]),
    (r"; give (\w\S+=\S+|[\w.]+ or [\w.]+=\S+)$", lambda w, k, it: followed(w, k, it)),
    (r"(?:e\.g\.|for the shell:) ([\"'].+)$", lambda w, _, it: [put(w, shlex.split(it)[0])]),
    (r"e\.g\. ([\w.]+=\S+)$", lambda w, _, it: [put(w, it)]),
    (r"(?:set|add) ([\w.]+=[^\s,]+)(?:,.*)?$", lambda w, _, it: [put(w, it)]),
    (r"set split\.shift\.kind to (.+)$", lambda w, _, kinds: choices(w, "split.shift.kind", kinds)),
    (r"take at most (\S+)$", choices),
    (r"on a CPU take (.+)$", choices),
    (r"known: (.+)$", first),
    (r"^must be (>.+)$", in_range),
    (r"^must be (1 or 3)$", choices),
    (r"^must be (.+)$", of_type),
]


def followed(words: Words, _: str, advice: str) -> list[Words]:
    """ "give stopping.epochs or stopping.match=updates": the key instead of the other unit's, or the setting."""
    name, _, setting = advice.partition(" or ")
    return [put(words, setting or name)] + ([put(without(words, "stopping.updates"), f"{name}=3")] if setting else [])


@functools.cache
def refusal(overrides: str) -> str:
    words = shlex.split(overrides)
    with pytest.raises(MISTAKES) as raised:
        compose(words)
    return explain(raised.value, words)


def advised(overrides: str, key: str) -> list[Words]:
    """The configurations that the refusal of `overrides` advises."""
    words = shlex.split(overrides)
    if overrides in STATED:
        return [shlex.split(STATED[overrides])]
    problem = refusal(overrides).split(": ", 1)[1]
    for pattern, follow in RULES:
        if match := re.search(pattern, problem):
            return follow(words, key, match[1] if match.groups() else "")
    raise AssertionError(f"no rule follows the advice of: {problem}")


def test_there_are_a_hundred() -> None:
    """The suite keeps its size."""
    assert len({overrides for overrides, _ in BROKEN}) == len(BROKEN) >= 100


@pytest.mark.parametrize(("overrides", "key"), BROKEN)
def test_is_refused_in_one_line_that_names_the_key(overrides: str, key: str) -> None:
    """Composition or parsing refuses it, as a user's mistake, in one line that starts with the key."""
    line = refusal(overrides)
    assert "\n" not in line
    assert line.startswith(f"{key}="), line
    assert len(line.split(": ", 1)[1]) > 10, "says what is wrong"


@pytest.mark.parametrize(("overrides", "key"), BROKEN)
def test_advice_is_accepted(overrides: str, key: str) -> None:
    for words in advised(overrides, key):
        assert compose(words), words


def test_no_stated_fix_is_left_over() -> None:
    assert set(STATED) <= {overrides for overrides, _ in BROKEN}
