"""Any network: analyzed, cut, proven, carried away. Which of them, how fast, and what stays frozen and why.

Every network is examined in a process of its own, with a time limit, so none can stop the others or leave anything
behind. What was measured is kept as one file per network; a run that was stopped goes on where it was.
"""

import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import starmap
from pathlib import Path
from typing import TypeAlias

from reverie.bench.examine import REMOVED, Row, examine
from reverie.bench.figure import Ask, Job, Measured, Question, at_least, at_most
from reverie.bench.kinds import OTHERS, SPEED, TIMM, TIMM_MODULES, Subject
from reverie.core.environment import commit
from reverie.core.errors import VerificationFailed
from reverie.core.events import Event, Listener, silent
from reverie.core.store import read_json, write_json

__all__ = ["CARRIED", "EXACT", "LISTS", "coverage_jobs", "examine_all", "passes", "prunable"]

EXACT = 1e-5
"""Largest difference between a cut network and its reference, single precision."""

CARRIED = 1e-4
"""Largest difference between ONNX Runtime and PyTorch."""

CERTIFIED = 0.5
"""Share of a network's units that must be certified for the network to count at all."""

LISTS: Mapping[str, Callable[[], Sequence[Subject]]] = {
    "timm": lambda: TIMM,
    "others": lambda: OTHERS,
    "speed": lambda: SPEED,
    "modules": lambda: TIMM_MODULES,
}
"""Name -> networks."""

PRELOADED = [
    "torch", "timm", "torchvision", "reverie.bench.examine", "onnxscript", "torch._dynamo", "torch.export",
    "torch.onnx._internal.exporter._core", "torch.fx.experimental.symbolic_shapes",
]  # fmt: skip
LIMIT_S = 900.0
PARAMETERS_CERTIFIED = 0.95


def prunable(row: Row) -> bool:
    """Whether at least half of the units are certified, and at least 30 % of those were removed, exactly."""
    if row.cut_difference is None or row.units is None or row.free is None or row.removed is None:
        return False
    enough = row.free >= CERTIFIED * row.units and row.removed >= REMOVED * row.free > 0
    exact = not wrong(row) and row.cut_difference <= EXACT
    return enough and exact and not {"structure", "cut"} & row.failures.keys()


def wrong(row: Row) -> bool:
    """Whether a cut was made and the result is another network than it should be."""
    return row.exact_difference is not None and row.exact_difference > EXACT


def passes(row: Row) -> bool:
    """Whether everything that is asked of one network holds: cut, fresh process, ONNX Runtime."""
    return (
        prunable(row)
        and row.fresh_difference == 0.0
        and row.onnx_difference is not None
        and row.onnx_difference <= CARRIED
    )


def examine_all(
    subjects: Sequence[Subject],
    folder: Path,
    *,
    portable: bool = True,
    limit_s: float = LIMIT_S,
    on_event: Listener = silent,
) -> list[Row]:
    """Examine networks one after the other, each in a process of its own.

    Args:
        subjects: Which.
        folder: Holds one file per network; those that are there are not examined again.
        portable: Also carry each cut network to a fresh process and to ONNX Runtime.
        limit_s: Seconds after which a network is given up.
        on_event: Hears each network.
    """
    context = multiprocessing.get_context("forkserver")
    # One server imports everything once; each network gets a fresh copy of it.
    context.set_forkserver_preload(PRELOADED)
    rows = []
    for index, subject in enumerate(subjects):
        on_event(Event(f"examining {subject.name}", index, len(subjects)))
        path = folder / f"{subject.name}.json"
        if not path.exists():
            _examine_alone(context, subject, path, portable=portable, limit_s=limit_s)
        rows.append(Row(**read_json(path)))
    on_event(Event("examining", len(subjects), len(subjects)))
    return rows


def _examine_alone(
    context: multiprocessing.context.ForkServerContext, subject: Subject, path: Path, *, portable: bool, limit_s: float
) -> None:
    process = context.Process(target=_write_row, args=(subject, path, portable))
    process.start()
    process.join(limit_s)
    reason = None
    if process.is_alive():
        process.kill()
        process.join()
        reason = f"given up after {limit_s:.0f} s"
    elif not path.exists():
        reason = f"its process ended with {process.exitcode}"
    if reason is not None and not path.exists():
        row = Row(subject.name, subject.kind, failures={"process": reason}, commit=commit())
        write_json(path, row.to_json())


def _write_row(subject: Subject, path: Path, portable: bool) -> None:
    write_json(path, examine(subject, portable=portable).to_json())


def coverage_jobs(folder: Path | None = None) -> tuple[Job, ...]:
    """The figures of coverage.

    Args:
        folder: Where rows are kept, so that a stopped run goes on; a temporary folder where None.
    """
    known: dict[str, list[Row]] = {}

    def rows_of(name: str, on_event: Listener) -> list[Row]:
        if name not in known:
            with tempfile.TemporaryDirectory() as temporary:
                place = Path(temporary) if folder is None else folder / name
                known[name] = examine_all(LISTS[name](), place, portable=name in _CARRIED, on_event=on_event)
        return known[name]

    return _listed(rows_of), _analysis(rows_of), _speed(rows_of), _modules(rows_of)


_Rows: TypeAlias = Callable[[str, Listener], list[Row]]

_CARRIED = ("timm", "others")


def _listed(rows_of: _Rows) -> Job:
    def run(on_event: Listener) -> Mapping[str, Measured]:
        timm, others = (rows_of(name, on_event) for name in _CARRIED)
        kinds = {row.kind: True for row in others}
        for row in others:
            kinds[row.kind] = kinds[row.kind] and passes(row)
        both = [*timm, *others]
        certified = [row.certified if row.certified is not None else 0.0 for row in both]
        return {
            "timm-passed": Measured(sum(map(passes, timm))),
            "kinds-passed": Measured(sum(kinds.values())),
            "listed-wrong": Measured(sum(map(wrong, both))),
            "certified-parameters": Measured(statistics.median(certified)),
        }

    asked = (
        ("timm-passed", "of 40", at_least(len(TIMM))),
        ("kinds-passed", "of 22", at_least(22)),
        ("listed-wrong", "networks", at_most(0)),
        ("certified-parameters", "median share", at_least(PARAMETERS_CERTIFIED)),
    )
    return Job(tuple(starmap(_question, asked)), run)


def _analysis(rows_of: _Rows) -> Job:
    def run(on_event: Listener) -> Mapping[str, Measured]:
        rows = [row for name in (*_CARRIED, "modules") for row in rows_of(name, on_event)]
        seconds = [row.seconds for row in rows if row.seconds is not None]
        return {
            "analysis-median": Measured(_some(statistics.median, seconds)),
            "analysis-maximum": Measured(_some(max, seconds)),
        }

    asked = (("analysis-median", "processor s", at_most(0.5)), ("analysis-maximum", "processor s", at_most(3.0)))
    return Job(tuple(starmap(_question, asked)), run)


def _speed(rows_of: _Rows) -> Job:
    def run(on_event: Listener) -> Mapping[str, Measured]:
        rows = rows_of("speed", on_event)
        return {f"analysis-{row.name}": Measured(_some(max, [row.seconds] if row.seconds else [])) for row in rows}

    bounds = zip(SPEED, (1.0, 0.5, 1.5, 1.5), strict=True)
    return Job(tuple(_question(f"analysis-{one.name}", "processor s", at_most(bound)) for one, bound in bounds), run)


def _modules(rows_of: _Rows) -> Job:
    def run(on_event: Listener) -> Mapping[str, Measured]:
        rows = rows_of("modules", on_event)
        return {
            "modules-prunable": Measured(sum(map(prunable, rows)) / len(rows)),
            "modules-wrong": Measured(sum(map(wrong, rows))),
            "modules-given-up": Measured(sum("process" in row.failures for row in rows)),
        }

    asked = (
        ("modules-prunable", "share", at_least(0.9)),
        ("modules-wrong", "networks", at_most(0)),
        ("modules-given-up", "networks", at_most(0)),
    )
    return Job(tuple(starmap(_question, asked)), run)


def _question(name: str, unit: str, ask: Ask) -> Question:
    return Question(name, unit, ask, f"reverie bench coverage --only {name}")


def _some(measure: Callable[[list[float]], float], values: list[float]) -> float:
    if not values:
        raise VerificationFailed("no network was analyzed, so there is no time to state")
    return measure(values)
