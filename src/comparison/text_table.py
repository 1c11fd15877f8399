"""A table of formatted cells that renders as Markdown and on a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from src.terminal import printable

if TYPE_CHECKING:
    from rich.table import Table

LATEX = {letter: rf"\{letter}" for letter in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\^{}",
    "−": "$-$",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTable:
    """Headings and rows of text. A cell between two ``**`` is emphasised."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str
    """One letter per column: "l" for text, "r" for numbers."""
    title: str = ""

    def without(self, heads: Collection[str]) -> TextTable:
        """The table without the columns of these headings."""
        kept = [k for k, head in enumerate(self.heads) if head not in heads]
        rows = tuple(tuple(row[k] for k in kept) for row in self.rows)
        return replace(
            self, heads=tuple(self.heads[k] for k in kept), rows=rows, align="".join(self.align[k] for k in kept)
        )

    def fitting(self, width: int, optional: Sequence[str] = ()) -> TextTable:
        """The table without the first of the `optional` columns, as many as a terminal of `width` columns requires.

        If it is too wide without all of them, names of regimes break before their knobs.
        """
        from rich.console import Console

        def is_too_wide() -> bool:
            return Console(width=10_000).measure(table.terminal()).maximum > width

        table, left = self, list(optional)
        while left and is_too_wide():
            table = table.without({left.pop(0)})
        if is_too_wide():
            broken = (
                tuple(
                    cell.replace("(", "\n(") if letter == "l" else cell
                    for cell, letter in zip(row, table.align, strict=True)
                )
                for row in table.rows
            )
            table = replace(table, rows=tuple(broken))
        return table

    def markdown(self) -> str:
        """The table below its title, with a final newline."""
        rule = ["---" if letter == "l" else "---:" for letter in self.align]
        lines = [self.heads, rule, *self.rows]
        table = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
        return printable(f"**{self.title}**\n\n{table}" if self.title else table)

    def latex(self) -> str:
        """The table for LaTeX with the package booktabs."""

        def line(cells: tuple[str, ...]) -> str:
            texts = ["".join(LATEX.get(letter, letter) for letter in printable(cell)) for cell in cells]
            bold = [re.sub(r"\*\*(.*?)\*\*", r"\\textbf{\1}", text) for text in texts]
            return " & ".join(bold) + r" \\"

        body = [line(self.heads), r"\midrule", *map(line, self.rows)]
        lines = [rf"\begin{{tabular}}{{{self.align}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}"]
        return "\n".join(lines) + "\n"

    def terminal(
        self,
        *,
        padding: int = 1,
        no_wrap: Collection[str] = (),
        last_style: Callable[[str], str] = lambda _: "",
    ) -> Table:
        """The table for rich. `no_wrap`: headings of columns of fixed width; `last_style`: of the last column."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(
            box=box.SIMPLE_HEAD, padding=(0, padding, 0, 0), show_edge=False, pad_edge=False, title=self.title or None
        )
        for head, letter in zip(self.heads, self.align, strict=True):
            justify = "left" if letter == "l" else "right"
            table.add_column(head, justify=justify, overflow="fold", no_wrap=head in no_wrap)  # type: ignore[arg-type]
        for row in self.rows:
            cells = [
                Text(printable(cell).replace("**", ""), style="bold" if cell.startswith("**") else "") for cell in row
            ]
            cells[-1].stylize(last_style(row[-1]))
            table.add_row(*cells)
        return table
