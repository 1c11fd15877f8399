"""The GPU benchmark on a CPU: windows by a planted clock, unsteady values, the tables' rows, the page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu, gpu_check
from benchmarks.gpu import GRAPH, RAW, Case, Row
from benchmarks.windows import Window, WindowTimer, derived, shown

CASE = Case("cnn", 8, "32", (1, 2))


class Device:
    """A clock that only `train` and `wait` advance: an update takes the host 1 ms and the device 10 ms."""

    def __init__(self) -> None:
        self.now = 0.0
        self.idle_at = 0.0

    def train(self, steps: int) -> None:
        self.now += 0.001 * steps
        self.idle_at = max(self.idle_at, self.now) + 0.01 * steps

    def wait(self) -> None:
        self.now = max(self.now, self.idle_at)


def test_a_window_counts_what_the_device_has_finished_after_the_warm_up() -> None:
    device = Device()
    window = WindowTimer(0.5, 2.0, device.wait, lambda: device.now).of(device.train, 32)
    assert window.seconds >= 2.0
    assert window.rate == pytest.approx(100, rel=0.01), "the host alone would be ten times as fast"


@pytest.mark.parametrize("window", [Window(0, 1.0), Window(5, 0.0), Window(5, -0.1), Window(-5, 1.0)])
def test_a_rate_is_never_negative_nor_endless(window: Window) -> None:
    with pytest.raises(ValueError, match="no window"):
        _ = window.rate


def test_values_that_spread_by_more_than_a_fifth_have_no_median_and_nothing_is_derived_from_them() -> None:
    assert shown([100.0, 95.0, 110.0]) == "100 [95, 110]"
    assert shown([100.0, 95.0, 116.0]) == "unsteady: 95-116"
    assert shown([-73.0, 85.0, 958_063.0]) == "unsteady: -73-958,063"
    assert derived([100.0, 100.0], 2.0, [50.0, 51.0]) == pytest.approx(200 / 50.5)
    assert derived([100.0, 130.0]) is None
    assert derived([100.0], 1.0, [50.0, 70.0]) is None


def test_a_table_has_rates_images_work_and_shares_of_steady_rows_only() -> None:
    steady, unsteady = Row("laboratory", 2, [400.0, 410.0], peak_mib=1500), Row(GRAPH, 1, [100.0, 300.0])
    full, late = Row("laboratory", 64, problem="does not fit into the memory"), Row("laboratory", 16)
    rows = [Row(RAW, 1, [100.0, 100.0]), unsteady, steady, full, late]
    raw, graph, ours, large, missing = gpu.table_of(CASE, rows, [1e13, 1e13], flops=10**9)
    assert raw == ["raw eager loop, 1 model", "100 [100, 100]", "800", "0.8", "8.0%", "1.00", ""]
    assert graph == ["raw graph loop, 1 model", "unsteady: 100-300", "", "", "", "", ""]
    assert ours == ["laboratory, 2 models", "405 [400, 410]", "3,240", "3.24", "32.4%", "4.05", "1,500"]
    assert large[1] == "does not fit into the memory"
    assert missing[1] == "not measured: no time left"
    rows[0].rates[0] = 1.0
    assert gpu.table_of(CASE, rows, [1e13, 1e13], flops=10**9)[2][-2] == ""


def test_the_benchmark_runs_on_a_cpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["steps=4", "side=8", "channels=1", "product=64", "seconds=0.03", "warm_up=0.01", "repeats=2", "workers="]
    monkeypatch.setattr(sys, "argv", ["gpu", "device=cpu", "cases=cnn/8/bf16-mixed/1+2", *tiny])
    shown_rows: list[list[str]] = []
    monkeypatch.setattr(gpu, "show", lambda *output: shown_rows.extend(output[2]))
    monkeypatch.setattr("benchmarks.windows.STEADY", float("inf"))  # a busy machine
    gpu.main()
    assert "matrix products, bf16-mixed: " in capsys.readouterr().out
    labels = [row[0] for row in shown_rows if "graph=off" not in row[0]]
    assert labels == [f"{RAW}, 1 model", f"{GRAPH}, 1 model", "laboratory, 1 model", "laboratory, 2 models"]
    assert all(float(row[1].split()[0].replace(",", "")) > 0 for row in shown_rows)
    assert all(row[2] and row[3] and row[4] and row[5] for row in shown_rows)


def test_without_a_gpu_the_check_ends_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_check"])
    with pytest.raises(SystemExit, match=r"^device=cuda: no CUDA device is visible; device=cpu"):
        gpu_check.main()


def test_the_targets_are_read_off_the_tables_and_judged() -> None:
    def rows(raw: list[float], **rates: list[float]) -> list[Row]:
        return [Row(RAW, 1, raw), *(Row("laboratory", int(n[1:]), own) for n, own in rates.items())]

    peak = [1e14, 1e14]
    tables: list[Any] = [
        (Case("resnet18", 64, "bf16-mixed", (1, 4)), rows([100.0], n1=[400.0], n4=[500.0, 800.0]), peak, 10**9),
        (Case("resnet18", 512, "bf16-mixed", (1, 4)), rows([50.0], n1=[60.0], n4=[80.0]), peak, 10**9),
        (Case("cnn", 64, "32", (1, 16)), rows([600.0], n1=[2400.0], n16=[9000.0]), peak, 10**7),
        (Case("cnn", 64, "bf16-mixed", (64,)), rows([600.0], n64=[12000.0]), peak, 10**7),
    ]
    values = gpu_check.figures_of(tables)
    assert values == {"one": 4.0, "four": None, "share": pytest.approx(0.4096), "cnn": 4.0, "group": 5.0}
    text = gpu_check.section("a card", values | {"cell": 28.0}, {"probe": "planted"}, [])
    lines = {name: next(line for line in text.splitlines() if line.startswith(f"| {target.name} |")).split(" | ")[1:]
             for name, target in gpu_check.TARGETS.items()}  # fmt: skip
    assert lines["one"][:4] == ["3.5x", "4.2x", "4x", "floor |"]
    assert lines["four"][2] == "not measured: unsteady, or no time was left"
    assert lines["share"][2:] == ["41%", "floor |"]
    assert lines["cnn"][3] == "**missed** |"
    assert lines["cell"] == ["45 s", "30 s", "28 s", "aim |"]
    assert lines["probe"][2] == "not measured: planted"


def test_the_page_keeps_what_is_outside_the_markers(tmp_path: Path) -> None:
    page = tmp_path / "GPU.md"
    page.write_text(f"above\n{gpu_check.BEGIN}\nold\n{gpu_check.END}\nbelow\n")
    gpu_check.write(page, "new \\1")
    assert page.read_text() == f"above\n{gpu_check.BEGIN}\nnew \\1\n{gpu_check.END}\nbelow\n"
    page.write_text("no markers")
    with pytest.raises(ValueError, match="has 0 sections"):
        gpu_check.write(page, "new")
    real = (gpu_check.PROJECT / "docs/GPU.md").read_text()
    assert real.count(gpu_check.BEGIN) == real.count(gpu_check.END) == 1
    assert all(target.name in real for target in gpu_check.TARGETS.values())
