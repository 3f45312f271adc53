"""Small networks that are a picture, a scene or a video: coordinates in, colors out.

What for: kinds of networks that `reverie bench coverage` and the tests cut. Only PyTorch is imported, so a fresh
process without Reverie can build them from this file alone.

Sources: SIREN, Sitzmann et al. 2020, arXiv:2006.09661; NeRF, Mildenhall et al. 2020, arXiv:2003.08934; hash grids,
Mueller et al. 2022, arXiv:2201.05989; NeRV, Chen et al. 2021, arXiv:2110.13903.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["HashGrid", "Nerf", "Siren", "VideoDecoder"]


class Siren(nn.Module):
    """Coordinates to colors through sines.

    Shapes: coordinates (n, 2) -> colors (n, 3).
    """

    def __init__(self, width: int = 24, depth: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2 if i == 0 else width, width) for i in range(depth))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Colors."""
        for layer in self.layers:
            x = torch.sin(3.0 * layer(x))
        return self.head(x)


class Nerf(nn.Module):
    """Position and direction to density and color; the position enters again halfway.

    Shapes: rays (n, 6) -> (n, 4).
    """

    def __init__(self, width: int = 24, bands: int = 3) -> None:
        super().__init__()
        self.bands = bands
        seen = 3 + 6 * bands
        self.early = nn.ModuleList(nn.Linear(seen if i == 0 else width, width) for i in range(3))
        self.late = nn.ModuleList(nn.Linear(width + seen if i == 0 else width, width) for i in range(2))
        self.density, self.feature = nn.Linear(width, 1), nn.Linear(width, width)
        self.view, self.color = nn.Linear(width + seen, width // 2), nn.Linear(width // 2, 3)

    def encoded(self, x: Tensor) -> Tensor:
        """The vector and its waves at doubling frequencies."""
        parts = [x]
        for band in range(self.bands):
            parts += [torch.sin(2.0**band * x), torch.cos(2.0**band * x)]
        return torch.cat(parts, -1)

    def forward(self, rays: Tensor) -> Tensor:
        """Color and density."""
        position, direction = (self.encoded(part) for part in torch.split(rays, [3, 3], -1))
        x = position
        for layer in self.early:
            x = F.relu(layer(x))
        x = torch.cat([position, x], -1)
        for layer in self.late:
            x = F.relu(layer(x))
        colored = F.relu(self.view(torch.cat([self.feature(x), direction], -1)))
        return torch.cat([self.color(colored).sigmoid(), F.relu(self.density(x))], -1)


class VideoDecoder(nn.Module):
    """A time becomes a frame: a perceptron, then blocks that shuffle channels into space.

    Shapes: times (n, 1) -> frames (n, 3, 16, 16).
    """

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.stem = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 16 * width), nn.GELU())
        self.blocks = nn.Sequential(
            nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.GELU(),
            nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.GELU(),
        )  # fmt: skip
        self.head = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, time: Tensor) -> Tensor:
        """Frames in [0, 1]."""
        x = self.stem(torch.cat([torch.sin(2.0**band * time) for band in range(8)], -1)).view(-1, self.width, 4, 4)
        return self.head(self.blocks(x)).sigmoid()


class HashGrid(nn.Module):
    """Coordinates look up features in hashed tables of several resolutions, and a small perceptron reads them.

    Shapes: coordinates (n, 2) in [0, 1] -> colors (n, 3).
    """

    def __init__(self, levels: int = 3, entries: int = 64, features: int = 4, width: int = 24) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(entries, features) for _ in range(levels))
        self.entries = entries
        self.mlp = nn.Sequential(nn.Linear(levels * features, width), nn.ReLU(), nn.Linear(width, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Colors."""
        found = []
        for level, table in enumerate(self.tables):
            scaled = x * 4.0 * 2.0**level
            corner = scaled.floor().long()
            weight = scaled - corner
            mixed = torch.zeros_like(table(corner[:, 0] % self.entries))
            for across in (0, 1):
                for down in (0, 1):
                    index = ((corner[:, 0] + across) * 1 ^ (corner[:, 1] + down) * 19349663) % self.entries
                    one = weight[:, :1] if across else 1 - weight[:, :1]
                    two = weight[:, 1:] if down else 1 - weight[:, 1:]
                    mixed = mixed + table(index) * one * two
            found.append(mixed)
        return self.mlp(torch.cat(found, -1))
