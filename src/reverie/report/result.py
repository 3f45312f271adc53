"""The tables of a compression: the closing table, the plan, the closed loop, the time.

Made from the figures that `Compressed.figures()` gives and `run.json` keeps, so a report can be drawn again from the
folder alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from reverie.core.errors import CorruptFile
from reverie.report.table import Bar, Cell, Detailed, Table
from reverie.report.text import bytes_text, count_text, milliseconds_text, percent_text, seconds_text

__all__ = ["attempts_table", "decisions_table", "methods_table", "result_table", "seconds_table", "value_text"]

Figures = Mapping[str, Any]
Made = TypeVar("Made")

WRITERS: Mapping[str, Callable[[float], str]] = {
    "ms": milliseconds_text,
    "byte": bytes_text,
    "MAC": lambda macs: count_text(macs, "MAC"),
    "share": percent_text,
}


def value_text(value: float, unit: str) -> str:
    """A figure with its unit, as a person reads it.

    Example:
        >>> value_text(0.9365, "share"), value_text(1_130_000, "byte")
        ('93.65%', '1.13 MB')
    """
    return WRITERS[unit](value)


def result_table(figures: Figures) -> Table:
    """One row per figure, each beside the teacher's and the noise control's, with shares of the teacher and spreads.

    Where no control was made there is no column for it.

    Raises:
        CorruptFile: The figures are not those of a compression.
    """

    def table() -> Table:
        titles = {"teacher": "teacher", "compressed": "compressed", "control": "noise control"}
        if all(row["control"] is None for row in figures["rows"]):
            del titles["control"]
        return Table(("", *titles.values()), tuple(_row(row, tuple(titles)) for row in figures["rows"]))

    return _made(table)


def decisions_table(figures: Figures) -> Table:
    """The plan, one row per site: units before and after, and the evidence for it."""
    return _made(
        lambda: Table(("site", "kept", "loss of this choice alone"), tuple(map(_decision, figures["decisions"])))
    )


def attempts_table(figures: Figures) -> Table:
    """The closed loop, one row per turn: what the table predicted and what the whole network measured."""
    return _made(
        lambda: Table(
            ("turn", "predicted latency", "measured latency"),
            tuple(
                (str(turn), percent_text(attempt["predicted"]), percent_text(attempt["measured"]))
                for turn, attempt in enumerate(figures["attempts"], 1)
            ),
        )
    )


def methods_table(figures: Figures) -> Table:
    """How each figure of the closing table was obtained."""
    return _made(
        lambda: Table(
            ("figure", "how it was obtained"),
            tuple((row["quantity"], row["how"]) for row in figures["rows"]),
            numeric=False,
        )
    )


def seconds_table(figures: Figures) -> Table:
    """Time by stage, and in all."""

    def rows() -> Table:
        seconds = {str(stage): float(value) for stage, value in figures["seconds"].items()}
        total = sum(seconds.values())
        bars = [(stage, Bar(value / total if total else 0.0, seconds_text(value))) for stage, value in seconds.items()]
        return Table(("stage", "time"), (*bars, ("in all", seconds_text(total))))

    return _made(rows)


def _row(row: Figures, columns: Sequence[str]) -> tuple[Cell, ...]:
    return (str(row["quantity"]), *(_measured(row[name], row["unit"]) for name in columns))


def _measured(measured: Figures | None, unit: str) -> Cell:
    if measured is None:
        return ""
    details = []
    if measured["relative"] is not None and measured["relative"] != 1:
        details.append(percent_text(measured["relative"], digits=1))
    if measured["low"] is not None and measured["high"] is not None:
        details.append(_range_text(measured["low"], measured["high"], unit))
    text = value_text(measured["value"], unit)
    return Detailed(text, tuple(details)) if details else text


def _range_text(low: float, high: float, unit: str) -> str:
    """Both ends of a range; a unit that they share is said once."""
    first, last = value_text(low, unit), value_text(high, unit)
    for shared in ("%", last.partition(" ")[2]):
        if shared and last.endswith(shared):
            first = first.removesuffix(shared).rstrip()
    return f"{first} to {last}"


def _decision(decision: Figures) -> tuple[str, Bar, str]:
    kept, units = int(decision["kept"]), int(decision["units"])
    words = "bypassed" if kept == 0 else f"{kept} of {units}"
    return (
        str(decision["site"]),
        Bar(kept / units, words),
        f"{decision['loss']:.4f} ± {decision['loss_error']:.4f} nats",
    )


def _made(make: Callable[[], Made]) -> Made:
    try:
        return make()
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise CorruptFile(
            f"these are not the figures of a finished compression ({type(error).__name__}: {error}). "
            "Run the command again."
        ) from error
