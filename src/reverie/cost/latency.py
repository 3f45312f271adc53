"""Measured milliseconds in the runtime that serves: of single layers that need not exist yet, and of whole networks.

What for: the allocator needs the time of every layer at every pair of widths before any network is cut; the loop
around it needs the true time of the network it chose. Both are measured here, beside a reference, and kept as ratios.

Cost: about 50 ms for a layer shape that is not in the table yet. Where time is a straight line between two widths, the
widths between them are not measured (`reverie.cost.sampling`). A table in a file is filled once per machine.

Reference: Shen et al., 2022, arXiv:2210.06659, section 3, for tables of measured layers. Differs: both widths vary,
a layer is timed with its addition and activation as the runtime fuses them, and only where time is not a line.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reverie.core.counts import check_counts
from reverie.core.errors import CorruptFile, RangeError, ReferenceNotFound
from reverie.core.events import Event, Listener, silent
from reverie.core.store import read_json, write_json
from reverie.cost.backend import Backend, Servable
from reverie.cost.layer_graph import LayerShape
from reverie.cost.onnx_runtime import OnnxRuntime
from reverie.cost.sampling import NEGLIGIBLE, fill, next_points
from reverie.cost.timing import Run, Samples, Timing, collect, interleave, median_error

__all__ = [
    "LatencyTable",
    "LayerLatency",
    "TableSummary",
    "default_table_path",
    "measure_networks",
    "read_summaries",
    "read_table",
]

FORMAT = 1
# About half a millisecond of the commonest layer: what every layer is timed beside.
YARDSTICK = LayerShape("conv", 64, 64, (3, 3), (1, 1), (1, 1), (1, 1), input_size=(14, 14), activation="relu")
YARDSTICK_COPIES = 4
TOGETHER = 8
# A layer is known once the interval of its median is within 3 %, or within 1/2000 of the yardstick.
TOLERANCE = 0.03
# Among the layers of a table: what one call costs that computes nothing.
CALL = "call"


@dataclass(frozen=True)
class LayerLatency:
    """How long one layer takes inside a network.

    Attributes:
        ms: Milliseconds: `ratio` times the yardstick's time when the table was begun.
        ratio: Time as a share of the yardstick's, measured round by round; what the table keeps.
        error: Half the width of the 95 % interval of `ratio`; of an interpolated value, the largest of its family.
        measured: Whether this very shape was timed; else it lies between some that were.
    """

    ms: float
    ratio: float
    error: float
    measured: bool


@dataclass(frozen=True)
class TableSummary:
    """What a file holds for one runtime on one machine.

    Attributes:
        environment: Runtime, version, number format, threads and processor.
        layers: Shapes that are known.
        measured: Shapes that were timed; the others lie between them.
        yardstick_ms: Time of the layer that all ratios refer to, when the table was begun.
    """

    environment: str
    layers: int
    measured: int
    yardstick_ms: float


def default_table_path() -> Path:
    """Where the table of this machine is kept unless another place is named: in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "reverie" / "latency.json"


def read_summaries(path: Path) -> tuple[TableSummary, ...]:
    """What a table's file holds, one entry per runtime, machine and number of threads.

    Raises:
        ReferenceNotFound: There is no such file.
        CorruptFile: It is no latency table of this format.
    """
    if not path.exists():
        raise ReferenceNotFound(f"there is no latency table at {path}. Build one: reverie latency build MODEL")
    return tuple(
        TableSummary(
            environment,
            len(table["layers"].keys() - {CALL}),
            _timed(table["layers"]),
            float(table["yardstick_ms"]),
        )
        for environment, table in sorted(_read(path)["tables"].items())
    )


def read_table(path: Path, environment: str) -> "LatencyTable":
    """The table of another machine or runtime, to look times up in.

    Args:
        path: The file.
        environment: As `read_summaries` lists it.

    Raises:
        ReferenceNotFound: There is no such file or environment. The table raises it for a layer that it lacks, which
            cannot be measured here.
        CorruptFile: The file is no latency table of this format.
    """
    known = [one.environment for one in read_summaries(path)]
    if environment not in known:
        raise ReferenceNotFound(f"{path} has no times of {environment!r}; it has {'; '.join(known) or 'none'}")
    return LatencyTable(path, backend=_Elsewhere(environment))


@dataclass(frozen=True)
class _Elsewhere:
    """A runtime that is not here."""

    environment: str
    name: str = "elsewhere"

    def network(self, network: Servable, images: NDArray[np.float32]) -> Run:
        del network, images
        raise self._absent()

    def layer(self, shape: LayerShape, *, copies: int) -> Run:
        del shape, copies
        raise self._absent()

    def empty(self) -> Run:
        raise self._absent()

    def _absent(self) -> ReferenceNotFound:
        return ReferenceNotFound(f"{self.environment} is not this machine, so nothing can be measured in it here")


def measure_networks(
    models: Mapping[str, Servable],
    image_shape: Sequence[int],
    *,
    reference: str = "teacher",
    batch: int = 1,
    threads: int | None = None,
    backend: Backend | None = None,
    tolerance: float = 0.01,
    seconds: float = 10.0,
) -> Mapping[str, Timing]:
    """Time whole networks against each other in one runtime.

    Args:
        models: Name -> network, or the content of an ONNX file with the input "images".
        image_shape: (channels, height, width).
        reference: Name of the network that ratios refer to.
        batch: Images at once, at least 1.
        threads: Threads of ONNX Runtime, at least 1; None is one. A backend that is given has its own.
        backend: The runtime; None is ONNX Runtime.
        tolerance: Stop once every ratio's 95 % interval is within this share of it.
        seconds: Stop after this time in any case.

    Raises:
        ReferenceNotFound: No network has the reference's name.
        RangeError: A count is below 1, or threads are given beside a backend.
        CorruptFile: The runtime cannot load a model.
    """
    check_counts(batch=batch)
    runtime = _runtime(backend, threads)
    images = np.random.default_rng(0).random((batch, *image_shape), dtype=np.float32)
    runs = {name: runtime.network(model, images) for name, model in models.items()}
    return interleave(runs, reference=reference, tolerance=tolerance, seconds=seconds)


class LatencyTable:
    """Times of layer shapes on this machine, in memory and, given a path, in a JSON file.

    The file keeps what was measured through a kill and is shared by all runs; entries of other machines, runtimes or
    numbers of threads stay in it and are not used. Two processes that write at once may lose entries, which are then
    measured again.

    Args:
        path: JSON file, made if need be; None keeps the table in memory.
        threads: Threads of ONNX Runtime, at least 1; None is one. A backend that is given has its own.
        backend: The runtime; None is ONNX Runtime.

    Raises:
        CorruptFile: The file is no latency table of this format.
        RangeError: Threads are below 1, or given beside a backend.

    Example:
        >>> table = LatencyTable()
        >>> shape = LayerShape("linear", 16, 16)
        >>> table.measure([shape])
        >>> table.latency(shape).measured
        True
    """

    def __init__(self, path: Path | None = None, *, threads: int | None = None, backend: Backend | None = None) -> None:
        self.path = path
        self.backend = _runtime(backend, threads)
        self.environment = self.backend.environment
        self._yardstick_ms: float | None = None
        self._layers: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            self._merge(_read(path))

    @property
    def timed(self) -> int:
        """How many shapes were timed; those that lie between them are not counted."""
        return _timed(self._layers)

    def latency(self, shape: LayerShape) -> LayerLatency:
        """What is known about a shape.

        Raises:
            ReferenceNotFound: It was not measured; call `measure` with it first.
        """
        entry = self._layers.get(shape.key)
        if entry is None or self._yardstick_ms is None:
            raise ReferenceNotFound(
                f"the latency table has no layer {shape.key!r}. Measure it first: reverie latency build MODEL, with "
                "the widths of the study (in Python measure([...]))."
            )
        return LayerLatency(entry["ratio"] * self._yardstick_ms, entry["ratio"], entry["error"], entry["measured"])

    def milliseconds(self, shape: LayerShape) -> float:
        """Time of one layer with its addition and activation, inside a network; see `latency`."""
        return self.latency(shape).ms

    def measure(self, shapes: Iterable[LayerShape], *, on_event: Listener = silent) -> None:
        """Fill the table for these shapes; those it has are not measured again.

        Shapes that differ only in their channels are a family: `reverie.cost.sampling` says which of them to time, and
        the others follow.
        """
        missing = {shape.key: shape for shape in shapes if shape.key not in self._layers}
        families: dict[str, dict[tuple[int, int], LayerShape]] = {}
        for shape in missing.values():
            name, point = _place(shape)
            families.setdefault(name, {})[point] = shape
        while wave := [family[point] for family in families.values() for point in self._next_points(family)]:
            for start in range(0, len(wave), TOGETHER):
                self._time(wave[start : start + TOGETHER])
                self._save()
                on_event(Event("measuring layers", len(missing.keys() & self._layers.keys()), len(missing)))
        for family in families.values():
            self._fill(family)
        if missing:
            self._save()
            on_event(Event("measuring layers", len(missing), len(missing)))

    def overhead(self) -> float:
        """What one call costs that computes nothing, as a share of the yardstick's time; measured once per table."""
        if CALL not in self._layers:
            runs = {"yardstick": self.backend.layer(YARDSTICK, copies=YARDSTICK_COPIES), "empty": self.backend.empty()}
            samples = self._collected(runs, lambda samples: [samples["empty"] / samples["yardstick"]])
            self._note(CALL, samples["empty"] / samples["yardstick"])
            self._save()
        return float(self._layers[CALL]["ratio"])

    def _known(self, family: Mapping[tuple[int, int], LayerShape]) -> dict[tuple[int, int], dict[str, Any]]:
        entries = {point: self._layers.get(shape.key) for point, shape in sorted(family.items())}
        return {point: entry for point, entry in entries.items() if entry is not None}

    def _next_points(self, family: Mapping[tuple[int, int], LayerShape]) -> list[tuple[int, int]]:
        return next_points(_grid(family), {point: entry["ratio"] for point, entry in self._known(family).items()})

    def _fill(self, family: Mapping[tuple[int, int], LayerShape]) -> None:
        known = self._known(family)
        error = max(entry["error"] for entry in known.values())
        for point, ratio in fill(_grid(family), {point: entry["ratio"] for point, entry in known.items()}).items():
            self._layers[family[point].key] = {"ratio": ratio, "error": error, "measured": False}

    def _time(self, shapes: Sequence[LayerShape]) -> None:
        """Measure a few shapes, all interleaved with the yardstick."""
        extra = [int(np.clip(2e7 // shape.macs, 1, 4)) for shape in shapes]
        runs = {"yardstick": self.backend.layer(YARDSTICK, copies=YARDSTICK_COPIES)}
        for index, shape in enumerate(shapes):
            runs[f"one {index}"] = self.backend.layer(shape, copies=1)
            runs[f"many {index}"] = self.backend.layer(shape, copies=1 + extra[index])

        def ratios(samples: Samples) -> list[NDArray[np.float64]]:
            return [
                (samples[f"many {index}"] - samples[f"one {index}"]) / (count * samples["yardstick"])
                for index, count in enumerate(extra)
            ]

        samples = self._collected(runs, ratios)
        for shape, values in zip(shapes, ratios(samples), strict=True):
            self._note(shape.key, values)

    def _collected(
        self, runs: Mapping[str, Run], ratios: Callable[[Samples], Sequence[NDArray[np.float64]]]
    ) -> Samples:
        """Samples of runs, the yardstick among them, until all ratios are known."""

        def known(samples: Samples) -> bool:
            return all(median_error(x) <= max(TOLERANCE * np.median(x), NEGLIGIBLE) for x in ratios(samples))

        samples = collect(runs, enough=known, rounds=45, warmup=2, seconds=3.0, sample_ms=0.5)
        if self._yardstick_ms is None:
            self._yardstick_ms = float(np.median(samples["yardstick"]))
        return samples

    def _note(self, key: str, values: NDArray[np.float64]) -> None:
        # A layer too short to be told from none costs nothing, not less.
        ratio = max(float(np.median(values)), 0.0)
        self._layers[key] = {"ratio": ratio, "error": median_error(values), "measured": True}

    def _merge(self, stored: Mapping[str, Any]) -> None:
        mine = stored["tables"].get(self.environment)
        if mine is not None:
            self._yardstick_ms = mine["yardstick_ms"]
            self._layers = {**mine["layers"], **self._layers}

    def _save(self) -> None:
        if self.path is None:
            return
        stored: dict[str, Any] = _read(self.path) if self.path.exists() else {"format": FORMAT, "tables": {}}
        self._merge(stored)
        stored["tables"][self.environment] = {"yardstick_ms": self._yardstick_ms, "layers": self._layers}
        write_json(self.path, stored)


def _runtime(backend: Backend | None, threads: int | None) -> Backend:
    if backend is None:
        return OnnxRuntime(threads=1 if threads is None else threads)
    if threads is not None:
        raise RangeError(
            f"threads={threads} are those of ONNX Runtime, and the backend {backend.name} has its own. "
            "Give the backend its threads."
        )
    return backend


def _place(shape: LayerShape) -> tuple[str, tuple[int, int]]:
    """The family of a shape, and its place in it: (input channels, output channels)."""
    if shape.kind == "depthwise":
        point = (shape.in_channels, shape.out_channels // shape.in_channels)
        family = replace(shape, in_channels=1, out_channels=point[1], groups=1)
    elif shape.groups > 1:
        return shape.key, (shape.in_channels, shape.out_channels)
    else:
        point = (shape.in_channels, shape.out_channels)
        family = replace(shape, in_channels=1, out_channels=1)
    # Runtimes lay out channels in fours; widths that do not divide take another way through them.
    return f"{family.key} {['aligned' if width % 4 == 0 else 'odd' for width in point]}", point


def _grid(family: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    grid: dict[int, list[int]] = {}
    for width, out in sorted(family):
        grid.setdefault(out, []).append(width)
    return grid


def _timed(layers: Mapping[str, Mapping[str, Any]]) -> int:
    return sum(bool(entry["measured"]) for key, entry in layers.items() if key != CALL)


def _read(path: Path) -> dict[str, Any]:
    stored = read_json(path)
    known = isinstance(stored, dict) and stored.get("format") == FORMAT and isinstance(stored.get("tables"), dict)
    if not known or not all(map(_is_table, stored["tables"].values())):
        raise CorruptFile(
            f"{path} is no latency table of format {FORMAT}. Delete it; the layers are then measured again."
        )
    return dict(stored)


def _is_table(table: object) -> bool:
    if not isinstance(table, dict) or not isinstance(table.get("layers"), dict):
        return False
    entries = table["layers"].values()
    return isinstance(table.get("yardstick_ms"), int | float) and all(
        isinstance(entry, dict) and entry.keys() >= {"ratio", "error", "measured"} for entry in entries
    )
