"""Gates of each image by itself: derivatives image by image, in the time of one pass of the batch.

A gate in the weights is one for all images, so its derivative adds up over the batch. Here the same gate stands in the
activations that the weights multiply, which is the same function, with a factor per image.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reverie.compress.importance.gates import gated_slices
from reverie.core.tap import tap
from reverie.graph.structure import Slice, Structure

__all__ = ["ImageGates"]

# Group and the rows of a layer's channels that are its units.
Gated = list[tuple[str, tuple[int, ...]]]
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


class ImageGates:
    """A network's body whose units can be weighted, differently for each image.

    Args:
        body: Untouched; a copy is kept in evaluation mode.
        structure: Of `body`.
        example: (n, ...) input with n above 1, to see what the layers see.

    Attributes:
        possible: Whether all that is gated are weights of convolutions and linear layers that see image by image, and
            not windows of them; else use `Gates`.

    Example:
        >>> from reverie.graph import probe
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> gates = ImageGates(net, probe(net, torch.zeros(1, 3)), torch.zeros(2, 3))
        >>> open_ = gates.ones(5)
        >>> open_["0"].shape
        torch.Size([5, 4])
        >>> torch.equal(gates(torch.ones(5, 3), open_), net(torch.ones(5, 3)))
        True
    """

    def __init__(self, body: nn.Module, structure: Structure, example: Tensor) -> None:
        self.body = copy.deepcopy(body).eval().requires_grad_(False)
        self.units = {group.name: group.units for group in structure.free}
        modules = dict(self.body.named_modules())
        self.possible = True
        # Module -> (group, rows of its channels, whether these are its outputs).
        self._gated: dict[str, dict[tuple[str, tuple[int, ...], bool], None]] = {}
        for group in structure.free:
            for one in gated_slices(group):
                name, _, leaf = one.tensor.rpartition(".")
                if leaf not in ("weight", "bias") or not _fits(modules.get(name), one):
                    self.possible = False
                    continue
                makes = one.role == "produce"
                self._gated.setdefault(name, {})[group.name, tuple(one.rows(range(group.units))), makes] = None
        if self._gated and self.possible:
            with tap(self.body, list(self._gated)) as seen, torch.no_grad():
                self.body(example)
            self.possible = all(len(reading.input) == len(example) for reading in seen.values())

    def ones(self, images: int) -> dict[str, Tensor]:
        """Gates that change nothing: group -> (images, units)."""
        return {name: torch.ones(images, units) for name, units in self.units.items()}

    def __call__(self, inputs: Tensor, gates: Mapping[str, Tensor]) -> Tensor:
        """Outputs with every unit of every image weighted by its gate; a group that is not named is whole."""
        handles = []
        try:
            for name, gated in self._gated.items():
                module = self.body.get_submodule(name)
                read = [(group, rows) for group, rows, makes in gated if not makes and group in gates]
                made = [(group, rows) for group, rows, makes in gated if makes and group in gates]
                if read:
                    handles.append(module.register_forward_pre_hook(_before(read, gates)))
                if made:
                    handles.append(module.register_forward_hook(_after(made, gates)))
            outputs: Tensor = self.body(inputs)
        finally:
            for handle in handles:
                handle.remove()
        return outputs


def _fits(module: nn.Module | None, one: Slice) -> bool:
    if isinstance(module, nn.Linear):
        return one.dim == (0 if one.role == "produce" else 1)
    if isinstance(module, Convolution):
        # A convolution in groups reads a unit at rows of its weights that are not those of its input.
        return one.dim == 0 if one.role == "produce" else one.dim == 1 and module.groups == 1
    return False


def _weighted(values: Tensor, gated: Gated, gates: Mapping[str, Tensor], dim: int) -> Tensor:
    factor = torch.ones(len(values), values.shape[dim]).to(values)
    for group, rows in gated:
        spread = gates[group].repeat_interleave(len(rows) // gates[group].shape[1], dim=1).to(values)
        factor = factor.index_copy(1, torch.tensor(rows), spread)
    sides = [-1 if at == dim % values.ndim else 1 for at in range(1, values.ndim)]
    return values * factor.view(len(values), *sides)


def _dim(module: nn.Module) -> int:
    return -1 if isinstance(module, nn.Linear) else 1


def _before(gated: Gated, gates: Mapping[str, Tensor]) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_weighted(inputs[0], gated, gates, _dim(module)), *inputs[1:])

    return hook


def _after(gated: Gated, gates: Mapping[str, Tensor]) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    def hook(module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return _weighted(output, gated, gates, _dim(module))

    return hook
