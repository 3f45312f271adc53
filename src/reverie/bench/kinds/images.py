"""Small networks for images, as their fields write them: residual, wide, plain, nested, one-stage, invertible.

What for: kinds of networks that `reverie bench coverage` and the tests cut. Only PyTorch is imported, so a fresh
process without Reverie can build them from this file alone.

Sources: wide residual networks, Zagoruyko and Komodakis 2016, arXiv:1605.07146; SimpleNet, Hasanpour et al. 2016,
arXiv:1608.06037; YOLO, Redmon et al. 2016, arXiv:1506.02640, with the cross-stage partial blocks of Wang et al. 2019,
arXiv:1911.11929; U-Net, Ronneberger et al. 2015, arXiv:1505.04597; nested U-Net, Zhou et al. 2018, arXiv:1807.10165;
3-D U-Net, Cicek et al. 2016, arXiv:1606.06650; i-RevNet, Jacobsen et al. 2018, arXiv:1802.07088.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NestedUNet", "RevNet", "SimpleNet", "UNet", "UNet3d", "WideResNet", "Yolo", "wrn_16_2", "wrn_40_2"]


class WideBlock(nn.Module):
    """Two pre-activated convolutions and a shortcut."""

    def __init__(self, inp: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inp), nn.BatchNorm2d(out)
        self.conv1 = nn.Conv2d(inp, out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inp, out, 1, stride, bias=False) if inp != out else None

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to the shortcut, which starts after the first activation where the width changes."""
        ready = F.relu(self.bn1(x))
        inner = self.conv2(F.dropout(F.relu(self.bn2(self.conv1(ready))), 0.3, self.training))
        return inner + (x if self.shortcut is None else self.shortcut(ready))


class WideResNet(nn.Module):
    """WRN-depth-factor: three stages of wide pre-activated blocks.

    Shapes: images (n, 3, h, w) -> logits (n, 10).
    """

    def __init__(self, depth: int = 16, factor: int = 2, base: int = 8) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        widths = [base, base * factor, 2 * base * factor, 4 * base * factor]
        self.stem = nn.Conv2d(3, base, 3, 1, 1, bias=False)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(*(WideBlock(one if i == 0 else two, two, stride if i == 0 else 1) for i in range(blocks)))
                for one, two, stride in zip(widths, widths[1:], (1, 2, 2), strict=False)
            )
        )
        self.bn = nn.BatchNorm2d(widths[-1])
        self.linear = nn.Linear(widths[-1], 10)
        self.features = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Logits; flattened by the width that the module states."""
        x = F.relu(self.bn(self.stages(self.stem(x))))
        return self.linear(F.avg_pool2d(x, x.shape[-1]).view(-1, self.features))


def wrn_16_2() -> nn.Module:
    """The student of many papers."""
    return WideResNet(16, 2)


def wrn_40_2() -> nn.Module:
    """The teacher of many papers."""
    return WideResNet(40, 2)


class SimpleNet(nn.Sequential):
    """Thirteen plain convolutions.

    Shapes: images (n, 3, 32, 32) -> logits (n, 10).
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 32, 32, 32, 32, 64, 64, 64, 64, 96, 48, 48)) -> None:
        layers: list[nn.Module] = []
        inp = 3
        for index, out in enumerate(widths):
            kernel = 1 if index in (10, 11) else 3
            layers += [nn.Conv2d(inp, out, kernel, padding=kernel // 2), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            if index in (4, 7, 9):
                layers += [nn.MaxPool2d(2), nn.Dropout2d(0.1)]
            inp = out
        super().__init__(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(inp, 10))


class Conv(nn.Module):
    """Convolution, batch normalization, SiLU."""

    def __init__(self, inp: int, out: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inp, out, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """Activated features."""
        return F.silu(self.bn(self.conv(x)))


class Csp(nn.Module):
    """Cross-stage partial block: half of the channels pass through residual blocks, and every stage is concatenated."""

    def __init__(self, width: int, depth: int = 2) -> None:
        super().__init__()
        half = width // 2
        self.enter = Conv(width, width)
        self.blocks = nn.ModuleList(nn.Sequential(Conv(half, half, 3), Conv(half, half, 3)) for _ in range(depth))
        self.leave = Conv((2 + depth) * half, width)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        parts = list(self.enter(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(parts[-1] + block(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class Yolo(nn.Module):
    """One-stage detector: passthrough stem, partial blocks, pyramid pooling, top-down neck, anchor heads.

    Shapes: images (n, 3, h, w) -> boxes (n, anchors of all levels, 5 + classes).
    """

    def __init__(self, width: int = 16, classes: int = 6, anchors: int = 3) -> None:
        super().__init__()
        self.anchors, self.outputs = anchors, 5 + classes
        self.stem = Conv(12, width, 3)
        self.down1, self.csp1 = Conv(width, 2 * width, 3, 2), Csp(2 * width)
        self.down2, self.csp2 = Conv(2 * width, 4 * width, 3, 2), Csp(4 * width)
        self.pool_in, self.pool_out = Conv(4 * width, 2 * width), Conv(8 * width, 4 * width)
        self.lateral = Conv(4 * width, 2 * width)
        self.merge = nn.Sequential(Conv(4 * width, 2 * width), Csp(2 * width))
        self.heads = nn.ModuleList(nn.Conv2d(inp, anchors * self.outputs, 1) for inp in (2 * width, 4 * width))

    def forward(self, x: Tensor) -> Tensor:
        """All boxes of both levels, as the network states them."""
        x = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)
        fine = self.csp1(self.down1(self.stem(x)))
        x = self.pool_in(self.csp2(self.down2(fine)))
        pools = [x]
        for _ in range(3):
            pools.append(F.max_pool2d(pools[-1], 5, 1, 2))
        coarse = self.pool_out(torch.cat(pools, 1))
        up = F.interpolate(self.lateral(coarse), scale_factor=2.0, mode="nearest")
        levels = [self.merge(torch.cat([up, fine], 1)), coarse]
        boxes = []
        for head, level in zip(self.heads, levels, strict=True):
            n, _, h, w = level.shape
            found = head(level).view(n, self.anchors, self.outputs, h, w).permute(0, 1, 3, 4, 2)
            boxes.append(found.reshape(n, -1, self.outputs))
        return torch.cat(boxes, 1)


class Double(nn.Sequential):
    """Two convolutions with batch normalization."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__(
            nn.Conv2d(inp, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True),
        )  # fmt: skip


class UNet(nn.Module):
    """Encoder, decoder, and skips that are concatenated.

    Shapes: images (n, 3, h, w) -> masks (n, 2, h, w).
    """

    def __init__(self, width: int = 8, depth: int = 3) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(Double(3 if i == 0 else widths[i - 1], widths[i]) for i in range(depth + 1))
        self.up = nn.ModuleList(nn.ConvTranspose2d(widths[i + 1], widths[i], 2, 2) for i in reversed(range(depth)))
        self.merge = nn.ModuleList(Double(2 * widths[i], widths[i]) for i in reversed(range(depth)))
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """One score per class and pixel."""
        skips = []
        for index, block in enumerate(self.down):
            x = block(x if index == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)


class NestedUNet(nn.Module):
    """Every decoder level sees all earlier features of its resolution.

    Shapes: images (n, 3, h, w) -> masks (n, 2, h, w).
    """

    def __init__(self, widths: Sequence[int] = (8, 12, 16)) -> None:
        super().__init__()
        self.depth = len(widths)
        self.cells = nn.ModuleDict()
        for column in range(self.depth):
            for row in range(self.depth - column):
                above = 3 if row == 0 else widths[row - 1]
                inp = above if column == 0 else column * widths[row] + widths[row + 1]
                self.cells[f"{row}_{column}"] = Double(inp, widths[row])
        self.heads = nn.ModuleList(nn.Conv2d(widths[0], 2, 1) for _ in range(self.depth - 1))

    def forward(self, x: Tensor) -> Tensor:
        """The mean of all heads' scores."""
        cells: dict[tuple[int, int], Tensor] = {}
        for column in range(self.depth):
            for row in range(self.depth - column):
                if column == 0:
                    given = x if row == 0 else F.max_pool2d(cells[row - 1, 0], 2)
                else:
                    below = F.interpolate(cells[row + 1, column - 1], scale_factor=2.0, mode="bilinear")
                    given = torch.cat([*(cells[row, earlier] for earlier in range(column)), below], 1)
                cells[row, column] = self.cells[f"{row}_{column}"](given)
        masks = [head(cells[0, column + 1]) for column, head in enumerate(self.heads)]
        return torch.stack(masks).mean(0)


class Residual3d(nn.Module):
    """Two 3-D convolutions with instance normalization and a projected shortcut."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv3d(inp, out, 3, padding=1), nn.InstanceNorm3d(out, affine=True)
        self.conv2, self.norm2 = nn.Conv3d(out, out, 3, padding=1), nn.InstanceNorm3d(out)
        self.project = nn.Conv3d(inp, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same size in space."""
        inner = F.leaky_relu(self.norm1(self.conv1(x)), 0.01)
        return F.leaky_relu(self.norm2(self.conv2(inner)) + self.project(x), 0.01)


class UNet3d(nn.Module):
    """Residual U-Net over volumes.

    Shapes: volumes (n, 1, d, h, w) -> masks (n, 3, d, h, w).
    """

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.enter, self.deep = Residual3d(1, width), Residual3d(2 * width, 2 * width)
        self.down = nn.Conv3d(width, 2 * width, 2, 2)
        self.up = nn.ConvTranspose3d(2 * width, width, 2, 2)
        self.leave, self.head = Residual3d(2 * width, width), nn.Conv3d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """One score per class and voxel."""
        fine = self.enter(x)
        return self.head(self.leave(torch.cat([self.up(self.deep(self.down(fine))), fine], 1)))


class RevBlock(nn.Module):
    """An additive coupling: (a, b) -> (b, a + f(b)), invertible whatever f is."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner), nn.ReLU(), nn.Conv2d(inner, width, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """The pair, coupled."""
        return second, first + self.branch(second)


class RevNet(nn.Module):
    """Nothing is lost on the way: space goes to channels, couplings keep both halves.

    Shapes: images (n, 4, h, w) -> logits (n, 10).
    """

    def __init__(self, width: int = 8, inner: int = 12) -> None:
        super().__init__()
        self.first = nn.ModuleList(RevBlock(width, inner) for _ in range(2))
        self.second = nn.ModuleList(RevBlock(4 * width, 2 * inner) for _ in range(2))
        self.bn = nn.BatchNorm2d(8 * width)
        self.linear = nn.Linear(8 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        left, right = F.pixel_unshuffle(x, 2).chunk(2, 1)
        for block in self.first:
            left, right = block(left, right)
        left, right = F.pixel_unshuffle(left, 2), F.pixel_unshuffle(right, 2)
        for block in self.second:
            left, right = block(left, right)
        return self.linear(F.relu(self.bn(torch.cat([left, right], 1))).mean((2, 3)))
