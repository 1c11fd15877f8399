"""Writes one self-contained page about a sweep."""

from __future__ import annotations

from src import cli

USAGE = """python -m src.report sweep=NAME [plugins=[FILE.py]] [paper=false] [most_cells=500] [multirun=multirun]

Writes multirun/NAME/report/report.html, with PNG plots and CSV tables in the same folder, and attaches them to the
sweep's run in MLflow if the sweep is tracked. Trains no missing run and changes no result. paper=true also writes
report/paper/: every plot as PDF and SVG, and the table of cells in LaTeX. Of a grid of over most_cells cells the page
shows averages over axes and the cells with the largest differences; cells.csv has all. plugins=[FILE.py]: the files
with your own network, as in the sweep's command.

  python -m src.report sweep=digits-mlp
  python -m src.report sweep=digits-mlp paper=true
"""

if __name__ == "__main__":
    cli.command_of("src.report.command", USAGE)
