"""Low rank as an option: a layer becomes two in a row, with few channels between them.

What for: a layer whose matrix is nearly of low rank keeps its answers with fewer multiply-adds, and, unlike a cut,
leaves the widths of its neighbors alone. Whether that is faster than fewer channels is the allocator's question.

Cost: one pass of an example per layer whose module turns out to be no plain layer in its network; for evidence, one
pass of the images per rank, as for any option.

Source: Denton et al., 2014, arXiv:1404.0736, and Zhang et al., 2016, arXiv:1505.06798, for layers of trained networks
by singular value decomposition. Differs: weights alone decide here, no responses, and no layer is fitted to the error
of those before it; lessons come after.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from reverie.core.edit import Edit, Factorize, Record, factorable, replay
from reverie.graph.structure import Layer, Structure

__all__ = ["Ranks"]

# Ranks worth choosing are the widths worth choosing: a runtime computes channels sixteen at a time.
STEP, MOST = 16, 6
# Relative, of the logits: what a factorization of full rank may differ by in single precision.
ROUNDING = 1e-3


class Ranks:
    """The kind "rank". Numbers are ranks, in multiples of 16; the highest stands for the layer as it is."""

    def levels(self, body: nn.Module, structure: Structure, example: Tensor) -> dict[str, tuple[int, ...]]:
        """Ranks with fewer multiply-adds than the layer, for layers that can be factorized in this network."""
        modules, calls = dict(body.named_modules()), [layer.name for layer in structure.layers]
        found = {}
        for layer in structure.layers:
            plain = factorable(modules[layer.name]) if layer.name in modules else None
            if plain is None or calls.count(layer.name) > 1:
                continue
            rows, columns = plain.weight.flatten(1).shape
            fewer = range((rows * columns - 1) // (rows + columns) // STEP * STEP, 0, -STEP)
            chosen = fewer[:: max(1, math.ceil(len(fewer) / MOST))]
            if chosen:
                found[layer.name] = (min(rows, columns), *chosen)
        return {
            name: found[name] for name in _replaceable(body, {name: one[0] for name, one in found.items()}, example)
        }

    def cost(
        self,
        cost: Callable[[Layer, int, int, int], float],
        layer: Layer,
        level: int,
        in_channels: int,
        out_channels: int,
    ) -> float:
        """Of a layer with the kernel and of a pointwise one; of the layer as it is where it has no higher rank."""
        if level >= min(in_channels * math.prod(layer.kernel), out_channels):
            return cost(layer, in_channels, out_channels, 1)
        first = replace(layer, adds=False, activation=None)
        ones = (1,) * len(layer.kernel)
        positions = layer.macs // (layer.in_channels * layer.out_channels * math.prod(layer.kernel))
        second = replace(
            layer,
            in_channels=level,
            kernel=ones,
            stride=ones,
            padding=(0,) * len(ones),
            dilation=ones,
            input_size=layer.output_size,
            macs=positions * level * layer.out_channels,
        )
        return cost(first, in_channels, level, 1) + cost(second, level, out_channels, 1)

    def edit(self, body: nn.Module, layer: str, level: int) -> Edit | None:
        """Factorize, unless the layer was cut to so few channels that it has no higher rank."""
        plain = factorable(body.get_submodule(layer))
        if plain is None or level >= min(plain.weight.flatten(1).shape):
            return None
        return Factorize(layer, level)


def _replaceable(body: nn.Module, ranks: Mapping[str, int], example: Tensor) -> list[str]:
    """The layers that two stand in for: not those that share their weight, have a hook, or are read from outside."""
    if not ranks:
        return []
    owners: dict[int, int] = {}
    for _, tensor in body.named_parameters(remove_duplicate=False):
        owners[id(tensor)] = owners.get(id(tensor), 0) + 1
    alone = [name for name in ranks if owners[id(body.get_submodule(name).weight)] == 1]
    with torch.no_grad():
        wanted = body(example)
    if _same(body, {name: ranks[name] for name in alone}, example, wanted):
        return alone
    return [name for name in alone if _same(body, {name: ranks[name]}, example, wanted)]


def _same(body: nn.Module, ranks: Mapping[str, int], example: Tensor, wanted: Tensor) -> bool:
    """Whether the network with these layers in two, at full rank, still runs and answers as before."""
    whole = replay(Record(tuple(Factorize(name, rank) for name, rank in ranks.items())), body)
    try:
        with torch.no_grad():
            given = whole(example)
    except Exception:  # noqa: BLE001 - whatever the network's own code says of a layer that is now two
        return False
    return bool((given - wanted).abs().max() <= ROUNDING * wanted.abs().max().clamp(min=1e-12))
