"""Measured milliseconds in ONNX Runtime: of single layers that need not exist yet, and of whole networks.

What for: the allocator needs the time of every layer at every pair of widths before any network is cut; the loop
around it needs the true time of the network it chose. Both are measured here, beside a reference, and kept as ratios.

Cost: about 50 ms for a layer shape that is not in the table yet. Where time is a straight line between two input
widths, the widths between them are not measured. A table in a file is filled once per machine.

Reference: Shen et al., 2022, arXiv:2210.06659, section 3, for tables of measured layers. Differs: both widths vary,
a layer is timed with its addition and activation as the runtime fuses them, and only where time is not a line.
"""

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from reverie.core.errors import CorruptFile, ReferenceNotFound
from reverie.core.events import Event, Listener, silent
from reverie.core.store import read_json, write_json
from reverie.cost.layer_graph import LayerGraph, LayerShape, layer_graph
from reverie.cost.onnx import INPUT, bound_run, session
from reverie.cost.timing import Run, Samples, Timing, collect, interleave, median_error

__all__ = ["LatencyTable", "LayerLatency", "measure_networks"]

FORMAT = 1
# About half a millisecond of the commonest layer: what every layer is timed beside.
YARDSTICK = LayerShape("conv", 64, 64, (3, 3), (1, 1), (1, 1), (1, 1), input_size=(14, 14), activation="relu")
YARDSTICK_COPIES = 4
TOGETHER = 8
# A layer is known once the interval of its median is within 3 %, or within 1/2000 of the yardstick.
TOLERANCE, NEGLIGIBLE = 0.03, 5e-4
# Time between two widths counts as a line where its middle is within this share of it.
STRAIGHT = 0.04


@dataclass(frozen=True)
class LayerLatency:
    """How long one layer takes inside a network.

    Attributes:
        ms: Milliseconds: `ratio` times the yardstick's time when the table was begun.
        ratio: Time as a share of the yardstick's, measured round by round; what the table keeps.
        error: Half the width of the 95 % interval of `ratio`; of an interpolated value, that of its neighbors.
        measured: Whether this very shape was timed; else it lies on a line between two that were.
    """

    ms: float
    ratio: float
    error: float
    measured: bool


def measure_networks(
    models: Mapping[str, bytes],
    image_shape: Sequence[int],
    *,
    reference: str = "teacher",
    batch: int = 1,
    threads: int = 1,
    tolerance: float = 0.01,
    seconds: float = 10.0,
) -> Mapping[str, Timing]:
    """Time whole networks against each other in ONNX Runtime.

    Args:
        models: Name -> content of an ONNX file with the input "images".
        image_shape: (channels, height, width).
        reference: Name of the network that ratios refer to.
        batch: Images at once.
        threads: Threads of the runtime.
        tolerance: Stop once every ratio's 95 % interval is within this share of it.
        seconds: Stop after this time in any case.

    Raises:
        ReferenceNotFound: No network has the reference's name.
        CorruptFile: The runtime cannot load a model.
    """
    images = np.random.default_rng(0).random((batch, *image_shape), dtype=np.float32)
    runs = {name: bound_run(session(model, threads=threads), {INPUT: images}) for name, model in models.items()}
    return interleave(runs, reference=reference, tolerance=tolerance, seconds=seconds)


class LatencyTable:
    """Times of layer shapes on this machine, in memory and, given a path, in a JSON file.

    The file keeps what was measured through a kill and is shared by all runs; entries of other machines, runtimes or
    numbers of threads stay in it and are not used. Two processes that write at once may lose entries, which are then
    measured again.

    Args:
        path: JSON file, made if need be; None keeps the table in memory.
        threads: Threads of the runtime.

    Raises:
        CorruptFile: The file is no latency table of this format.

    Example:
        >>> table = LatencyTable()
        >>> shape = LayerShape("linear", 16, 16)
        >>> table.measure([shape])
        >>> table.latency(shape).measured
        True
    """

    def __init__(self, path: Path | None = None, *, threads: int = 1) -> None:
        self.path = path
        self.threads = threads
        self.environment = f"onnxruntime {onnxruntime.__version__}, float32, {threads} threads, {_machine()}"
        self._yardstick_ms: float | None = None
        self._layers: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            self._merge(_read(path))

    def latency(self, shape: LayerShape) -> LayerLatency:
        """What is known about a shape.

        Raises:
            ReferenceNotFound: It was not measured; call `measure` with it first.
        """
        entry = self._layers.get(shape.key)
        if entry is None or self._yardstick_ms is None:
            raise ReferenceNotFound(f"the latency table has no layer {shape.key!r}. Call measure([...]) with it first.")
        return LayerLatency(entry["ratio"] * self._yardstick_ms, entry["ratio"], entry["error"], entry["measured"])

    def milliseconds(self, shape: LayerShape) -> float:
        """Time of one layer with its addition and activation, inside a network; see `latency`."""
        return self.latency(shape).ms

    def measure(self, shapes: Iterable[LayerShape], *, on_event: Listener = silent) -> None:
        """Fill the table for these shapes; those it has are not measured again.

        Shapes that differ only in their input channels lie on one line: its ends are timed, then its middle, and only
        where the middle is off the line between the ends, its halves in the same way. The time of a runtime that adds
        up input channels is straight between multiples of its block, and bends where a cache is full.
        """
        missing = {shape.key: shape for shape in shapes if shape.key not in self._layers}
        lines: dict[str, dict[int, LayerShape]] = {}
        for shape in missing.values():
            lines.setdefault(_line_key(shape), {})[shape.in_channels] = shape
        while wave := [line[width] for line in lines.values() for width in self._next_widths(line)]:
            for start in range(0, len(wave), TOGETHER):
                self._time(wave[start : start + TOGETHER])
                self._save()
                on_event(Event("measuring layers", len(missing.keys() & self._layers.keys()), len(missing)))
        for line in lines.values():
            self._interpolate(line)
        if missing:
            self._save()
            on_event(Event("measuring layers", len(missing), len(missing)))

    def width_step(self) -> int:
        """The number of channels that this runtime computes at once: only its multiples are worth choosing.

        The last widths up to 64 output channels of one convolution take the time of 64 as far as the block goes, so
        the largest of 32, 16, 8, 4, 2 that does is the step; 1 where every channel counts.
        """
        full = 64
        shapes = {step: replace(YARDSTICK, out_channels=full - step + 1) for step in (32, 16, 8, 4, 2, 1)}
        self.measure(shapes.values())
        whole = self.latency(shapes[1]).ratio
        flat = (step for step, shape in shapes.items() if abs(self.latency(shape).ratio / whole - 1) <= 2 * STRAIGHT)
        return next(flat)

    def _known(self, line: Mapping[int, LayerShape]) -> dict[int, dict[str, Any]]:
        entries = {width: self._layers.get(shape.key) for width, shape in sorted(line.items())}
        return {width: entry for width, entry in entries.items() if entry is not None}

    def _next_widths(self, line: Mapping[int, LayerShape]) -> list[int]:
        return _bends(sorted(line), {width: entry["ratio"] for width, entry in self._known(line).items()})

    def _interpolate(self, line: Mapping[int, LayerShape]) -> None:
        known = self._known(line)
        at = list(known)
        for width in line.keys() - known.keys():
            ratio, error = (float(np.interp(width, at, [known[w][part] for w in at])) for part in ("ratio", "error"))
            self._layers[line[width].key] = {"ratio": ratio, "error": error, "measured": False}

    def _time(self, shapes: Sequence[LayerShape]) -> None:
        """Measure a few shapes, all interleaved with the yardstick."""
        extra = [int(np.clip(2e7 // shape.macs, 1, 4)) for shape in shapes]
        runs = {"yardstick": self._run(layer_graph(YARDSTICK, copies=YARDSTICK_COPIES))}
        for index, shape in enumerate(shapes):
            runs[f"one {index}"] = self._run(layer_graph(shape, copies=1))
            runs[f"many {index}"] = self._run(layer_graph(shape, copies=1 + extra[index]))

        def ratios(samples: Samples) -> list[NDArray[np.float64]]:
            return [
                (samples[f"many {index}"] - samples[f"one {index}"]) / (count * samples["yardstick"])
                for index, count in enumerate(extra)
            ]

        def known(samples: Samples) -> bool:
            return all(median_error(x) <= max(TOLERANCE * np.median(x), NEGLIGIBLE) for x in ratios(samples))

        samples = collect(runs, enough=known, rounds=45, warmup=2, seconds=3.0, sample_ms=0.5)
        if self._yardstick_ms is None:
            self._yardstick_ms = float(np.median(samples["yardstick"]))
        for shape, values in zip(shapes, ratios(samples), strict=True):
            # A layer too short to be told from none costs nothing, not less.
            ratio = max(float(np.median(values)), 0.0)
            self._layers[shape.key] = {"ratio": ratio, "error": median_error(values), "measured": True}

    def _run(self, graph: LayerGraph) -> Run:
        return bound_run(session(graph.model, threads=self.threads), graph.feeds)

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


def _bends(widths: Sequence[int], known: Mapping[int, float]) -> list[int]:
    """Which of the widths to measure next: the ends, then the middles of spans that are not known to be straight."""
    first, last = widths[0], widths[-1]
    if unknown := [width for width in dict.fromkeys((first, last)) if width not in known]:
        return unknown
    if len(widths) <= 2:
        return []
    middle = len(widths) // 2
    width = widths[middle]
    if width not in known:
        return [width]
    expected = known[first] + (known[last] - known[first]) * (width - first) / (last - first)
    if abs(expected - known[width]) <= max(STRAIGHT * known[width], 2 * NEGLIGIBLE):
        return []
    return _bends(widths[: middle + 1], known) + _bends(widths[middle:], known)


def _line_key(shape: LayerShape) -> str:
    """Shapes of equal keys differ only in the number of input channels, of which the time is piecewise linear."""
    if shape.kind == "depthwise":
        width, multiplier = shape.in_channels, shape.out_channels // shape.in_channels
        line = replace(shape, in_channels=1, out_channels=multiplier, groups=1).key
    elif shape.groups > 1:
        return shape.key
    else:
        width, line = shape.in_channels, replace(shape, in_channels=1).key
    # Runtimes lay out channels in fours; widths that do not divide take another way through them.
    return f"{line} {'aligned' if width % 4 == 0 else 'odd'}"


def _read(path: Path) -> dict[str, Any]:
    stored = read_json(path)
    if not isinstance(stored, dict) or stored.get("format") != FORMAT or not isinstance(stored.get("tables"), dict):
        raise CorruptFile(
            f"{path} is no latency table of format {FORMAT}. Delete it; the layers are then measured again."
        )
    return stored


def _machine() -> str:
    """The processor's name and cores: what the times of a layer depend on, and no host name."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{platform.machine()} {name} of {os.cpu_count()} cores"
