"""A small network that draws: codes to images in [0, 1], with a class in the code or without.

Cost: about a million multiplications per pixel; less than most networks that are dreamed of.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CODE", "ConditionalGenerator"]

CODE = 64
WIDTH = 64


class ConditionalGenerator(nn.Module):
    """Codes and classes -> images in [0, 1]: a linear map to a quarter of the size, twice doubled by convolutions.

    Shapes: codes (n, 64 + k), the class as a one-hot tail -> (n, c, h, w).

    Example:
        >>> ConditionalGenerator(classes=3, image_shape=(1, 10, 12))(torch.zeros(2, 67)).shape
        torch.Size([2, 1, 10, 12])
    """

    def __init__(self, *, classes: int, image_shape: Sequence[int], width: int = WIDTH) -> None:
        super().__init__()
        channels, self.height, self.width = image_shape
        self.start = (width, math.ceil(self.height / 4), math.ceil(self.width / 4))
        self.map = nn.Linear(CODE + classes, math.prod(self.start))
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width // 2, 3, padding=1)
        self.norms = nn.ModuleList([nn.GroupNorm(8, width), nn.GroupNorm(8, width), nn.GroupNorm(8, width // 2)])
        self.last = nn.Conv2d(width // 2, channels, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        """Images of codes."""
        x = self.norms[0](self.map(codes).view(-1, *self.start))
        x = F.leaky_relu(self.norms[1](self.first(F.interpolate(x, scale_factor=2.0))), 0.2)
        x = F.leaky_relu(self.norms[2](self.second(F.interpolate(x, scale_factor=2.0))), 0.2)
        return torch.sigmoid(2 * self.last(x))[..., : self.height, : self.width]
