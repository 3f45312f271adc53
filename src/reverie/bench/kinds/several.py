"""Small networks with several inputs, outputs or paths, and operators of their own.

What for: kinds of networks that `reverie bench coverage` and the tests cut. Only PyTorch is imported (torchvision
where deformable convolutions are), so a fresh process without Reverie can build them from this file alone.

Sources: CBNet, Liu et al. 2019, arXiv:1909.03625; deformable convolution, Dai et al. 2017, arXiv:1703.06211;
deformable attention, Zhu et al. 2020, arXiv:2010.04159; prototypes, Li et al. 2017, arXiv:1710.04806; KAN, Liu et al.
2024, arXiv:2404.19756; pixel-adaptive convolution, Su et al. 2019, arXiv:1904.05373; spiking networks, Zhou et al.
2022, arXiv:2209.15425; mixtures of experts, Shazeer et al. 2017, arXiv:1701.06538.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "DeformableAttention",
    "DeformableNet",
    "Experts",
    "Kan",
    "ManyHeads",
    "PixelAdaptive",
    "Prototypes",
    "RgbDepth",
    "Siamese",
    "Spiking",
    "TwoBackbones",
]


class Tower(nn.Module):
    """Three convolutions that return the features of all three levels."""

    def __init__(self, inp: int, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inp, width, 3, 1, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width)
        self.conv3, self.bn3 = nn.Conv2d(2 * width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width)

    def forward(self, x: Tensor, extra: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Features of full, half and quarter resolution; `extra` is added to the first two."""
        fine = F.relu(self.bn1(self.conv1(x)))
        fine = fine if extra is None else fine + extra[0]
        middle = F.relu(self.bn2(self.conv2(fine)))
        middle = middle if extra is None else middle + extra[1]
        return fine, middle, F.relu(self.bn3(self.conv3(middle)))


class Siamese(nn.Module):
    """One tower sees two images; a small head compares.

    Shapes: images (n, 3, h, w), images (n, 3, h, w) -> scores (n, 1).
    """

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.tower, self.embed = Tower(3, width), nn.Linear(2 * width, 12)
        self.head = nn.Linear(24, 1)

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        """How alike they are."""
        first, second = (self.embed(self.tower(x)[2].mean((2, 3))) for x in (one, two))
        return self.head(torch.cat([(first - second).abs(), first * second], 1))


class RgbDepth(nn.Module):
    """Two towers, one for color and one for depth, gated together.

    Shapes: images (n, 3, h, w), depths (n, 1, h, w) -> masks (n, 4, h / 4, w / 4).
    """

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.color, self.depth = Tower(3, width), Tower(1, width)
        self.gate, self.head = nn.Conv2d(4 * width, 2 * width, 1), nn.Conv2d(2 * width, 4, 1)

    def forward(self, image: Tensor, depth: Tensor) -> Tensor:
        """Scores."""
        one, two = self.color(image)[2], self.depth(depth)[2]
        gate = self.gate(torch.cat([one, two], 1)).sigmoid()
        return self.head(one * gate + two * (1 - gate))


class TwoBackbones(nn.Module):
    """The features of a first backbone are added into the second at every level.

    Shapes: images (n, 3, h, w) -> logits (n, 6).
    """

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.second = Tower(3, width), Tower(3, width)
        self.join1, self.join2 = nn.Conv2d(2 * width, width, 1), nn.Conv2d(2 * width, 2 * width, 1)
        self.head = nn.Linear(2 * width, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        _, middle, coarse = self.first(x)
        up = F.interpolate(self.join1(middle), scale_factor=2.0)
        deep = F.interpolate(self.join2(coarse), scale_factor=2.0)
        return self.head(self.second(x, (up, deep))[2].mean((2, 3)))


class ManyHeads(nn.Module):
    """One tower, three answers of different kinds, as a dictionary.

    Shapes: images (n, 3, h, w) -> classes (n, 7), depth (n, 1, h, w), embedding (n, 5).
    """

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.tower = Tower(3, width)
        self.classes, self.embed = nn.Linear(2 * width, 7), nn.Linear(2 * width, 5)
        self.depth = nn.Sequential(nn.Conv2d(3 * width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Each answer by its name."""
        fine, middle, coarse = self.tower(x)
        pooled = coarse.mean((2, 3))
        joined = torch.cat([fine, F.interpolate(middle, size=x.shape[2:], mode="bilinear")], 1)
        return {
            "classes": self.classes(pooled),
            "depth": self.depth(joined),
            "embedding": F.normalize(self.embed(pooled), dim=1),
        }


class DeformableNet(nn.Module):
    """A convolution whose taps are moved and weighted by another.

    Shapes: images (n, 3, h, w) -> logits (n, 5).
    """

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width)
        self.offsets, self.masks = nn.Conv2d(width, 18, 3, padding=1), nn.Conv2d(width, 9, 3, padding=1)
        self.weight = nn.Parameter(0.1 * torch.randn(2 * width, width, 3, 3))
        self.bias = nn.Parameter(torch.zeros(2 * width))
        self.bn2, self.head = nn.BatchNorm2d(2 * width), nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        from torchvision.ops import deform_conv2d

        x = F.relu(self.bn(self.stem(x)))
        x = deform_conv2d(x, self.offsets(x), self.weight, self.bias, padding=1, mask=self.masks(x).sigmoid())
        return self.head(F.relu(self.bn2(x)).mean((2, 3)))


class DeformableAttention(nn.Module):
    """Queries look at a few learned points of a feature map, per head.

    Shapes: images (n, 3, h, w) -> (n, queries, 5).
    """

    def __init__(self, width: int = 16, heads: int = 2, points: int = 3, queries: int = 6) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        self.stem, self.queries = nn.Conv2d(3, width, 4, 4), nn.Parameter(torch.randn(queries, width))
        self.reference, self.offsets = nn.Linear(width, 2), nn.Linear(width, 2 * heads * points)
        self.weights, self.value = nn.Linear(width, heads * points), nn.Conv2d(width, width, 1)
        self.out, self.head = nn.Linear(width, width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """One answer per query."""
        features = self.value(F.relu(self.stem(x)))
        n, _, h, w = features.shape
        q = self.queries.unsqueeze(0).expand(n, -1, -1)
        count = q.shape[1]
        places = self.reference(q).tanh()[:, :, None, None, :]
        places = places + 0.2 * self.offsets(q).view(n, count, self.heads, self.points, 2)
        weights = self.weights(q).view(n, count, self.heads, self.points).softmax(-1)
        values = features.reshape(n * self.heads, -1, h, w)
        grid = places.permute(0, 2, 1, 3, 4).reshape(n * self.heads, count, self.points, 2)
        found = F.grid_sample(values, grid, align_corners=False)
        mixed = (found * weights.permute(0, 2, 1, 3).reshape(n * self.heads, 1, count, self.points)).sum(-1)
        return self.head(q + self.out(mixed.reshape(n, -1, count).transpose(1, 2)))


class Prototypes(nn.Module):
    """An autoencoder whose code is classified by its distances to prototypes.

    Shapes: images (n, 1, 16, 16) -> logits (n, 4), images (n, 1, 16, 16).
    """

    def __init__(self, width: int = 8, prototypes: int = 6) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(1, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(2 * width, 5, 3, 2, 1), nn.Flatten(),
        )  # fmt: skip
        self.decode = nn.Sequential(
            nn.Unflatten(1, (5, 2, 2)), nn.ConvTranspose2d(5, 2 * width, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(width, 1, 4, 2, 1),
        )  # fmt: skip
        self.prototypes, self.head = nn.Parameter(torch.rand(prototypes, 20)), nn.Linear(prototypes, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and the reconstruction."""
        code = self.encode(x)
        distances = (code[:, None] - self.prototypes[None]).square().sum(-1)
        return self.head(-distances), self.decode(code).sigmoid()


class KanLayer(nn.Module):
    """Every input and output are joined by a function of their own, a sum of radial bumps."""

    centers: Tensor

    def __init__(self, inp: int, out: int, bumps: int = 4) -> None:
        super().__init__()
        self.base, self.bumps = nn.Linear(inp, out), nn.Parameter(0.2 * torch.randn(out, inp, bumps))
        self.register_buffer("centers", torch.linspace(-1, 1, bumps))

    def forward(self, x: Tensor) -> Tensor:
        """(n, inp) -> (n, out)."""
        basis = torch.exp(-4 * (x[..., None] - self.centers).square())
        return self.base(F.silu(x)) + torch.einsum("nib,oib->no", basis, self.bumps)


class Kan(nn.Sequential):
    """Three layers of functions.

    Shapes: (n, 6) -> (n, 3).
    """

    def __init__(self, width: int = 10) -> None:
        super().__init__(KanLayer(6, width), KanLayer(width, width), KanLayer(width, 3))


class PixelAdaptive(nn.Module):
    """A convolution whose weights are scaled, pixel by pixel, by how alike the guiding features are.

    Shapes: images (n, 3, h, w) -> masks (n, 2, h, w).
    """

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.guide, self.enter = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, width, 3, padding=1)
        self.weight, self.bias = nn.Parameter(0.1 * torch.randn(width, width, 3, 3)), nn.Parameter(torch.zeros(width))
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        n, _, h, w = x.shape
        guide, features = self.guide(x), F.relu(self.enter(x))
        around = F.unfold(guide, 3, padding=1).view(n, guide.shape[1], 9, h, w)
        kernel = torch.exp(-0.5 * (around - guide[:, :, None]).square().sum(1))
        patches = F.unfold(features, 3, padding=1).view(n, features.shape[1], 9, h, w) * kernel[:, None]
        out = torch.einsum("ncthw,oct->nohw", patches, self.weight.flatten(2))
        return self.head(F.relu(out + self.bias[:, None, None]))


class Spiking(nn.Module):
    """Leaky neurons that fire when they are full, over a few steps.

    Shapes: images (n, 3, h, w) -> logits (n, 5).
    """

    def __init__(self, width: int = 8, steps: int = 3) -> None:
        super().__init__()
        self.steps = steps
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width)
        self.head = nn.Linear(2 * width, 5)

    @staticmethod
    def fire(potential: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes, and the potential that is left."""
        potential = 0.5 * potential + current
        spikes = (potential >= 0.3).to(potential.dtype)
        return spikes, potential * (1 - spikes)

    def forward(self, x: Tensor) -> Tensor:
        """The mean answer of the steps."""
        current = self.bn1(self.conv1(x))
        first = torch.zeros_like(current)
        second, answers = None, []
        for _ in range(self.steps):
            spikes, first = self.fire(first, current)
            deep = self.bn2(self.conv2(spikes))
            fired, second = self.fire(torch.zeros_like(deep) if second is None else second, deep)
            answers.append(self.head(fired.mean((2, 3))))
        return torch.stack(answers).mean(0)


class Experts(nn.Module):
    """A layer of experts, weighted by a gate that closes all but the two best.

    Shapes: tokens (n, t, 12) -> (n, t, 4).
    """

    def __init__(self, width: int = 16, hidden: int = 24, experts: int = 4) -> None:
        super().__init__()
        self.enter, self.gate = nn.Linear(12, width), nn.Linear(width, experts)
        self.up = nn.Parameter(0.2 * torch.randn(experts, width, hidden))
        self.down = nn.Parameter(0.2 * torch.randn(experts, hidden, width))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        """One answer per token."""
        x = F.relu(self.enter(x))
        scores = self.gate(x)
        lowest = scores.topk(2, -1).values[..., -1:]
        weights = scores.masked_fill(scores < lowest, float("-inf")).softmax(-1)
        hidden = F.gelu(torch.einsum("ntc,ech->nteh", x, self.up))
        mixed = torch.einsum("nteh,ehc->ntec", hidden, self.down)
        return self.head(x + (mixed * weights[..., None]).sum(2))
