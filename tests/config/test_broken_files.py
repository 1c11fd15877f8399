"""Broken inputs of the user's own: each is refused before training in one line that names key, value and fix.

All files are written once. A case is a command and what its line says; `old`, `new` are folders of photos, `t.csv` a sound table.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from src.cells.resolve import resolve
from src.cli import MISTAKES, explain
from src.config import compose
from src.models.build import build_model

NETS = {
    "two_inputs": "def forward(self, x, mask):\n        return self.layer(x.flatten(1))",
    "one_output": "def forward(self, x):\n        return self.layer(x.flatten(1))[:, :1]",
    "dictionary": "def forward(self, x):\n        return {'logits': self.layer(x.flatten(1))}",
    "noise": "def forward(self, x):\n        return self.layer(x.flatten(1)) + torch.randn(1)",
    "half": "def forward(self, x):\n        return self.layer(x.flatten(1).half())",
    "sum": "def forward(self, x):\n        return self.layer(x.flatten(1)).sum()",
}


def image(file: Path, seed: int = 0, mode: str = "RGB") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(file)


def photos(folder: Path, *classes: str, n: int = 6) -> None:
    for k, name in enumerate(classes):
        for number in range(n):
            image(folder / name / f"{number}.png", 10 * k + number)


def write_all(root: Path) -> None:
    photos(root / "old", "cat", "dog")
    photos(root / "new", "cat", "dog", "owl")
    photos(root / "one", "cat")
    photos(root / "flat" / "x", n=0)
    (root / "empty").mkdir()
    for k in range(4):
        image(root / "flat" / f"{k}.png", k)
    photos(root / "hollow", "cat", "dog")
    (root / "hollow" / "owl").mkdir()
    photos(root / "tiny", "cat", "dog", n=1)
    photos(root / "texts", "cat")
    (root / "texts" / "dog").mkdir()
    (root / "texts" / "dog" / "a.jpg").write_text("no image")
    photos(root / "half", "cat", "dog")
    whole = (root / "half" / "dog" / "0.png").read_bytes()
    (root / "half" / "dog" / "0.png").write_bytes(whole[: len(whole) // 2])
    photos(root / "half2", "cat", "dog")
    for kind in ("cat", "dog"):
        (root / "half2" / kind / "0.png").write_bytes(whole[:99])
    photos(root / "zero", "cat", "dog")
    (root / "zero" / "dog" / "0.png").write_bytes(b"")
    photos(root / "parts" / "train", "cat", "dog")
    photos(root / "parts" / "test", "cat", "cow")
    photos(root / "heic", "cat")
    (root / "heic" / "dog").mkdir()
    (root / "heic" / "dog" / "a.heic").write_bytes(b"x")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 3)).astype(np.float32), np.arange(20) % 2
    arrays: dict[str, dict[str, object]] = {
        "good": {"x": x, "y": y},
        "rows": {"x": x, "y": y[:10]},
        "scalar": {"x": np.float32(1), "y": y},
        "none": {"x": x[:0], "y": y[:0]},
        "nan": {"x": np.where(x > 1, np.nan, x), "y": y},
        "nany": {"x": x, "y": np.where(y > 0, np.nan, 1.0)},
        "words": {"x": x.astype(str), "y": y},
        "dates": {"x": x, "y": np.full(20, "2024-01-01", "datetime64[D]")},
        "pixels": {"x": np.full((20, 8, 8), 4000, np.int32), "y": y},
        "channels": {"x": np.zeros((20, 5, 8, 9), np.uint8), "y": y},
        "deep": {"x": np.zeros((20, 2, 2, 2, 2), np.float32), "y": y},
        "onehot": {"x": x, "y": np.eye(2, dtype=int)[y]},
        "single": {"x": x, "y": np.zeros(20, int)},
        "wide": {"x": rng.normal(size=(20, 5)).astype(np.float32), "y": y},
        "number": {"x": x, "y": rng.normal(size=20)},
        "once": {"x": x, "y": np.r_[np.zeros(19, int), 1]},
    }
    for name, content in arrays.items():
        np.savez(root / f"{name}.npz", **content)  # type: ignore[arg-type]
    np.savez(root / "pickled.npz", x=np.array([{}] * 20, dtype=object), y=y)
    np.save(root / "x.npy", x)
    (root / "folder").mkdir()
    np.save(root / "folder" / "x.npy", x)
    pd.DataFrame({"x": [[1.0, 2.0], [3.0]], "y": [0, 1]}).to_parquet(root / "uneven.parquet")
    (root / "fake.npz").write_text("x,y\n1,2\n")
    frame = pd.DataFrame({"age": range(20), "city": ["a", "b"] * 10, "churn": ["no", "yes"] * 10})
    tables = {
        "t": frame,
        "renamed": frame.rename(columns={"age": "Age"}),
        "hole": frame.assign(churn=[None, *frame["churn"][1:]]),
        "dated": frame.assign(since="2024-03-01"),
        "endless": frame.assign(age=[np.inf, *range(19)]),
        "ids": frame.loc[frame.index.repeat(6)].assign(city=[f"c{k}" for k in range(120)]),
        "alone": frame[["churn"]],
        "header": frame[:0],
        "blank": frame.assign(age=[None] * 20),
        "same": frame.assign(churn="no"),
        "price": frame.assign(churn=np.linspace(0.5, 2, 20)),
    }
    for name, table in tables.items():
        table.to_csv(root / f"{name}.csv", index=False)
    (root / "ragged.csv").write_text("age,churn\n1,no\n2,yes,3,4\n")
    (root / "twice.csv").write_text("age,age,churn\n1,2,no\n3,4,yes\n")
    (root / "latin.csv").write_bytes("age,churn\n1,né\n".encode("latin-1"))
    (root / "nothing.csv").write_text("")
    (root / "fake.parquet").write_text("age,churn\n1,no\n")
    (root / "t.xlsx").write_bytes(b"PK")
    for name, forward in NETS.items():
        code = (
            "import torch\nfrom torch import nn\nclass Net(nn.Module):\n    def __init__(self, in_features, n_outputs):\n"
            f"        super().__init__()\n        self.layer = nn.Linear(in_features, n_outputs)\n    {forward}\n"
        )
        (root / f"{name}.py").write_text(code)
    (root / "typo.py").write_text("class Net(:\n")
    (root / "absent.py").write_text("import no_such_package\n")
    (root / "bare.py").write_text("x = 1\n")
    (root / "needs.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, width):\n        super().__init__()\n"
    )
    (root / "taken.py").write_text("from torch import nn\nARCHITECTURES = {'mlp': nn.Identity}\n")
    (root / "stages.py").write_text("REGIMES = {'mine': lambda n_parts: 3}\n")
    (root / "fails.py").write_text("REGIMES = {'mine': lambda n_parts: [1 / 0]}\n")
    cnn = build_model(compose(["arch=cnn"]).arch, (3, 32, 32), 2, 0).state_dict()
    torch.save(cnn, root / "cnn.pt")
    torch.save({"epoch": 3, "state_dict": cnn}, root / "lightning.pt")
    torch.save(torch.nn.Linear(2, 2), root / "module.pt")
    torch.save({name: tensor * float("nan") for name, tensor in cnn.items()}, root / "nan.pt")
    (root / "text.pt").write_text("weights")
    (root / "cnn.bin").write_bytes(b"x")
    (root / "empty.safetensors").write_bytes(b"")
    os.mkfifo(root / "pipe.pt")
    os.symlink(root / "gone", root / "dangling")


FOLDER, ARRAYS, TABLE = (
    "data=image_folder arch=cnn data.path=",
    "data=arrays arch=mlp data.path=",
    "data=table data.target=churn data.path=",
)
CHECKPOINT = FOLDER + "old data.path2=new 'regimes=[{sequential:{checkpoint:%s}},combined]'"
NET = ARRAYS + "good.npz plugins=[%s.py] arch=Net split.size=8"
CASES = [
    # folders
    (FOLDER + "absent", "data.path=absent"),
    (FOLDER + "empty", "data.path="),
    (FOLDER + "flat", "data.path="),
    (FOLDER + "hollow", "data.path="),
    (FOLDER + "one", "data.path="),
    (FOLDER + "tiny", "split.size=400"),
    (FOLDER + "texts", "data.path="),
    (
        FOLDER + "half",
        "data.path=half: cannot read half/dog/0.png (image file is truncated); repair or remove it, or set data.sk",
    ),
    (FOLDER + "half2", "data.path=half2: cannot read half2/cat/0.png ("),
    (FOLDER + "texts data.skip_damaged=true", "data.path=texts: no image of dog can be read"),
    (FOLDER + "zero", "data.path="),
    (FOLDER + "parts", "data.path="),
    (FOLDER + "heic", "data.path="),
    (FOLDER + "dangling", "data.path="),
    (FOLDER + "t.csv", "data.path="),
    (FOLDER + "old data.path2=absent", "data.path2=absent"),
    (FOLDER + "old data.path2=good.npz", "data.path2=good.npz"),
    (FOLDER + "old data.path2=new split.labels=same", "split.labels=same"),
    (FOLDER + "old data.image_size=0", "data.image_size=0"),
    (FOLDER + "old data.channels=2", "data.channels=2"),
    (FOLDER + "old 'split.classes=[cat,horse]'", "split.classes="),
    (FOLDER + "old split.size=5000", "split.size="),
    (FOLDER + "old 'data.paths=[old,new]' split.parts=3", "split.parts=3"),
    (FOLDER + "old 'data.paths=[old]'", "data.paths="),
    (FOLDER + "old 'data.paths=[old,absent,new]' split.parts=3", "data.paths=absent"),
    (FOLDER + "old data.path2=new 'data.paths=[old,new]'", "data.path2=new"),
    # arrays
    (ARRAYS + "rows.npz", "data.path=rows.npz"),
    (ARRAYS + "scalar.npz", "data.path="),
    (ARRAYS + "none.npz", "data.path="),
    (ARRAYS + "nan.npz", "data.path="),
    (ARRAYS + "nany.npz loss=mse", "data.path="),
    (ARRAYS + "words.npz", "data.path="),
    (ARRAYS + "dates.npz", "data.path="),
    (ARRAYS + "pixels.npz", "data.path="),
    (ARRAYS + "channels.npz", "data.path="),
    (ARRAYS + "deep.npz", "data.path="),
    (ARRAYS + "onehot.npz", "data.path="),
    (ARRAYS + "single.npz", "data.path="),
    (ARRAYS + "pickled.npz", "data.path="),
    (ARRAYS + "fake.npz", "data.path="),
    (ARRAYS + "old", "data.path="),
    (ARRAYS + "x.npy", "data.path=x.npy: x.npy holds one array without names; put it into a folder of x.npy and y.npy"),
    (ARRAYS + "folder", "data.path=folder: folder has no array y; set data.y_key to one of x"),
    (ARRAYS + "uneven.parquet", "data.path=uneven.parquet: cannot read uneven.parquet"),
    (ARRAYS + "t.csv", "data.path=t.csv: cannot read t.csv (it is no .npz archive)"),
    (ARRAYS + "good.npz data.x_key=images", "data.path="),
    (ARRAYS + "good.npz data.image_size=8", "data.image_size=8"),
    (ARRAYS + "good.npz data.path2=wide.npz", "data.path2=wide.npz"),
    (ARRAYS + "good.npz data.path2=number.npz", "data.path2=number.npz"),
    (ARRAYS + "number.npz split.size=8", "loss=cross_entropy"),
    (ARRAYS + "good.npz loss=mse online=true data.path2=number.npz", "data.path2="),
    (ARRAYS + "once.npz", "split.size=400"),
    ("data=arrays arch=cnn data.path=good.npz split.size=8", "arch=cnn"),
    # tables
    (TABLE + "renamed.csv data.path2=t.csv", "data.path2=t.csv"),
    (TABLE + "t.csv data.target=churned", "data.target=churned"),
    (TABLE + "t.csv 'data.drop=[town]'", "data.drop="),
    (TABLE + "hole.csv", "data.path="),
    (TABLE + "dated.csv", "data.path="),
    (TABLE + "endless.csv", "data.path="),
    (TABLE + "ids.csv", "data.path="),
    (TABLE + "alone.csv", "data.path="),
    (TABLE + "header.csv", "data.path="),
    (TABLE + "blank.csv", "data.path="),
    (TABLE + "same.csv", "data.path="),
    (TABLE + "price.csv split.size=8", "loss=cross_entropy"),
    (TABLE + "t.csv loss=mse data.path2=price.csv", "data.path2=price.csv"),
    (TABLE + "ragged.csv", "data.path="),
    (TABLE + "twice.csv", "data.path=twice.csv: twice.csv has two columns age"),
    (TABLE + "latin.csv", "data.path="),
    (TABLE + "nothing.csv", "data.path="),
    (TABLE + "fake.parquet", "data.path="),
    (TABLE + "t.xlsx", "data.path="),
    (TABLE + "old", "data.path="),
    # networks
    *((NET % name, "arch=Net") for name in NETS),
    (NET % "typo", "plugins=typo.py"),
    (NET % "absent", "plugins=absent.py"),
    (NET % "missing", "plugins=missing.py"),
    (NET % "bare", "plugins=bare.py"),
    (NET % "needs", "plugins=needs.py"),
    (NET % "taken", "plugins=taken.py"),
    (ARRAYS + "good.npz split.size=8 plugins=[stages.py] 'regimes=[mine]'", "regime"),
    (ARRAYS + "good.npz plugins=[fails.py] 'regimes=[mine]'", "regime=mine: fails for 2 data sets (ZeroDivisionError"),
    (ARRAYS + "good.npz arch.widths=[0]", "arch.widths"),
    (FOLDER + "old arch=torchvision arch.model=resnet99", "arch.model=resnet99"),
    # weights and checkpoints
    (FOLDER + "old arch.weights=absent.pt", "arch.weights=absent.pt"),
    (FOLDER + "old arch.weights=cnn.bin", "arch.weights=cnn.bin"),
    (FOLDER + "old split.size=4 arch.weights=text.pt", "arch.weights=text.pt"),
    (FOLDER + "old split.size=4 'arch.widths=[8]' arch.weights=cnn.pt", "arch.weights=cnn.pt"),
    (FOLDER + "old arch.weights=pipe.pt", "arch.weights=pipe.pt"),
    (FOLDER + "old arch.weights=old", "arch.weights=old"),
    (CHECKPOINT % "absent.pt", "regime.sequential.checkpoint=absent.pt"),
    (CHECKPOINT % "cnn.pt", "regime.sequential.checkpoint=cnn.pt"),
    (CHECKPOINT % "lightning.pt", "regime.sequential.checkpoint=lightning.pt"),
    (
        CHECKPOINT % "module.pt",
        "regime.sequential.checkpoint=module.pt: cannot be read as plain weights (it holds pickled",
    ),
    (CHECKPOINT % "nan.pt", "regime.sequential.checkpoint=nan.pt"),
    (CHECKPOINT % "empty.safetensors", "regime.sequential.checkpoint=empty.safetensors"),
    (CHECKPOINT % "{path:cnn.pt,classes:[cat]}", "regime.sequential.checkpoint.classes="),
    (CHECKPOINT % "{path:cnn.pt,classes:[pig,hen]}", "regime.sequential.checkpoint.classes="),
    (CHECKPOINT % "{path:cnn.pt,classes:[cat,cat]}", "regime.sequential.checkpoint.classes="),
    (CHECKPOINT % "{path:cnn.pt,labels:[cat,dog]}", "regime.sequential.checkpoint="),
    (CHECKPOINT % "{path:cnn.pt,classes:cat}", "regime.sequential.checkpoint="),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("files")
    write_all(root)
    return root


@pytest.mark.parametrize(("command", "start"), CASES)
def test_is_refused_in_one_line(files: Path, command: str, start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    words = [*shlex.split(command), "seeds=1", "tracking=off"]
    with pytest.raises(MISTAKES) as raised:
        resolve(compose(words))
    line = explain(raised.value, words)
    assert line.startswith(start), line
    assert len(line.partition(": ")[2]) > 10, "says what is wrong"
    assert not re.search(r"\n|\\x1b|Traceback|object at", line)
