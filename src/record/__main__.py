"""Records runs of another trainer as a sweep: finished ones, or those that its script makes stage by stage."""

from __future__ import annotations

from src import cli

USAGE = """python -m src.record FILE.csv sweep=NAME [baseline=REGIME] [multirun=multirun] [tracking=off]

Each row of the file is a finished run. Columns: `regime`, `seed`, metrics (`union/accuracy`, `d1/wer`), costs
(`updates`, `samples`, `flops`, `seconds`); every other column is an axis, whose values distinguish cells.
docs/RECORD.md has an example. The same command again adds the rows that are new.

With engine.run=COMMAND in place of the file, the command is run for each stage of `regimes` x `seeds` on the lines of
data.lists=[OLD,NEW], and its runs are recorded. Further keys: split.test=0.2, split.val=0.1, engine.jobs=1,
axis.NAME=VALUE.

  python -m src.record runs.csv sweep=speech
  python -m src.record runs.csv sweep=speech baseline=combined tracking=off
  python -m src.record engine.run='python train.py {stage_data} --resume {weights} --out {out}' \\
      data.lists=[old.txt,new.txt] sweep=own
  python -m src.report sweep=speech
"""

if __name__ == "__main__":
    cli.command_of("src.record.command", USAGE)
