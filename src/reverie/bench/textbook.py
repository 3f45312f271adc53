"""Dreaming as a textbook has it, to compare with: raw sums of norms, one shift and one coin for the whole batch.

Settings are the published ones for CIFAR-10: statistics 10, total variation 2.5e-5, norm 3e-8, Adam at 0.05, no clip.
Source: Yin et al. 2020, arXiv:1912.08795, section 4.2.
"""

import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.network import ImageNetwork
from reverie.core.rng import generator

__all__ = ["textbook_dreams"]

STATISTICS, VARIATION, NORM, RATE = 10.0, 2.5e-5, 3e-8, 0.05
SHIFT = 2


def textbook_dreams(network: ImageNetwork, targets: Tensor, *, seconds: float, seed: int) -> Tensor:
    """As many steps as fit into a time, on all images at once.

    Shapes: targets (n,) -> images (n, c, h, w) uint8.

    Args:
        network: A copy that may be changed: hooks stay on it.
        targets: The class of each image.
        seconds: Wall clock; at least one step is made.
        seed: Of the noise, the shifts and the coins.
    """
    distances: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(_reader(distances))
    rng = generator(seed, "textbook")
    network.eval()
    pixels = torch.randn(len(targets), *network.image_shape, generator=rng).requires_grad_()
    adam = torch.optim.Adam([pixels], lr=RATE)
    body, began = network.body, time.monotonic()
    while True:
        distances.clear()
        shifts: Sequence[int] = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=rng).tolist()
        seen = torch.roll(pixels, tuple(shifts), (2, 3))
        seen = seen.flip(3) if float(torch.rand((), generator=rng)) < 0.5 else seen
        loss = F.cross_entropy(body(seen), targets) + STATISTICS * torch.stack(distances).sum()
        loss = loss + VARIATION * _variation(seen) + NORM * seen.norm()
        adam.zero_grad()
        network.zero_grad()
        loss.backward()
        adam.step()
        if time.monotonic() - began > seconds:
            break
    images = (pixels.detach() * network.std + network.mean).clamp(0, 1)
    return (images * 255).round().to(torch.uint8)


def _reader(distances: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def read(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        stored_mean, stored = module.get_buffer("running_mean"), module.get_buffer("running_var")
        distances.append((variance - stored).norm() + (mean - stored_mean).norm())

    return read


def _variation(x: Tensor) -> Tensor:
    diagonal, other = x[..., 1:, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, 1:]
    across, down = x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]
    return across.norm() + down.norm() + diagonal.norm() + other.norm()
