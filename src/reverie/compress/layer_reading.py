"""What convolutions and linear layers read and give, as the rows and columns of a matrix product."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.counts import check_counts
from reverie.core.errors import RangeError
from reverie.core.network import ImageNetwork
from reverie.core.tap import tap

__all__ = ["Fittable", "check_fit", "fits", "fittable", "output_rows", "read_layers", "rows_read"]

Fittable = nn.Conv2d | nn.Linear


def fits(network: ImageNetwork, name: str) -> bool:
    """Whether a layer is one matrix product: a linear layer, or a convolution without groups, padded with zeros."""
    module = dict(network.body.named_modules()).get(name)
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, nn.Linear)


def fittable(network: ImageNetwork, name: str) -> Fittable:
    """The layer of that name, for which `fits` holds."""
    module = network.body.get_submodule(name)
    if not isinstance(module, nn.Conv2d | nn.Linear):
        raise TypeError(f"{name} is no layer that can be fitted; the caller checks")
    return module


def check_fit(*, ridge: float, **counts: int) -> None:
    """Refuse what nothing can be fitted with, by the name of the caller's argument.

    Raises:
        RangeError: The ridge is not above 0, or a count below 1.
    """
    if not ridge > 0:
        raise RangeError(f"ridge must be above 0, got {ridge}")
    check_counts(**counts)


def read_layers(network: ImageNetwork, names: Sequence[str], pixels: Tensor) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Input and output of some layers, at least one, of their last call."""
    with tap(network.body, list(names)) as seen:
        network(pixels)
    return {name: (reading.input.detach(), reading.output.detach()) for name, reading in seen.items()}


def rows_read(layer: Fittable, x: Tensor) -> Tensor:
    """What the weights of a layer multiply: (n, positions, inputs), with a 1 at the end where there is a bias."""
    if isinstance(layer, nn.Conv2d):
        if isinstance(layer.padding, str):
            raise TypeError("padding by name is left out by the caller")
        found = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride).transpose(1, 2)
    else:
        found = x.reshape(len(x), -1, x.shape[-1])
    if layer.bias is not None:
        found = torch.cat([found, torch.ones_like(found[..., :1])], dim=-1)
    return found


def output_rows(layer: Fittable, output: Tensor) -> Tensor:
    """(n, positions, outputs)."""
    if isinstance(layer, nn.Conv2d):
        return output.flatten(2).transpose(1, 2)
    return output.reshape(len(output), -1, output.shape[-1])
