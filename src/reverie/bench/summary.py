"""The figures of a benchmark as a table for people."""

from collections.abc import Sequence

from reverie.bench.figure import Figure
from reverie.report.table import Table

__all__ = ["figures_table"]


def figures_table(figures: Sequence[Figure]) -> Table:
    """One row per figure: what was asked, what was found, its spread, and whether it holds."""
    return Table(("figure", "asked", "found", "spread", "holds"), tuple(map(_row, figures)))


def _row(figure: Figure) -> tuple[str, ...]:
    question, measured = figure.question, figure.measured
    asked = question.unit if question.ask is None else f"{question.ask} {question.unit}"
    if measured is None:
        return question.name, asked, "not run", "", figure.reason or ""
    spread = "" if measured.spread is None else f"{measured.spread[0]:.3g} to {measured.spread[1]:.3g}"
    holds = "" if question.ask is None else "yes" if question.ask.holds(measured.value) else "NO"
    return question.name, asked, f"{measured.value:.3g}", spread, holds
