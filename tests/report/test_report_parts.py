"""The pieces of a report, against cases worked out by hand.

Properties: a pair of axes averages the others seed by seed; representative cells are the extremes, the median and the smallest
tie, each once; a curve's band is mean and deviation at common steps, with ended curves held; the boundary is where a stage
ends; forgetting is a mean with its interval; budgets are distinguished and compared cell by cell.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.comparison.maps import difference_figure
from src.comparison.pairing import RunRecord
from src.comparison.verdicts import INCONCLUSIVE, TOO_FEW, UNDECIDED, CellVerdict
from src.config import compose
from src.report.curves import band, boundaries, representative
from src.report.forgetting import forgetting_by_cell, forgetting_plots
from src.report.ledger import costs, match_of, run_costs
from src.report.maps import averaged, axis_pairs
from src.report.plots import bars, legend_below, line_styles, panel


def verdict(cell: str, differences: list[float], winner: str = UNDECIDED, **axes: float) -> CellVerdict:
    return CellVerdict(
        cell=cell,
        axes=axes,
        metric="test/union/accuracy",
        a="sequential",
        b="combined",
        family=8,
        winner=winner,
        reason="",
        seeds=tuple(range(len(differences))),
        differences=tuple(differences),
    )


def run(regime: str, seed: int, *, cell: str = "c", updates: tuple[int, ...] = (10,), **metrics: float) -> RunRecord:
    total = sum(updates)
    return RunRecord(
        path=Path("result.json"),
        sweep="s",
        cell=cell,
        run=f"{cell}{regime}{seed}",
        regime=regime,
        seed=seed,
        axes={},
        diverged=False,
        result={
            "metrics": metrics,
            "stages": [{"updates": n, "converged": None} for n in updates],
            "cost": {"updates": total, "samples": 10 * total, "flops": 1.0},
        },
        provenance={"seconds": 1.0, "reused_samples": 5 * total},
    )


def test_a_pair_of_axes_averages_the_others_seed_by_seed() -> None:
    cells = [
        verdict(f"{r}{i}{e}", [0.01 * (r + e + seed % 2) for seed in range(8)], ratio=r, imbalance=i, epochs=e)
        for r in (1.0, 2.0)
        for i in (1.0, 5.0)
        for e in (1.0, 3.0)
    ]
    cells = [replace(cell, elsewhere={"d1": replace(cell, differences=(-0.5,) * 8)}) for cell in cells]
    assert set(axis_pairs(cells)) == {("ratio", "imbalance"), ("ratio", "epochs"), ("imbalance", "epochs")}
    tiles = {(tile.axes["ratio"], tile.axes["imbalance"]): tile for tile in averaged(cells, "ratio", "imbalance")}
    assert len(tiles) == 4
    tile = tiles[1.0, 5.0]
    assert tile.differences == pytest.approx([0.01 * (1 + 2 + seed % 2) for seed in range(8)])
    assert (tile.n, tile.family, tile.winner) == (8, 4, "sequential")
    assert tile.p == pytest.approx(2**-7)
    assert tile.p_holm == pytest.approx(4 * 2**-7)
    assert tile.elsewhere["d1"].difference == pytest.approx(-0.5), "the map never shows the union alone"
    assert tile.elsewhere["d1"].winner == "combined"
    titles = [ax.get_title() for ax in difference_figure(list(tiles.values())).axes]
    assert {"on Dataset 1", "on the union"} <= set(titles)


def test_cells_without_a_verdict_are_excluded_from_averages_with_a_note() -> None:
    cells = [
        verdict("a", [0.1] * 8, ratio=1.0, imbalance=1.0, epochs=1.0),
        verdict("b", [], INCONCLUSIVE, ratio=1.0, imbalance=1.0, epochs=2.0),
        verdict("c", [], INCONCLUSIVE, ratio=2.0, imbalance=1.0, epochs=1.0),
        verdict("d", [0.1, 0.1], ratio=2.0, imbalance=2.0, epochs=1.0),
    ]
    tiles = {(t.axes["ratio"], t.axes["imbalance"]): t for t in averaged(cells, "ratio", "imbalance")}
    assert tiles[1.0, 1.0].notes == ("1 of 2 cells left out",)
    assert tiles[1.0, 1.0].winner == "sequential"
    assert tiles[2.0, 1.0].winner == INCONCLUSIVE
    assert tiles[2.0, 2.0].winner == TOO_FEW
    assert tiles[2.0, 2.0].reason.startswith("too few seeds: 2")


def test_two_axes_have_one_map() -> None:
    cells = [verdict(f"{r}{i}", [0.1], ratio=r, imbalance=i) for r in (1.0, 2.0) for i in (1.0, 2.0)]
    assert axis_pairs(cells) == []


def test_representative_cells_are_the_extremes_the_median_and_the_smallest() -> None:
    cells = [verdict(str(d), [d], ratio=d) for d in (-0.3, -0.2, -0.01, 0.1, 0.15)]
    chosen = {v.cell: why for v, _, why in representative(cells)}
    assert chosen == {
        "-0.3": "largest difference in favour of combined",
        "0.15": "largest difference in favour of sequential",
        "-0.01": "smallest difference",
    }  # the middle by size is 0.15, which is there already
    assert [v.cell for v, _, _ in representative(cells[:1])] == ["-0.3"]
    one_sided = {why for _, _, why in representative(cells[:3])}
    assert "largest difference in favour of sequential" not in one_sided
    assert representative([verdict("x", [], INCONCLUSIVE)]) == []
    losses = [replace(v, metric="test/union/loss") for v in cells]
    assert {v.cell: why for v, _, why in representative(losses)}["-0.3"] == "largest difference in favour of sequential"


def test_a_band_is_mean_and_deviation_and_extends_finished_curves() -> None:
    long = (np.array([0.0, 10.0, 20.0]), np.array([0.0, 1.0, 3.0]))
    short = (np.array([0.0, 10.0]), np.array([2.0, 2.0]))
    found = band([long, short])
    assert found.steps.tolist() == [0, 10, 20]
    assert found.mean.tolist() == [1.0, 1.5, 2.5]
    assert found.deviation == pytest.approx(np.array([2, 1, 1]) / np.sqrt(2))
    assert band([long]).deviation.tolist() == [0, 0, 0]


def test_boundaries_are_where_a_stage_ends() -> None:
    runs = [run("sequential", seed, updates=(10 + seed, 5, 7)) for seed in range(3)]
    assert boundaries(runs) == [11.0, 16.0]
    assert boundaries([run("combined", 0)]) == boundaries([]) == []


def test_forgetting_is_a_mean_with_its_interval() -> None:
    runs = [run("sequential", seed, forgetting=0.1 + 0.01 * seed) for seed in range(8)]
    found = forgetting_by_cell([*runs, run("combined", 0)], "sequential")["c"]
    assert (found.mean, found.n) == (pytest.approx(0.135), 8)
    assert 0.1 <= found.low < 0.135 < found.high <= 0.17
    assert forgetting_by_cell(runs, "combined") == {}
    assert forgetting_by_cell(runs[:2], "sequential")["c"].low == -np.inf


def test_of_many_levels_some_are_labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr("src.report.forgetting.save_plot", lambda ax, *_: drawn.append(ax))
    for n, labelled in ((25, 25), (100, 25)):
        cells = [verdict(f"c{k}", [0.0], ratio=float(k)) for k in range(n)]
        runs = [run("sequential", 0, cell=f"c{k}", forgetting=0.1) for k in range(n)]
        forgetting_plots(cells, runs, "sequential", tmp_path)
        ax = drawn.pop()
        assert len(ax.get_xticks()) == labelled
        assert ax.get_lines()[1].get_xdata().size == n, "every level is drawn"


def test_costs_are_compared_cell_by_cell_under_each_match() -> None:
    base = compose(["stopping=budget", "stopping.epochs=1", "stopping.match=updates"])
    configs = {"x": base, "y": base, "z": compose(["stopping=early_stopping"])}
    runs = [run("combined", 0, cell=c, updates=(10,)) for c in "xyz"]
    runs += [run("sequential", 0, cell=c, updates=(n, n)) for c, n in (("x", 5), ("y", 10), ("z", 20))]
    found = costs(run_costs(runs, configs), ["combined", "sequential"])
    assert [match_of(configs[c]) for c in "xz"] == ["updates", "early_stopping"]
    assert found.loc["updates", "sequential"]["updates : combined"] == (1.0, 2.0)
    assert found.loc["updates", "sequential"]["updates"] == 15
    assert not isinstance(found.loc["updates", "combined"]["updates : combined"], tuple)
    assert found.loc["early_stopping", "sequential"]["samples : combined"] == (4.0, 4.0)
    assert found.loc["updates", "combined"]["reused"] == 0.5


def test_neighbours_never_look_alike() -> None:
    """Even without colour: dash and marker differ among the first eight, and no line has a regime's colour."""
    first = list(line_styles([str(k) for k in range(8)]).values())
    assert len({one.ink for one in first}) == len({one.marker for one in first}) == 8
    assert (
        len({(one.ink, str(one.dash), one.marker) for one in line_styles([str(k) for k in range(16)]).values()}) == 16
    )
    regimes = line_styles(["sequential", "combined"])
    others = line_styles([str(k) for k in range(5)], first=2)
    assert not {one.ink for one in regimes.values()} & {one.ink for one in others.values()}


def test_no_error_bar_leaves_what_is_possible() -> None:
    """Recall ends at 100 %: a deviation of 10 points around 98 % is drawn up to there."""
    ax = panel("recall", "class", "recall, %")
    bars(ax, [("combined", "#000000", "")], [[[91.0, 100.0, 100.0], [], [1.0, 9.0]]], ends=(0, 100))
    (drawn,) = ax.collections
    ends = [segment[:, 1] for segment in drawn.get_segments() if len(segment) and np.isfinite(segment).all()]
    assert max(end.max() for end in ends) == 100
    assert min(end.min() for end in ends) == 0
    assert ends[0].min() == pytest.approx(97 - np.std([91, 100, 100], ddof=1))


def test_titles_and_legends_of_long_regimes_stay_inside_the_figure() -> None:
    name = "sequential(checkpoint=07a2e5e2)"
    ax = panel(f"{name}: what recovers Dataset 1, and what does not", "x", "a label")
    for stage in range(3):
        ax.plot([0, 1], [0, 1], label=f"{name}, stage {stage}")
    legend_below(ax)
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.canvas.draw()
    box = figure.get_tightbbox()
    assert (box.x0 >= 0, box.x1 <= figure.get_figwidth()) == (True, True)
