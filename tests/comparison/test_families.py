"""Families: a larger grid changes no earlier verdict, and what it adds is corrected by itself and labelled.

Properties: the first declaration of a comparison stands; too few seeds declare nothing; a baseline compares many with one;
the test of heterogeneity keeps its level and finds cells that differ.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.collapse import records_of
from src.comparison.families import FILE, declare, pairs_of, read_families
from src.comparison.pairing import Records
from src.comparison.sentences import sentence, summary
from src.comparison.statistics import heterogeneity_p, holm, sign_flip_p
from src.comparison.tables import remarks, sweep_table
from src.comparison.verdicts import CellVerdict, judge
from src.config import compose
from src.errors import ConfigError

BOTH = ["sequential", "combined"]
SEEDS = range(12)


def grid(n_cells: int) -> Records:
    """Cells of which the first has a lead that is certain among 4 comparisons and not among 40; the others have none."""
    rng = np.random.default_rng(0)
    noise = 0.8 + 0.01 * rng.normal(size=(2, n_cells, 12))
    lead = np.where(np.arange(12) == 0, -0.02, 0.01 + np.arange(12) / 1000)
    noise[0, 0] = noise[1, 0] + lead
    return records_of({f"c{k:02}": (noise[0, k], noise[1, k]) for k in range(n_cells)})


def cells(n: int) -> list[str]:
    return [f"c{k:02}" for k in range(n)]


def judged(folder: Path, n_cells: int, *shown: str) -> list[CellVerdict]:
    return judge(grid(40), BOTH, families=read_families(folder), cells=shown or cells(n_cells))


def test_a_larger_grid_changes_no_earlier_verdict_and_labels_what_it_adds(tmp_path: Path) -> None:
    assert judge(grid(40), BOTH)[0].winner == "undecided", "without families: 40 comparisons at once"
    declare(tmp_path, cells(4), BOTH, None, SEEDS)
    before = judged(tmp_path, 4)
    assert (before[0].winner, before[0].family, before[0].exploratory) == ("sequential", 4, "")
    declare(tmp_path, cells(40), BOTH, None, SEEDS)
    after = judged(tmp_path, 40)
    assert after[:4] == before
    (first, added) = read_families(tmp_path)
    assert (len(first.comparisons), len(added.comparisons)) == (4, 36)
    assert {(v.family, v.exploratory) for v in after[4:]} == {(36, f"exploratory, added on {added.declared[:10]}")}
    assert f"Holm over 4 and 36 (exploratory, added on {added.declared[:10]}): " in summary(after)
    assert any(line.startswith(f"{added.label}: Holm over 36 of its own (36 rows)") for line in remarks(after))
    (alone,) = judged(tmp_path, 40, "c00")
    assert alone == before[0], "a command on a part of the grid"


def test_an_exploratory_winner_is_labelled_in_table_and_sentence(tmp_path: Path) -> None:
    declare(tmp_path, cells(40)[1:], BOTH, None, SEEDS)
    declare(tmp_path, cells(40), BOTH, None, SEEDS)
    (verdict,) = judged(tmp_path, 40, "c00")
    assert sweep_table([verdict]).rows[0][-1] == "**sequential** (exploratory)"
    assert f"({read_families(tmp_path)[1].label})" in sentence(verdict)


def test_a_repeated_command_and_too_few_seeds_declare_nothing(tmp_path: Path) -> None:
    declare(tmp_path, cells(4), BOTH, None, range(5))
    assert read_families(tmp_path) == []
    declare(tmp_path, cells(4), BOTH, None, SEEDS)
    content = (tmp_path / FILE).read_bytes()
    declare(tmp_path, cells(3), BOTH, "combined", SEEDS)
    assert (tmp_path / FILE).read_bytes() == content
    (tmp_path / FILE).write_text("[]")
    with pytest.raises(ConfigError, match=r"families\.json is damaged"):
        declare(tmp_path, cells(4), BOTH, None, SEEDS)


def test_a_baseline_compares_each_of_the_others_with_it() -> None:
    three = ["sequential", "combined", "replay"]
    assert pairs_of(three, "combined") == [("sequential", "combined"), ("combined", "replay")]
    assert len(pairs_of(three)) == 3
    assert compose(["baseline=combined"]).baseline == "combined"
    with pytest.raises(ConfigError, match=r"baseline=combine: is no compared regime.*combined"):
        compose(["baseline=combine"])


def test_heterogeneity_keeps_its_level_and_finds_cells_that_differ() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(400, 1, 8))  # a run that all cells share
    equal = shared + rng.normal(size=(400, 5, 8)) * np.array([0.2, 1, 1, 1, 5])[:, None] + 3
    assert np.mean([heterogeneity_p(one) <= 0.05 for one in equal]) <= 0.05 + 4 * 0.011
    different = equal + np.array([0, 0, 0, 3, 0])[:, None]
    assert np.mean([heterogeneity_p(one) <= 0.05 for one in different]) >= 0.5
    assert heterogeneity_p(np.zeros((3, 8))) == 1
    assert heterogeneity_p(rng.normal(size=(3, 20)) + np.array([[0], [0], [3]])) < 0.01


def test_a_margin_is_declared_before_the_runs_and_stays(tmp_path: Path) -> None:
    declare(tmp_path, cells(4), BOTH, None, SEEDS, margin=0.05)
    assert {verdict.margin for verdict in judged(tmp_path, 4)} == {0.05}
    assert all(verdict.no_worse for verdict in judged(tmp_path, 4)), "0.05 is five standard deviations"
    declare(tmp_path, cells(4), BOTH, None, SEEDS)  # a later command without one
    assert len(read_families(tmp_path)) == 1
    with pytest.raises(
        ConfigError, match=r"^margin=0.01: sweep=.* declared these comparisons on .* with a margin of 0.05"
    ):
        declare(tmp_path, cells(4), BOTH, None, SEEDS, margin=0.01)
    with pytest.raises(ConfigError, match=r"^margin=0.01: is for a fixed number of seeds; with seeds=auto set"):
        compose(["margin=0.01", "seeds=auto"])


def test_the_corrected_tests_of_a_margin_keep_their_level() -> None:
    """1,000 families of 10 comparisons in which one regime is worse by exactly the margin of 1: called no worse in at most 5 %."""
    differences = np.random.default_rng(0).normal(size=(1000, 10, 12)) - 1
    p = np.stack([sign_flip_p(side * differences, null=-1.0, alternative="greater") for side in (1, -1)], axis=-1)
    corrected = np.array([holm(own.ravel(), most_true=10) for own in p]).reshape(p.shape)
    assert 0.03 <= (corrected[..., 0] <= 0.05).any(axis=1).mean() <= 0.05 + 2 * (0.05 * 0.95 / 1000) ** 0.5
    assert (corrected[..., 1] <= 0.05).mean() > 0.99, "and the other one is found"
