"""Networks of a few weights for the command line's route by factory."""

import torch
from torch import Tensor, nn


def _seeded(network: nn.Module) -> nn.Module:
    """Weights that are the same every time, and answers that differ clearly from image to image."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                scale = 5.0 if parameter.ndim == 2 else 1.0
                parameter.copy_(scale * torch.randn(parameter.shape, generator=rng) / parameter[0].numel() ** 0.5)
    return network


def flat(axes: int = 2, channels: int = 3, answers: int = 4, side: int = 8) -> nn.Module:
    """A convolution, batch normalization and a linear map, over one, two or three axes."""
    convolution = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[axes]
    norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[axes]
    return _seeded(
        nn.Sequential(
            convolution(channels, 4, 3, padding=1),
            norm(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * side**axes, answers),
        )
    )


def pooled() -> nn.Module:
    """Takes images of any size, and normalizes nothing."""
    return _seeded(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 4))
    )


def maps() -> nn.Module:
    """The class of a pixel is its brightest channel."""
    network = nn.Conv2d(3, 3, 1, bias=False)
    nn.init.dirac_(network.weight)
    network.weight.data *= 10
    return network


class Drawing(nn.Module):
    """Codes (2, 1, 1) -> images (1, 4, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(2, 16)
        _seeded(self)

    def forward(self, codes: Tensor) -> Tensor:
        return torch.sigmoid(self.map(codes.flatten(1))).view(-1, 1, 4, 4)


class ReadTogether(nn.Module):
    """A block whose last layer reads several groups, all of which a bypass takes along."""

    def __init__(self, *, channels: int, width: int, parts: int, inner: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.block, self.linear = _Around(width, parts, inner), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.block(self.stem(x).relu()).relu().mean((2, 3)))


class _Around(nn.Module):
    def __init__(self, width: int, parts: int, inner: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Conv2d(width, inner, 3, padding=1) for _ in range(parts))
        self.last = nn.Conv2d(parts * inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(torch.cat([part(x).relu() for part in self.parts], 1))
