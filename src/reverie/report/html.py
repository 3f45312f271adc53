"""`report.html`: a compression on one page that needs nothing else."""

from collections.abc import Mapping
from typing import Any

from reverie.report.page import Block, Figure, Picture, Section, page
from reverie.report.result import (
    attempts_table,
    decisions_table,
    methods_table,
    result_table,
    seconds_table,
    value_text,
)
from reverie.report.table import Table
from reverie.report.text import bytes_text, percent_text

__all__ = ["compression_report"]

LOOP = (
    "The solver works with a table of measured layers; what counts is the whole network, measured beside the teacher. "
    "Each turn moves the solver's limit until that is within the budget; of the turns within it, the one that measures "
    "highest is handed over. Shares are of the teacher's latency."
)


def compression_report(
    asked: Mapping[str, Any],
    figures: Mapping[str, Any],
    *,
    environment: Mapping[str, Any],
    dreams_png: bytes | None = None,
) -> str:
    """The report as HTML text: what was asked, what came out beside the controls, and how each number was obtained.

    Every text that comes from a file is escaped.

    Args:
        asked: The options of the run, by name.
        figures: What `Compressed.figures()` gives.
        environment: `machine` and `versions` as mappings, and `commit`; what is missing is left out.
        dreams_png: The picture of the dreams, or None where the run had other data.

    Raises:
        CorruptFile: The figures are not those of a finished compression.
    """
    table = result_table(figures)
    sections = [
        Section("Result", (table, *(str(note) for note in figures.get("notes", ())))),
        Section("What was asked", (_pairs("option", "value", asked),)),
        *_dreams(dreams_png),
        Section("Plan, site by site", _plan(figures)),
        Section(
            "Latency, closed loop",
            (
                LOOP,
                attempts_table(figures),
            ),
        ),
        Section("How each number was obtained", (methods_table(figures),)),
        Section("Time", (seconds_table(figures),)),
        Section("Environment", (_pairs("", "", _environment(environment)),)),
    ]
    return page(
        f"Compressed: {asked.get('model', 'a network')}",
        "What was asked, what came out, and how each number was obtained.",
        figures=[_tile(row) for row in figures["rows"]],
        sections=sections,
    )


def _tile(row: Mapping[str, Any]) -> Figure:
    unit, teacher, compressed = row["unit"], row["teacher"], row["compressed"]
    if compressed["relative"] is not None:
        return Figure(percent_text(compressed["relative"], digits=1), f"of the teacher's {row['quantity']}")
    meaning = str(row["quantity"])
    # A teacher agrees with itself; that it does is no news.
    if teacher["value"] != 1:
        meaning += f"; the teacher has {value_text(teacher['value'], unit)}"
    return Figure(value_text(compressed["value"], unit), meaning)


def _dreams(png: bytes | None) -> tuple[Section, ...]:
    if png is None:
        return ()
    caption = "Synthesized from the network's weights alone, as it sees its classes; no training image was used."
    return (
        Section("Dreams", (Picture(png, "images synthesized from the network, one class after the other", caption),)),
    )


def _plan(figures: Mapping[str, Any]) -> tuple[Block, ...]:
    bypassed = ", ".join(map(str, figures.get("bypassed", ())))
    said = f"Residual blocks replaced by the identity: {bypassed}." if bypassed else "No residual block was bypassed."
    return (said, decisions_table(figures))


def _pairs(first: str, second: str, values: Mapping[str, Any]) -> Table:
    shown = {str(name).replace("_", " "): value for name, value in values.items() if value is not None}
    return Table((first, second), tuple((name, str(value)) for name, value in shown.items()), numeric=False)


def _environment(environment: Mapping[str, Any]) -> dict[str, Any]:
    machine = dict(environment.get("machine") or {})
    if machine.get("memory_bytes"):
        machine["memory"] = bytes_text(machine.pop("memory_bytes"))
    return machine | dict(environment.get("versions") or {}) | {"commit": environment.get("commit")}
