"""A value that Hydra's grammar refuses is answered with the quoted form, which Hydra accepts and reads as that value."""

from __future__ import annotations

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException

from src.cli import explain
from src.config.command import text_of


@pytest.mark.parametrize("value", ["/d/größe", "/d/my (old) data", "/d/it's", "日本", "/d/a{b", "/d/a[1]b", "/d/é ü"])
def test_suggested_quotes_are_accepted(value: str) -> None:
    override = f"data.path={value}"
    with pytest.raises(HydraException) as caught:
        OverridesParser.create().parse_override(override)
    error = OverrideParseException(override=override, message=str(caught.value))
    line = explain(error, [override])
    assert line.startswith(f"{override}: is not an override; ")
    (word,) = shlex.split(line.rpartition("for the shell: ")[2])
    assert OverridesParser.create().parse_override(word).value() == value
    assert "\n" not in line


def test_letter_that_needs_quotes_is_named() -> None:
    line = explain(OverrideParseException(override="data.path=/d/größe", message=""), ["data.path=/d/größe"])
    assert "ö ß must be quoted" in line


@pytest.mark.parametrize("override", ["=3", "regime", "a b=1"])
def test_what_is_no_override_is_no_better_in_quotes(override: str) -> None:
    line = explain(OverrideParseException(override=override, message=""), [override])
    assert "write key=value" in line


@pytest.mark.parametrize("value", [r"a\b", r"head\.weight|a b", "end\\", r"x\'y", r"q\"z", "it's", r"\\'", "a\\\\"])
def test_texts_with_backslashes_and_quotes_survive(value: str) -> None:
    """A command that reproduces a run hands every text on as it is, regular expressions included."""
    assert OverridesParser.create().parse_override(f"key={text_of(value)}").value() == value


@pytest.mark.parametrize("value", [{"kind": "rotate", "amount": 0.5}, [[1, 2], [3, 4]], None, True, False, 3, 1e-6])
def test_numbers_lists_and_mappings_survive(value: object) -> None:
    assert OverridesParser.create().parse_override(f"key={text_of(value)}").value() == value
