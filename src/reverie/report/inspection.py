"""What a network is made of, what of it could go, and what its layers cost: a look before any change.

Cost: a second of tracing and proving, and about 50 ms per layer whose latency is measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from reverie.compress.latencies import layer_shape
from reverie.core.events import Event, Listener, silent
from reverie.core.network import ImageNetwork, as_network
from reverie.core.rng import generator
from reverie.cost.count import Count, count
from reverie.cost.latency import LatencyTable, LayerLatency
from reverie.graph import certify, probe
from reverie.graph.structure import Group, Layer, Structure
from reverie.report.table import Table
from reverie.report.text import bytes_text, count_text, milliseconds_text

__all__ = ["Inspection", "inspect", "inspection_text", "layers_table", "sites_table"]

EXAMPLE_IMAGES = 2


@dataclass(frozen=True, eq=False)
class Inspection:
    """What was found.

    Attributes:
        network: What was looked at; untouched.
        structure: Its groups of coupled units, layers and residual blocks; groups that failed a check are frozen.
        counted: Multiply-adds of one image, parameters and bytes.
        latencies: Place in `structure.layers` -> time of that layer in ONNX Runtime; empty where none was measured.
    """

    network: ImageNetwork
    structure: Structure
    counted: Count
    latencies: Mapping[int, LayerLatency]

    def to_json(self) -> dict[str, Any]:
        """All of it as one JSON value."""
        structure, counted = self.structure, self.counted
        return {
            "image_shape": list(self.network.image_shape),
            "parameters": counted.parameters,
            "size_bytes": counted.size_bytes,
            "macs": counted.macs,
            "uncounted": dict(counted.uncounted),
            "sites": [_site_json(group) for group in structure.groups],
            "layers": [_layer_json(layer, self.latencies.get(at)) for at, layer in enumerate(structure.layers)],
            "branches": [branch.module for branch in structure.branches],
            "unknown": list(structure.unknown),
        }


def inspect(model: nn.Module, *, latency: bool = True, threads: int = 1, on_event: Listener = silent) -> Inspection:
    """Find a network's sites, layers and residual blocks, and measure its layers.

    Args:
        model: Any network of images; an `ImageNetwork` says which. It is untouched.
        latency: Whether to time each layer, as it stands, in ONNX Runtime on this machine.
        threads: Threads of the runtime, at least 1.
        on_event: Called with the stages "reading the network" and "measuring layers".

    Raises:
        ShapeError: A plain module that does not say which images it takes, or that cannot run on them.
        UnsupportedOp: The network's control flow depends on the values of its input.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
        >>> found = inspect(ImageNetwork(net, image_shape=(3, 4, 4)), latency=False)
        >>> [(group.name, group.units) for group in found.structure.free], found.counted.parameters
        ([('0', 8)], 389)
    """
    network = as_network(model)
    on_event(Event("reading the network", 0, 1))
    example = torch.randn(EXAMPLE_IMAGES, *network.image_shape, generator=generator(0, "inspect"))
    structure = certify(network.body, probe(network.body, example), example)
    on_event(Event("reading the network", 1, 1))
    latencies = _latencies(structure, threads=threads, on_event=on_event) if latency else {}
    return Inspection(network, structure, count(network, example[:1]), latencies)


def inspection_text(found: Inspection) -> str:
    """The network in one sentence."""
    counted, structure = found.counted, found.structure
    shape = " x ".join(map(str, found.network.image_shape))
    return (
        f"images {shape}, {count_text(counted.parameters)} parameters, {bytes_text(counted.size_bytes)}, "
        f"{count_text(counted.macs, 'MAC')}; {len(structure.free)} of {len(structure.groups)} sites may shrink, "
        f"{len(structure.branches)} residual block{'' if len(structure.branches) == 1 else 's'} may be bypassed"
    )


def sites_table(found: Inspection) -> Table:
    """One row per site: its units, who makes and who reads them, and whether they may go."""
    columns = ("site", "units", "made by", "read by", "may shrink")
    return Table(columns, tuple(map(_site_row, found.structure.groups)), numeric=False)


def layers_table(found: Inspection) -> Table:
    """One row per layer: its shape, multiply-adds, and latency where it was measured."""
    columns = ("layer", "kind", "channels", "output", "multiply-adds")
    rows = tuple(map(_layer_row, found.structure.layers))
    if not found.latencies:
        return Table(columns, rows)
    timed = (milliseconds_text(found.latencies[at].ms) for at in range(len(rows)))
    return Table((*columns, "latency"), tuple((*row, latency) for row, latency in zip(rows, timed, strict=True)))


def _latencies(structure: Structure, *, threads: int, on_event: Listener) -> dict[int, LayerLatency]:
    shapes = {
        at: layer_shape(layer, layer.in_channels, layer.out_channels, layer.groups)
        for at, layer in enumerate(structure.layers)
    }
    table = LatencyTable(threads=threads)
    table.measure(shapes.values(), on_event=on_event)
    return {at: table.latency(shape) for at, shape in shapes.items()}


def _site_json(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "units": group.units,
        "producers": list(group.producers),
        "consumers": list(group.consumers),
        "frozen": group.frozen,
    }


def _layer_json(layer: Layer, latency: LayerLatency | None) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": layer.kind,
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "kernel": list(layer.kernel),
        "groups": layer.groups,
        "output_size": list(layer.output_size),
        "macs": layer.macs,
        "latency_ms": None if latency is None else latency.ms,
    }


def _site_row(group: Group) -> tuple[str, ...]:
    may = "yes" if group.frozen is None else f"no: {group.frozen}"
    return group.name, str(group.units), _layers(group.producers), _layers(group.consumers), may


def _layers(names: tuple[str, ...]) -> str:
    return f"{len(names)} layer{'' if len(names) == 1 else 's'}"


def _layer_row(layer: Layer) -> tuple[str, ...]:
    return (
        layer.name,
        f"{layer.kind} {'x'.join(map(str, layer.kernel))}".strip(),
        f"{layer.in_channels} to {layer.out_channels}",
        " x ".join(map(str, layer.output_size)),
        count_text(layer.macs, "MAC"),
    )
