"""The architectures of the embedded networks, in plain PyTorch.

What for: small convolutional classifiers that were trained for this package and travel inside it, and the CIFAR
residual networks of the literature, so that published weights of those can be read.

Sources: residual networks for CIFAR, He et al. 2016, arXiv:1512.03385, section 4.2; VGG, Simonyan and Zisserman 2015,
arXiv:1409.1556, with batch normalization after every convolution and one linear layer as its head.
"""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CifarResNet", "CifarVGG"]

Shortcut = Literal["project", "pad"]


class PadShortcut(nn.Module):
    """Halve the resolution and pad with zero channels, half on each side (option A of the paper)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        missing = out_channels - in_channels
        self.before = missing // 2
        self.after = missing - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalization, added to a shortcut, then ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            if shortcut == "project":
                projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
                self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))
            else:
                self.shortcut = PadShortcut(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """Residual network for small images: a 3x3 stem, stages, average pooling, one linear layer.

    Shapes: images (n, in_channels, h, w), already normalized -> logits (n, num_classes).

    Args:
        blocks: Residual blocks in each stage, one number for all or one for each; 3 is ResNet-20, 9 is ResNet-56,
            (3, 4, 6, 3) with widths (64, 128, 256, 512) is what papers on CIFAR-10 call ResNet-34.
        widths: Channels of each stage.
        in_channels: Channels of the images.
        num_classes: Length of the logits.
        shortcut: `"project"`, a strided 1x1 convolution where the shape changes, or `"pad"`, the paper's option A.

    Example:
        >>> import torch
        >>> CifarResNet(widths=(8, 16, 32), in_channels=1)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])

    Reference: He et al., 2016, arXiv:1512.03385, section 4.2. Differs: the widths are free.
    """

    def __init__(
        self,
        *,
        blocks: int | Sequence[int] = 3,
        widths: Sequence[int] = (16, 32, 64),
        in_channels: int = 3,
        num_classes: int = 10,
        shortcut: Shortcut = "project",
    ) -> None:
        super().__init__()
        depths = [blocks] * len(widths) if isinstance(blocks, int) else blocks
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        for place, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            before, stride = (widths[place - 1], 2) if place else (width, 1)
            # Attributes, not a list: the names are those of published weights.
            stage = self._stage(before, width, blocks=depth, stride=stride, shortcut=shortcut)
            self.add_module(f"layer{place + 1}", stage)
        self.stages = tuple(f"layer{place + 1}" for place in range(len(widths)))
        self.linear = nn.Linear(widths[-1], num_classes)

    @staticmethod
    def _stage(in_channels: int, out_channels: int, *, blocks: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
        first = ResidualBlock(in_channels, out_channels, stride=stride, shortcut=shortcut)
        rest = [ResidualBlock(out_channels, out_channels, stride=1, shortcut=shortcut) for _ in range(blocks - 1)]
        return nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of normalized images."""
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.linear(x.mean(dim=(2, 3)))


class CifarVGG(nn.Module):
    """Plain stack of 3x3 convolutions with batch normalization; a max-pool after every stage but the last.

    Shapes: images (n, in_channels, h, w), already normalized -> logits (n, num_classes).

    Args:
        stages: For each stage, the output channels of its convolutions.
        in_channels: Channels of the images.
        num_classes: Length of the logits.

    Example:
        >>> import torch
        >>> CifarVGG(stages=((8,), (16,)), in_channels=1)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])

    Reference: Simonyan and Zisserman, 2015, arXiv:1409.1556. Differs: batch normalization, average pooling and one
    linear layer in place of three.
    """

    def __init__(
        self,
        *,
        stages: Sequence[Sequence[int]] = ((32, 32), (64, 64), (128, 128, 128)),
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for index, stage in enumerate(stages):
            if index:
                layers.append(nn.MaxPool2d(2))
            for width in stage:
                layers += [nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of normalized images."""
        return self.linear(self.features(x).mean(dim=(2, 3)))
