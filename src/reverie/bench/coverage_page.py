"""The rows of the coverage bench as tables, and as the page in `docs/benchmarks/coverage.md`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reverie.bench.coverage import CARRIED, CERTIFIED, EXACT, LISTS, passes, prunable
from reverie.bench.examine import REMOVED, Row
from reverie.bench.kinds import OTHERS, SPEED, TIMM
from reverie.core.store import read_json
from reverie.report.table import Cell, Table, to_markdown

__all__ = ["coverage_page", "coverage_rows", "coverage_table"]

_COLUMNS = (
    "network", "exercises", "parameters", "analysis s", "units", "parameters certified", "removed", "uncut, float32",
    "cut, float32", "cut, float64", "fresh process", "ONNX Runtime", "holds",
)  # fmt: skip


def coverage_rows(folder: Path) -> dict[str, list[Row]]:
    """List of networks -> the rows that lie in a folder, in the order of the list."""
    place = {one.name: index for index, one in enumerate((*TIMM, *OTHERS, *SPEED))}
    found: dict[str, list[Row]] = {}
    for name in LISTS:
        rows = [Row(**read_json(path)) for path in (folder / name).glob("*.json")]
        found[name] = sorted(rows, key=lambda row: (place.get(row.name, len(place)), row.kind, row.name))
    return found


def coverage_table(folder: Path) -> Table:
    """One line per network that was examined."""
    rows = [row for rows in coverage_rows(folder).values() for row in rows]
    return Table(_COLUMNS, tuple(map(_cells, rows)))


def coverage_page(folder: Path, value: Mapping[str, Any]) -> str:
    """The whole page, in Markdown.

    Args:
        folder: Where the rows are.
        value: What `run_bench` returned.
    """
    lists = coverage_rows(folder)
    parts = [
        _head(),
        _place(value),
        _elsewhere(lists, value["commit"]),
        "\n## Figures\n\n",
    ]
    parts.append(to_markdown(_figures(value)))
    for name, title in _TITLES.items():
        if lists.get(name):
            parts += [f"\n## {title}\n\n", to_markdown(Table(_COLUMNS, tuple(map(_cells, lists[name]))))]
            parts += [_notes(lists[name])]
    parts.append(_TAIL)
    return "".join(parts)


def _head() -> str:
    return _HEAD.format(removed=f"{REMOVED:.0%}", exact=EXACT, carried=CARRIED, certified=CERTIFIED)


def _figures(value: Mapping[str, Any]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for figure in value["figures"]:
        asked = (
            "" if figure["ask"] is None else " ".join(f"{k.replace('_', ' ')} {v:g}" for k, v in figure["ask"].items())
        )
        found = "not run" if figure["value"] is None else f"{figure['value']:.3g}"
        holds = figure.get("reason", "") if figure["holds"] is None else "yes" if figure["holds"] else "NO"
        rows.append((figure["name"], figure["unit"], asked, found, holds))
    return Table(("figure", "unit", "asked", "found", "holds"), tuple(rows))


def _place(value: Mapping[str, Any]) -> str:
    machine = value["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in value["versions"].items())
    return (
        f"\nMeasured on {machine['processor']}, one thread, load {machine['load_average']} while it ended; {versions}; "
        f"commit {str(value['commit'])[:12]}.\n"
    )


def _elsewhere(lists: Mapping[str, Sequence[Row]], commit: str | None) -> str:
    """Which rows were kept from other commits than the one of the page."""
    others = Counter(row.commit for rows in lists.values() for row in rows if row.commit != commit)
    if not others:
        return ""
    said = (
        f"{count} row{'' if count == 1 else 's'} of {'one that is not known' if one is None else one[:12]}"
        for one, count in others.most_common()
    )
    return f"Of another commit: {', '.join(said)}.\n"


def _cells(row: Row) -> tuple[Cell, ...]:
    # The long lists ask for more than the modules of timm, which are only cut.
    carried = row.fresh_difference is not None or row.onnx_difference is not None
    return (
        row.name,
        row.kind,
        f"{row.parameters:,}",
        _number(row.seconds, ".2f"),
        "" if row.units is None else f"{row.free} of {row.units}",
        _number(row.certified, ".1%"),
        "" if not row.removed or not row.free else f"{row.removed / row.free:.0%}",
        _number(row.rounding, ".0e") + (f" ({row.calmed})" if row.calmed else ""),
        _number(row.cut_difference, ".0e"),
        _number(row.exact_difference, ".0e"),
        "same bits" if row.fresh_difference == 0 else _number(row.fresh_difference, ".0e"),
        _number(row.onnx_difference, ".0e"),
        "yes" if (passes(row) if carried else prunable(row)) else "NO",
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _notes(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        lines += [f"- `{row.name}`: {step} failed: {_code(reason)}\n" for step, reason in row.failures.items()]
        if row.unused:
            lines.append(f"- `{row.name}` has {row.unused:,} parameters that its forward pass does not use\n")
        frozen = sorted(row.frozen.items(), key=lambda item: -item[1])
        if frozen:
            listed = "; ".join(f"{units} units: {_code(reason)}" for reason, units in frozen[:4])
            more = f"; and {len(frozen) - 4} more reasons" if len(frozen) > 4 else ""
            lines.append(f"- `{row.name}` keeps {listed}{more}\n")
    return "\nFailed or frozen, and why:\n\n" + "".join(lines) if lines else "\nNothing failed, nothing is frozen.\n"


def _code(text: str) -> str:
    return "`" + text.replace("`", "'") + "`"


_TITLES = {
    "timm": "Forty architectures of timm",
    "others": "Twenty-two other kinds",
    "speed": "Four that are to be fast",
    "modules": "One small architecture of every other module of timm",
}

_HEAD = """# Coverage: which networks are analyzed, cut and carried away

Written by `reverie bench coverage --folder runs/coverage --markdown docs/benchmarks/coverage.md`. Every network is
examined in a process of its own:

- *analysis s*: processor seconds of `probe` in the architecture's own size, branches included, after PyTorch's own
  first-use costs; the other columns are of the smaller build that the list states, and of images of 96 pixels where a
  module of timm takes any size. `analysis-median` and `-maximum` are over all networks but the four that are to be
  fast;
- *units*: certified of all; inputs, outputs, positions, and entries of tables are no units; *parameters certified*:
  the share of the parameters' elements, those included that a forward pass does not use, that go with some certified
  unit;
- *removed*: at least {removed} of every certified group, at random, as a share of the certified units. With random
  weights and statistics, the cut network is compared with the uncut one in which only the surviving elements take
  part, which knows nothing of the analysis (`reverie.graph.oracle`); differences are shares of the largest output
  where that is above 1, and at most {exact:g} holds;
- *cut, float64*: on the random weights as drawn, which is where the law is proven; *cut, float32*: the same in single
  precision;
- *uncut, float32*: the uncut network's own rounding, single against double precision, without any cut. Where random
  weights blow it up beyond half of the bound, the scales of the normalizations are halved for the columns in single
  precision, as often as the number in brackets says, so that the bound speaks of the cut;
- *fresh process*: weights and record are read by the reader of
  [loading without Reverie](../loading_without_reverie.md) in a process that cannot import Reverie;
- *ONNX Runtime*: exported with a free batch size, run with 2 and with 1; at most {carried:g} holds.

A network *holds* when at least {certified:.0%} of its units are certified, {removed} of those went, and everything was
within these bounds. For the modules of timm, which are not carried away, it holds when that cut was exact.
"""

_TAIL = """
What a reason means, and how to register a rule for an operation of your own: [rules and frozen groups](../rules.md).
"""
