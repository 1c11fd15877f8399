"""A cell is checked against its loaded data before it trains, and every suggested fix is accepted."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from src.cells.resolve import resolve
from src.config import compose
from src.errors import ConfigError
from src.stopping.length import Length


def arrays(folder: Path, y: object, *words: str) -> list[str]:
    labels = np.asarray(y)
    np.savez(folder / "a.npz", x=np.random.default_rng(0).normal(size=(len(labels), 3)), y=labels)
    sizes = ["split.size=20", f"multirun={folder}", "trainer=cpu", "arch=linear"]
    return ["data=arrays", f"data.path={folder / 'a.npz'}", *sizes, *words]


def refused(words: list[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(compose(words))
    assert "\n" not in str(caught.value)
    return str(caught.value)


WHOLE = np.arange(60) % 3


@pytest.mark.parametrize("loss", ["cross_entropy"])
@pytest.mark.parametrize("y", [WHOLE.astype(float), WHOLE.astype(np.float32)[:, None], np.linspace(0, 1, 60)])
def test_floating_point_targets_need_the_squared_error(tmp_path: Path, y: object, loss: str) -> None:
    words = arrays(tmp_path, y)
    line = refused([*words, f"loss={loss}"])
    assert line.startswith(f"loss={loss}: needs classes")
    assert resolve(compose([*words, "loss=mse"])).streams.source.is_regression


@pytest.mark.parametrize("labels", [WHOLE, WHOLE.astype(str)])
def test_whole_numbers_and_texts_are_the_classes_that_the_message_suggests(tmp_path: Path, labels: object) -> None:
    assert resolve(compose(arrays(tmp_path, labels, "loss=cross_entropy"))).streams.n_outputs == 3


def test_accuracy_of_a_regression_cannot_be_monitored(tmp_path: Path) -> None:
    words = arrays(tmp_path, WHOLE + 0.5, "loss=mse", "stopping=early_stopping")
    assert "stopping.monitor=accuracy: is undefined" in refused([*words, "stopping.monitor=accuracy"])
    resolve(compose([*words, "stopping.monitor=loss"]))


@pytest.mark.parametrize(
    ("sizes", "batch", "regimes"),
    [("[9,9]", "8", "[sequential,combined]"), ("[16,17]", "8", "[sequential]"), ("[20,20]", "1", "[sequential]")],
)
def test_batch_normalisation_never_meets_a_batch_of_one(tmp_path: Path, sizes: str, batch: str, regimes: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (120, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=images, y=np.arange(120) % 2)
    words = ["data=arrays", f"data.path={tmp_path / 'a.npz'}", f"multirun={tmp_path}", f"split.sizes={sizes}"]
    words += ["arch=resnet18", f"regimes={regimes}", "trainer=cpu"]
    line = refused([*words, f"optimizer.batch_size={batch}"])
    found = re.search(r"set optimizer\.batch_size=(\d+)$", line)
    assert found, line
    resolve(compose([*words, f"optimizer.batch_size={found[1]}"]))
    resolve(compose([*words, "arch=cnn", f"optimizer.batch_size={batch}"]))


@pytest.mark.parametrize(
    ("length", "smallest"),
    [
        (Length.of_epochs(9, 8, 2), 1),
        (Length.of_epochs(16, 8, 2), 8),
        (Length.of_epochs(5, 8, 1), 5),
        (Length.of_updates(9, 8, 1), 8),
        (Length.of_samples(16, 8, 17), 1),
        (Length.of_samples(16, 8, 3), 3),
        (Length.of_updates(9, 8, 0), 0),
    ],
)
def test_smallest_batch(length: Length, smallest: int) -> None:
    assert length.smallest_batch == smallest


@pytest.mark.parametrize(
    ("regime", "key", "value"),
    [
        ("{gdumb: {memory: 9}}", "regime.gdumb.memory", 9),
        ("{replay: {balanced: true}}", "regime.replay.balanced", "true"),
        ("{der: {strength: 1}}", "regime.der.strength", 1),
    ],
)
def test_a_regime_that_reads_classes_is_refused_for_a_regression(
    tmp_path: Path, regime: str, key: str, value: object
) -> None:
    line = refused([*arrays(tmp_path, np.linspace(0, 1, 60), "loss=mse"), f"regimes=[{regime},combined]"])
    assert re.match(rf"{re.escape(key)}={value}(\.0)?: ", line)
