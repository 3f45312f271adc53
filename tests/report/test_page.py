"""The page is one file that asks nobody for anything and runs nothing."""

import re

from reverie.report.page import Figure, Picture, Section, page
from reverie.report.table import Table

HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>'


def _page() -> str:
    table = Table((HOSTILE, HOSTILE), ((HOSTILE, HOSTILE),))
    section = Section(HOSTILE, (HOSTILE, table, Picture(b"\x89PNG", HOSTILE, HOSTILE)))
    return page(HOSTILE, HOSTILE, figures=[Figure(HOSTILE, HOSTILE)], sections=[section])


def test_a_hostile_name_stays_text_wherever_it_stands() -> None:
    text = _page()
    assert "<script" not in text
    assert len(re.findall("<img ", text)) == 1
    assert text.count("&lt;script&gt;") == 13


def test_nothing_is_fetched() -> None:
    text = _page()
    assert "default-src &#x27;none&#x27;" in text
    assert not re.search(r"https?:|//[a-z]|<link|@import|url\(", text)
    assert re.findall(r'src="([^"]{0,22})', text) == ["data:image/png;base64,"]


def test_the_same_content_gives_the_same_bytes() -> None:
    assert _page() == _page()
