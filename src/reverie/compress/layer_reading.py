"""What convolutions and linear layers read and give, as the rows and columns of a matrix product."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.counts import check_counts
from reverie.core.errors import RangeError
from reverie.core.network import ImageNetwork
from reverie.core.rng import generator
from reverie.core.tap import tap

__all__ = ["Fittable", "check_fit", "drawn_rows", "fits", "fittable", "read_layers", "rows_read"]

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


def rows_read(layer: Fittable, x: Tensor, at: Tensor) -> Tensor:
    """What weights multiply at output positions: (n, positions, inputs), with a 1 at the end where there is a bias."""
    found = _windows(layer, x, at) if isinstance(layer, nn.Conv2d) else x.reshape(len(x), -1, x.shape[-1])[:, at]
    if layer.bias is not None:
        found = torch.cat([found, torch.ones_like(found[..., :1])], dim=-1)
    return found


def _windows(layer: nn.Conv2d, x: Tensor, at: Tensor) -> Tensor:
    """(n, positions, channels * height * width of the kernel), in the order of the weight's dimensions.

    Only the positions that are looked at are copied: an unfolded image is as large as the kernel times the image.
    """
    if isinstance(layer.padding, str):
        raise TypeError("padding by name is left out by the caller")
    x = F.pad(x, (layer.padding[1],) * 2 + (layer.padding[0],) * 2)
    sides = zip(x.shape[2:], layer.kernel_size, layer.dilation, layer.stride, strict=True)
    _, wide = ((side - dilation * (kernel - 1) - 1) // stride + 1 for side, kernel, dilation, stride in sides)
    rows, columns = (
        starts[:, None] * stride + torch.arange(kernel, device=at.device) * dilation
        for starts, kernel, dilation, stride in zip(
            (at // wide, at % wide), layer.kernel_size, layer.dilation, layer.stride, strict=True
        )
    )
    return x[:, :, rows[:, :, None], columns[:, None, :]].transpose(1, 2).flatten(2)


def drawn_rows(
    layer: Fittable, x: Tensor, output: Tensor, *, most: int, seed: int, name: str, index: int
) -> tuple[Tensor, Tensor]:
    """What a layer reads and gives at output positions of a batch drawn at random: (n * positions, inputs), and so on.

    Which ones is decided by the seed, the layer's name and the batch's index.
    """
    if isinstance(layer, nn.Conv2d):
        given = output.flatten(2).transpose(1, 2)
    else:
        given = output.reshape(len(output), -1, output.shape[-1])
    at = torch.randperm(given.shape[1], generator=generator(seed, "positions", name, index))[:most].to(x.device)
    return rows_read(layer, x, at).flatten(0, 1), given[:, at].flatten(0, 1)
