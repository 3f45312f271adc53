"""From a network's layers to the latency table's shapes, and from its costs to the allocator's columns."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from reverie.compress.kinds import LayerCost, offered
from reverie.compress.sites import Sites, build_problem, find_sites
from reverie.core.budget import Quantity
from reverie.core.events import Listener, silent
from reverie.core.network import ImageNetwork
from reverie.cost.latency import LatencyTable
from reverie.cost.layer_graph import ACTIVATIONS, Kind, LayerShape
from reverie.graph import probe
from reverie.graph.structure import Layer

__all__ = ["Built", "build_table", "bytes_at", "cost_columns", "layer_shape", "macs_at", "measure_layers"]


@dataclass(frozen=True)
class Built:
    """How a table was filled for a network.

    Attributes:
        shapes: Layers at pairs of widths that the allocator may ask for, equal ones once.
        timed: Those that were timed in this call.
        seconds: How long that took.
    """

    shapes: int
    timed: int
    seconds: float


def build_table(
    network: ImageNetwork,
    table: LatencyTable,
    *,
    step: int = 16,
    most: int | None = 16,
    offer: Sequence[str] = (),
    on_event: Listener = silent,
) -> Built:
    """Time everything that an allocation of this network may ask for; what the table has is not timed again.

    Args:
        network: Untouched.
        table: Of the runtime in question.
        step: As for `find_sites`.
        most: As for `find_sites`.
        offer: Kinds of options beside widths and bypassed blocks, as for `compress`.
        on_event: Called with the stage "measuring layers".

    Raises:
        ReferenceNotFound: There is no such kind.
        UnsupportedOp: The network's control flow depends on the values of its input.
    """
    began = time.monotonic()
    example = torch.zeros(2, *network.image_shape)
    structure = probe(network.body, example)
    sites = find_sites(structure, step=step, most=most, more=offered(offer, network.body, structure, example))
    known = table.timed
    shapes = measure_layers(sites, table, on_event=on_event)
    return Built(shapes, table.timed - known, time.monotonic() - began)


def layer_shape(layer: Layer, in_channels: int, out_channels: int, groups: int) -> LayerShape:
    """The shape to time for a layer at other widths."""
    # A depthwise layer whose groups shrink with its channels stays one; a group that keeps a single channel does too.
    depthwise = layer.kind == "depthwise" or (layer.kind == "conv" and groups == in_channels > 1)
    kind: Kind = "depthwise" if depthwise else layer.kind
    shape = LayerShape(
        kind,
        in_channels,
        out_channels,
        layer.kernel,
        layer.stride,
        layer.padding,
        layer.dilation,
        groups,
        layer.input_size,
        adds=layer.adds,
        activation=layer.activation if layer.activation in ACTIVATIONS else None,
    )
    if kind != "transposed":
        return shape
    more = zip(layer.output_size, shape.output_size, strict=True)
    return replace(shape, output_padding=tuple(side - made for side, made in more))


def macs_at(layer: Layer, in_channels: int, out_channels: int, groups: int) -> float:
    """Multiply-adds per image of a layer at other widths."""
    full = layer.in_channels * layer.out_channels / layer.groups
    return layer.macs * (in_channels * out_channels / groups) / full


def bytes_at(layer: Layer, in_channels: int, out_channels: int, groups: int) -> float:
    """Bytes of a layer's weights, fp32, at other widths."""
    return 4.0 * in_channels * out_channels / groups * _kernel_numbers(layer)


def measure_layers(sites: Sites, table: LatencyTable, *, on_event: Listener) -> int:
    """Time every layer at every pair of widths that the allocator may ask for; how many these are."""
    wanted: dict[LayerShape, None] = {}

    def note(layer: Layer, in_channels: int, out_channels: int, groups: int) -> float:
        wanted[layer_shape(layer, in_channels, out_channels, groups)] = None
        return 0.0

    build_problem(sites, {}, {"latency": note})
    table.measure(wanted, on_event=on_event)
    return len({shape.key for shape in wanted})


def cost_columns(table: LatencyTable | None, quantities: Mapping[Quantity, object]) -> dict[str, LayerCost]:
    """Multiply-adds and bytes, and latency where that has a budget: from the table, which has been measured for it.

    What is only counted costs nothing to know, and a study is asked for other budgets later.
    """
    columns: dict[str, LayerCost] = {"macs": macs_at, "size": bytes_at}
    if "latency" in quantities and table is not None:
        columns["latency"] = lambda *at: table.milliseconds(layer_shape(*at))
    return columns


def _kernel_numbers(layer: Layer) -> int:
    numbers = 1
    for side in layer.kernel:
        numbers *= side
    return numbers
