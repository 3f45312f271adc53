"""One table, three renderings, the same cells in each."""

import io
from html.parser import HTMLParser

import pytest
from rich.console import Console

from reverie.core.errors import ShapeError
from reverie.report.table import Bar, Table, to_html, to_markdown, to_rich

HOSTILE = "<img src=x onerror=alert(1)>"


class Seen(HTMLParser):
    """Tags and texts of an HTML document."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


TABLE = Table(
    ("figure", "teacher", "compressed"), (("latency", "2.00 ms", "1.10 ms"), (HOSTILE, "a|b", Bar(0.5, "8 of 16")))
)
CELLS = ["figure", "teacher", "compressed", "latency", "2.00 ms", "1.10 ms", HOSTILE, "a|b", "8 of 16"]


def test_html_shows_every_cell_and_makes_no_tag_of_one() -> None:
    seen = Seen()
    seen.feed(to_html(TABLE))
    assert seen.texts == CELLS
    assert set(seen.tags) == {"table", "thead", "tbody", "tr", "th", "td", "span", "i"}


@pytest.mark.parametrize(("share", "width"), [(0.5, "50.0%"), (-1.0, "0.0%"), (3.0, "100.0%")])
def test_a_bar_stays_in_its_track(share: float, width: str) -> None:
    assert f"width:{width}" in to_html(Table(("a", "b"), (("x", Bar(share, "t")),)))


def test_markdown_escapes_what_would_end_a_cell_or_open_a_tag() -> None:
    lines = to_markdown(TABLE).splitlines()
    assert lines[0] == "| figure | teacher | compressed |"
    assert lines[1] == "|---|---:|---:|"
    assert lines[3] == "| &lt;img src=x onerror=alert(1)&gt; | a\\|b | 8 of 16 |"


def test_the_terminal_shows_every_cell_as_it_is() -> None:
    stream = io.StringIO()
    Console(file=stream, width=200, markup=True).print(to_rich(Table(("n", "[red]x"), (("[bold]a", "\x1b[31mb"),))))
    assert "[red]x" in stream.getvalue()
    assert "[bold]a" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_short_row_is_refused() -> None:
    with pytest.raises(ShapeError, match="2 cells for 3 columns"):
        Table(("a", "b", "c"), (("1", "2"),))
