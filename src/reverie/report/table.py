"""A table of text, and its three renderings: terminal, Markdown, HTML.

Whoever has figures makes a `Table` once; what is shown on the terminal, in the README and in the report is the same.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reverie.core.errors import ShapeError
from reverie.report.text import printable

if TYPE_CHECKING:
    import rich.table
    import rich.text

__all__ = ["Bar", "Cell", "Detailed", "Table", "to_html", "to_markdown", "to_rich"]


@dataclass(frozen=True)
class Bar:
    """A cell that is drawn as a bar where bars can be drawn, and is its text elsewhere.

    Attributes:
        share: Length of the bar, in [0, 1].
        text: What it says.
    """

    share: float
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Detailed:
    """A figure with what belongs to it, in smaller letters below it or in parentheses behind it.

    Attributes:
        text: The figure.
        details: Its share, its interval; at least one.
    """

    text: str
    details: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.text} ({'; '.join(self.details)})"


Cell = str | Bar | Detailed


@dataclass(frozen=True)
class Table:
    """Cells in rows; the first column names the row, the others hold figures.

    Attributes:
        columns: One heading per column, at least one.
        rows: Each as long as `columns`.
        numeric: Whether cells hold figures, set to the right, or words, set to the left.

    Raises:
        ShapeError: A row has another length than `columns`.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: bool = True

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ShapeError(f"a row has {len(row)} cells for {len(self.columns)} columns: {list(map(str, row))}")


def to_rich(table: Table) -> "rich.table.Table":
    """For `rich.console.Console.print`."""
    import rich.box
    import rich.table
    from rich.text import Text

    shown = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(table.columns):
        shown.add_column(
            Text(printable(column)), justify="right" if index and table.numeric else "left", overflow="fold"
        )
    for row in table.rows:
        shown.add_row(*map(_rich_cell, row))
    return shown


def to_markdown(table: Table) -> str:
    r"""GitHub's pipe table, one line per row, with a line feed at its end.

    Example:
        >>> print(to_markdown(Table(("figure", "a|b"), (("size", "1 MB"),))), end="")
        | figure | a\|b |
        |---|---:|
        | size | 1 MB |
    """
    rule = "|---|" + ("---:|" if table.numeric else "---|") * (len(table.columns) - 1)
    lines = [_markdown_row(table.columns), rule, *(_markdown_row(tuple(map(str, row))) for row in table.rows)]
    return "\n".join(lines) + "\n"


def to_html(table: Table) -> str:
    """A `<table>` element; every text is escaped.

    Example:
        >>> to_html(Table(("name",), (("<b>",),)))
        '<table><thead><tr><th>name</th></tr></thead><tbody><tr><th>&lt;b&gt;</th></tr></tbody></table>'
    """
    head = "".join(f"<th>{_escape(column)}</th>" for column in table.columns)
    body = "".join(f"<tr>{_html_cells(row)}</tr>" for row in table.rows)
    opening = "<table>" if table.numeric else '<table class="words">'
    return f"{opening}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _rich_cell(cell: Cell) -> "rich.text.Text":
    from rich.text import Text

    if not isinstance(cell, Detailed):
        return Text(printable(str(cell)))
    return Text.assemble(printable(cell.text), *(("\n" + printable(detail), "dim") for detail in cell.details))


def _markdown_row(cells: Sequence[str]) -> str:
    # A pipe would end the cell, and a tag would be one: GitHub renders some.
    return "| " + " | ".join(html.escape(printable(cell), quote=False).replace("|", "\\|") for cell in cells) + " |"


def _html_cells(row: Sequence[Cell]) -> str:
    first, *others = row
    return f"<th>{_escape(str(first))}</th>" + "".join(f"<td>{_html_cell(cell)}</td>" for cell in others)


def _html_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return _escape(cell)
    if isinstance(cell, Detailed):
        small = "".join(f"<small>{_escape(detail)}</small>" for detail in cell.details)
        return f"{_escape(cell.text)}{small}"
    width = 100 * min(1.0, max(0.0, cell.share))
    return (
        f'<span class="bar"><i style="width:{width:.1f}%"></i></span><span class="beside">{_escape(cell.text)}</span>'
    )


def _escape(text: str) -> str:
    return html.escape(printable(text), quote=True)
