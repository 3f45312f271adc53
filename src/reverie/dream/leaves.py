"""Images without a camera: disks of random size, place and color that cover each other, like leaves on the ground.

What for: a network without batch normalization stores no moments of its data. Dead leaves share with photographs what
moments are most sensitive to (edges at every scale, objects that occlude, a spectrum that falls as one over the
frequency), so a network's layers show moments on them that are near those on photographs, far nearer than on noise.

Cost: milliseconds per image. Source: Matheron 1968; Lee, Mumford and Huang 2001, "Occlusion models for natural images";
as training data, Baradad et al. 2021, arXiv:2106.05963, section 3.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from reverie.core.errors import RangeError
from reverie.core.rng import generator
from reverie.core.source import Source
from reverie.dream.shard import eight_bits

__all__ = ["leaves_source"]

# Radii as shares of the smaller side, drawn with a density of radius^-3: all scales alike.
SMALLEST, LARGEST = 0.15, 0.8
LEAVES = 16
# Share of the variance of a leaf's color that its channels have in common.
SHARED_LIGHT = 0.8
TEXTURE = 0.03


def leaves_source(*, count: int, image_shape: Sequence[int], seed: int) -> Source:
    """Dead leaves of one, two or three dimensions, each image from a seed of its own.

    Args:
        count: How many images, >= 1.
        image_shape: (c, length), (c, h, w) or (c, d, h, w).
        seed: Same seed, same images.

    Raises:
        RangeError: No images, or no axis beside the channels.

    Example:
        >>> leaves_source(count=2, image_shape=(3, 8, 8), seed=0).images.shape
        torch.Size([2, 3, 8, 8])
    """
    if count < 1 or len(image_shape) < 2:
        raise RangeError(f"leaves need count >= 1 and a shape (c, ...), got {count} and {tuple(image_shape)}")
    images = [_image(image_shape, generator(seed, "leaves", index)) for index in range(count)]
    return Source("dead leaves", eight_bits(torch.stack(images)))


def _image(image_shape: Sequence[int], rng: torch.Generator) -> Tensor:
    channels, *sides = image_shape
    axes = torch.meshgrid(*[torch.arange(side) / min(sides) for side in sides], indexing="ij")
    places = torch.stack(axes)
    extent = torch.tensor([side / min(sides) for side in sides])
    # Density r^-3 between the bounds, by its inverse distribution function.
    uniform = torch.rand(LEAVES, generator=rng)
    radii = (SMALLEST**-2 + uniform * (LARGEST**-2 - SMALLEST**-2)).rsqrt()
    centers = torch.rand(LEAVES, len(sides), generator=rng) * extent
    brightness = torch.rand(LEAVES, 1, generator=rng)
    hue = torch.rand(LEAVES, channels, generator=rng)
    colors = SHARED_LIGHT * brightness + (1 - SHARED_LIGHT) * hue
    canvas = colors[0].view(-1, *[1] * len(sides)).expand(channels, *sides).clone()
    # Large leaves first: what comes later lies on top, and small leaves would else be hidden.
    for index in radii.argsort(descending=True).tolist():
        distance = (places - centers[index].view(-1, *[1] * len(sides))).square().sum(0).sqrt()
        # Half a pixel of slope on each side of the edge instead of stairs.
        cover = ((radii[index] - distance) * min(sides) + 0.5).clamp(0, 1)
        canvas = canvas + cover * (colors[index].view(-1, *[1] * len(sides)) - canvas)
    texture = torch.randn(channels, *sides, generator=rng) * TEXTURE * math.sqrt(float(uniform[0]))
    return (canvas + texture).clamp(0, 1)
