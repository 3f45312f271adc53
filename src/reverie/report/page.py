"""A page that is one file: styles inside, images inside, no script, no request to anywhere.

Every text is escaped, because class names and file names come from strangers; a content security policy makes the
browser refuse whatever would slip through.
"""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

from reverie.report.table import Table, to_html

__all__ = ["Block", "Figure", "Picture", "Section", "page"]

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f6f8; color: #1c1e22; font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue",
  Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 28px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 0 0 12px; }
p { margin: 0 0 12px; max-width: 78ch; overflow-wrap: anywhere; }
.lead { font-size: 18px; color: #4a4e57; margin-bottom: 24px; }
section { background: #fff; border: 1px solid #e2e4e9; border-radius: 10px; padding: 22px 24px; margin-top: 20px;
  overflow-x: auto; }
.tiles { display: flex; flex-wrap: wrap; gap: 14px; }
.tile { flex: 1 1 190px; background: #fff; border: 1px solid #e2e4e9; border-radius: 10px; padding: 16px 18px; }
.tile b { display: block; font-size: 26px; line-height: 1.2; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile span { display: block; color: #4a4e57; font-size: 14px; }
table { border-collapse: collapse; width: 100%; font-size: 15px; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 12px 7px 0; text-align: right; vertical-align: top; border-bottom: 1px solid #eceef2; }
th:first-child { text-align: left; font-weight: 600; overflow-wrap: anywhere; min-width: 15ch; }
thead th { color: #4a4e57; font-weight: 600; border-bottom: 2px solid #d5d8df; white-space: nowrap; }
tbody tr:last-child > * { border-bottom: 0; }
th:last-child, td:last-child { padding-right: 0; }
.words th, .words td { text-align: left; }
.words th:first-child { width: 26%; }
td small { display: block; color: #666b75; font-size: 13px; }
section > table + p { margin-top: 14px; }
section > p:last-child { margin-bottom: 0; }
.beside { display: inline-block; min-width: 11ch; }
.bar { display: inline-block; width: 120px; height: 9px; margin-right: 10px; background: #e8eaef; border-radius: 5px;
  overflow: hidden; }
.bar i { display: block; height: 100%; background: #3b6fd4; }
figure { margin: 0; }
figure img { max-width: 100%; height: auto; border: 1px solid #eceef2; border-radius: 6px; }
figcaption { color: #4a4e57; font-size: 14px; margin-top: 8px; }
code { font: 14px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; background: #f0f1f4; padding: 2px 6px;
  border-radius: 5px; overflow-wrap: anywhere; }
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Picture:
    """A PNG image with the words that stand for it and under it."""

    png: bytes
    alternative: str
    caption: str


@dataclass(frozen=True)
class Figure:
    """One number worth a glance, and what it is."""

    value: str
    meaning: str


Block = str | Table | Picture


@dataclass(frozen=True)
class Section:
    """A heading, and what stands under it, in order; a string is a paragraph."""

    heading: str
    blocks: tuple[Block, ...]


def page(title: str, lead: str, *, figures: Sequence[Figure], sections: Sequence[Section]) -> str:
    """The page as HTML text.

    Args:
        title: Its heading.
        lead: One sentence below.
        figures: Numbers that stand side by side on top.
        sections: What follows, in order.

    Example:
        >>> "<script>" in page("<script>", "a", figures=[], sections=[])
        False
    """
    body = "".join(
        f"<section><h2>{_escape(section.heading)}</h2>{''.join(map(_block, section.blocks))}</section>\n"
        for section in sections
    )
    shown = "".join(
        f'<div class="tile"><b>{_escape(figure.value)}</b><span>{_escape(figure.meaning)}</span></div>'
        for figure in figures
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_escape(POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{_escape(title)}</h1>\n<p class="lead">{_escape(lead)}</p>\n'
        f'<div class="tiles">{shown}</div>\n{body}</main>\n</body>\n</html>\n'
    )


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return to_html(block)
    if isinstance(block, Picture):
        source = "data:image/png;base64," + base64.b64encode(block.png).decode("ascii")
        return (
            f'<figure><img src="{source}" alt="{_escape(block.alternative)}">'
            f"<figcaption>{_escape(block.caption)}</figcaption></figure>"
        )
    return f"<p>{_escape(block)}</p>"


def _escape(text: str) -> str:
    return html.escape(text, quote=True)
