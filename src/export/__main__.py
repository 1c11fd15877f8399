"""Writes a trained network of a sweep as a folder that needs PyTorch alone."""

from __future__ import annotations

from src import cli

USAGE = """\
python -m src.export sweep=NAME regime=REGIME [cell=HASH] [seed=best] [register=NAME] [to=FOLDER] [plugins=[FILE.py]]

Writes model.pt2 (the network with its preprocessing), weights.safetensors, load.py (ten lines, without this project),
model.json (classes, input) and README.md (the model card) to multirun/NAME/export/. `cell`: the first letters of its
hash, if the sweep has several. `seed`: a number, `all`, or `best` by the validation set. `register`: registers the
model in MLflow, with the alias champion. `plugins`: the files with your own network, as in the sweep's command.
`multirun`: the folder of the sweep, if it is not multirun.

  python -m src.export sweep=digits-mlp regime=combined
  python -m src.export sweep=photos-cnn cell=3fa2 regime=sequential seed=3 register=photos
"""

if __name__ == "__main__":
    cli.command_of("src.export.command", USAGE)
