"""Small networks that make images: diffusion, adversarial, stylizing.

What for: kinds of networks that `reverie bench coverage` and the tests cut. Only PyTorch is imported, so a fresh
process without Reverie can build them from this file alone.

Sources: diffusion U-Net, Ho et al. 2020, arXiv:2006.11239, with a control branch after Zhang et al. 2023,
arXiv:2302.05543; DiT, Peebles and Xie 2022, arXiv:2212.09748, with the rotations of Su et al. 2021, arXiv:2104.09864;
conditional batch normalization, de Vries et al. 2017, arXiv:1707.00683; self-attention GAN, Zhang et al. 2018,
arXiv:1805.08318; AdaIN, Huang and Belongie 2017, arXiv:1703.06868.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "AdaInNet",
    "ControlledUNet",
    "CrossDiT",
    "DiT",
    "DiffusionUNet",
    "Generator",
]


def waves(time: Tensor, width: int) -> Tensor:
    """Sines and cosines of a time at `width // 2` frequencies; (n,) -> (n, width)."""
    frequencies = torch.exp(-math.log(1000.0) * torch.arange(width // 2, device=time.device) / (width // 2))
    angles = time[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)


class TimedBlock(nn.Module):
    """Residual block whose second normalization is scaled and shifted by a time embedding."""

    def __init__(self, inp: int, out: int, time: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, inp), nn.Conv2d(inp, out, 3, padding=1)
        self.time = nn.Linear(time, 2 * out)
        self.norm2, self.conv2 = nn.GroupNorm(4, out), nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Conv2d(inp, out, 1) if inp != out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Features of the same size in space."""
        inner = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.time(F.silu(time))[:, :, None, None].chunk(2, 1)
        return self.skip(x) + self.conv2(F.silu(self.norm2(inner) * (1 + scale) + shift))


class PixelAttention(nn.Module):
    """Self-attention over the pixels of a feature map."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.out = (
            nn.GroupNorm(4, width),
            nn.Conv1d(width, 3 * width, 1),
            nn.Conv1d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x).view(n, c, h * w)).reshape(n * self.heads, -1, h * w).chunk(3, 1)
        scale = (c // self.heads) ** -0.25
        attention = torch.einsum("nct,ncs->nts", q * scale, k * scale).softmax(-1)
        mixed = torch.einsum("nts,ncs->nct", attention, v)
        return x + self.out(mixed.reshape(n, -1, h * w)).view(n, c, h, w)


class DiffusionUNet(nn.Module):
    """Predicts the noise of an image at a time.

    Shapes: images (n, 3, h, w), times (n,) -> noise (n, 3, h, w).
    """

    def __init__(self, width: int = 16, time: int = 32) -> None:
        super().__init__()
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.down1, self.down = TimedBlock(width, width, time), nn.Conv2d(width, width, 3, 2, 1)
        self.down2, self.attention = TimedBlock(width, 2 * width, time), PixelAttention(2 * width)
        self.middle = TimedBlock(2 * width, 2 * width, time)
        self.up2, self.up1 = TimedBlock(4 * width, 2 * width, time), TimedBlock(3 * width, width, time)
        self.norm, self.leave = nn.GroupNorm(4, width), nn.Conv2d(width, 3, 3, padding=1)

    def encode(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of both resolutions, and the middle."""
        fine = self.down1(self.enter(x), time)
        coarse = self.attention(self.down2(self.down(fine), time))
        return fine, coarse, self.middle(coarse, time)

    def decode(self, fine: Tensor, coarse: Tensor, middle: Tensor, time: Tensor) -> Tensor:
        """Noise from the features."""
        x = self.up2(torch.cat([middle, coarse], 1), time)
        x = self.up1(torch.cat([F.interpolate(x, scale_factor=2.0), fine], 1), time)
        return self.leave(F.silu(self.norm(x)))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """The noise."""
        embedded = self.time(waves(time, self.width))
        return self.decode(*self.encode(x, embedded), embedded)


class ControlledUNet(nn.Module):
    """A diffusion U-Net that a second encoder steers through convolutions that begin at zero.

    Shapes: images (n, 3, h, w), times (n,), controls (n, 1, h, w) -> noise (n, 3, h, w).
    """

    def __init__(self, width: int = 16, time: int = 32) -> None:
        super().__init__()
        self.unet, self.control = DiffusionUNet(width, time), DiffusionUNet(width, time)
        self.hint = nn.Conv2d(1, 3, 3, padding=1)
        self.zeros = nn.ModuleList(nn.Conv2d(c, c, 1) for c in (width, 2 * width, 2 * width))

    def forward(self, x: Tensor, time: Tensor, hint: Tensor) -> Tensor:
        """The noise."""
        embedded = self.unet.time(waves(time, self.unet.width))
        steering = self.control.encode(x + self.hint(hint), embedded)
        features = self.unet.encode(x, embedded)
        steered = [one + zero(two) for one, zero, two in zip(features, self.zeros, steering, strict=True)]
        return self.unet.decode(steered[0], steered[1], steered[2], embedded)


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate pairs of features (first half, second half) by an angle per position."""
    first, second = x.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


class Attention(nn.Module):
    """Multi-head attention with rotations, over the tokens themselves or over a context."""

    def __init__(self, width: int, heads: int, context: int | None = None) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.q, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.kv = nn.Linear(width if context is None else context, 2 * width)

    def forward(self, x: Tensor, context: Tensor | None = None, angles: Tensor | None = None) -> Tensor:
        """Tokens of the same shape."""
        n, t, _ = x.shape
        given = x if context is None else context
        q = self.q(x).view(n, t, self.heads, self.head_width).transpose(1, 2)
        k, v = self.kv(given).view(n, given.shape[1], 2, self.heads, self.head_width).permute(2, 0, 3, 1, 4).unbind(0)
        if angles is not None:
            q, k = rotated(q, angles), rotated(k, angles)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(n, t, self.heads * self.head_width))


class DiTBlock(nn.Module):
    """Transformer block whose normalizations are scaled, shifted and gated by a condition."""

    def __init__(self, width: int, heads: int, context: int | None = None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, heads)
        self.cross = Attention(width, heads, context) if context is not None else None
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(approximate="tanh"), nn.Linear(3 * width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor, angles: Tensor, context: Tensor | None) -> Tensor:
        """Tokens of the same shape."""
        parts = self.modulation(condition).unsqueeze(1).chunk(6, -1)
        x = x + parts[2] * self.attention(self.norm1(x) * (1 + parts[1]) + parts[0], angles=angles)
        if self.cross is not None:
            x = x + self.cross(x, context)
        return x + parts[5] * self.mlp(self.norm2(x) * (1 + parts[4]) + parts[3])


class DiT(nn.Module):
    """Transformer over patches that predicts noise; positions are rotations.

    Shapes: images (n, 3, 16, 16), times (n,), classes (n,) -> noise (n, 3, 16, 16).
    """

    def __init__(self, width: int = 24, heads: int = 3, depth: int = 2, context: int | None = None) -> None:
        super().__init__()
        self.width, self.patch = width, 4
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.time = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = nn.Embedding(11, width)
        self.blocks = nn.ModuleList(DiTBlock(width, heads, context) for _ in range(depth))
        half = width // heads // 2
        angles = torch.arange(16)[:, None] * 10.0 ** (-torch.arange(half) / half)
        self.register_buffer("angles", angles, persistent=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3 * self.patch**2)

    def forward(self, x: Tensor, time: Tensor, label: Tensor, context: Tensor | None = None) -> Tensor:
        """The noise."""
        n, c, h, w = x.shape
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        condition = self.time(waves(time, 16)) + self.classes(label)
        for block in self.blocks:
            tokens = block(tokens, condition, self.angles, context)
        rows, columns = h // self.patch, w // self.patch
        out = self.head(self.norm(tokens)).view(n, rows, columns, self.patch, self.patch, c)
        return out.permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)


class CrossDiT(DiT):
    """The same with a context, such as the tokens of a text, that every block attends to.

    Shapes: ..., context (n, tokens, 20) -> noise (n, 3, 16, 16).
    """

    def __init__(self) -> None:
        super().__init__(context=20)


class ConditionalNorm(nn.Module):
    """Batch normalization whose scale and shift come from a class."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(width, affine=False)
        self.gain, self.shift = nn.Embedding(classes, width), nn.Embedding(classes, width)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Features of the same shape."""
        return self.bn(x) * (1 + self.gain(label)[:, :, None, None]) + self.shift(label)[:, :, None, None]


class UpBlock(nn.Module):
    """Residual block that doubles the resolution, with spectral normalization."""

    def __init__(self, inp: int, out: int, classes: int) -> None:
        super().__init__()
        normed = nn.utils.parametrizations.spectral_norm
        self.norm1, self.norm2 = ConditionalNorm(inp, classes), ConditionalNorm(out, classes)
        self.conv1 = normed(nn.Conv2d(inp, out, 3, padding=1))
        self.conv2 = normed(nn.Conv2d(out, out, 3, padding=1))
        self.skip = normed(nn.Conv2d(inp, out, 1))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Features of twice the size in space."""
        inner = self.conv1(F.interpolate(F.relu(self.norm1(x, label)), scale_factor=2.0))
        return self.conv2(F.relu(self.norm2(inner, label))) + F.interpolate(self.skip(x), scale_factor=2.0)


class Generator(nn.Module):
    """A class and a latent vector become an image; attention in the middle.

    Shapes: latents (n, 8), classes (n,) -> images (n, 3, 16, 16).
    """

    def __init__(self, width: int = 16, classes: int = 5) -> None:
        super().__init__()
        self.width = width
        self.linear = nn.Linear(8, 4 * 4 * width)
        self.block1, self.block2 = UpBlock(width, width, classes), UpBlock(width, width // 2, classes)
        self.query, self.key = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width, width // 4, 1)
        self.value, self.gamma = nn.Conv2d(width, width, 1), nn.Parameter(torch.tensor(0.1))
        self.bn, self.leave = nn.BatchNorm2d(width // 2), nn.Conv2d(width // 2, 3, 3, padding=1)

    def forward(self, latent: Tensor, label: Tensor) -> Tensor:
        """Images in [-1, 1]."""
        x = self.block1(self.linear(latent).view(-1, self.width, 4, 4), label)
        q, k, v = self.query(x).flatten(2), self.key(x).flatten(2), self.value(x).flatten(2)
        x = x + self.gamma * torch.bmm(v, torch.bmm(q.transpose(1, 2), k).softmax(-1).transpose(1, 2)).view_as(x)
        return torch.tanh(self.leave(F.relu(self.bn(self.block2(x, label)))))


class AdaInNet(nn.Module):
    """An image takes the style of another: instance statistics are replaced.

    Shapes: contents (n, 3, h, w), styles (n, 3, h, w) -> images (n, 3, h, w).
    """

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(3, width, 3), nn.InstanceNorm2d(width, affine=True), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(),
        )  # fmt: skip
        self.decode = nn.Sequential(
            nn.Upsample(scale_factor=2.0), nn.Conv2d(2 * width, width, 3, padding=1), nn.InstanceNorm2d(width),
            nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1),
        )  # fmt: skip

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """The stylized image."""
        one, two = self.encode(content), self.encode(style)
        mean, deviation = one.mean((2, 3), keepdim=True), one.std((2, 3), keepdim=True) + 1e-3
        other, target = two.mean((2, 3), keepdim=True), two.std((2, 3), keepdim=True) + 1e-3
        return self.decode((one - mean) / deviation * target + other)
