"""The views of an image that student and teacher are both shown.

A small bank goes a long way when each image is seen in many ways, and when the teacher answers for the very view that
the student sees: nothing is assumed about what a turn, a blur or a patch of another image leaves unchanged. Dreams are
finer-grained and more alike than photographs, so what makes them smoother and more varied brings a student nearer to
real images. Measured on a CIFAR-10 ResNet-20 without three of its nine blocks, taught 800 steps on 1,024 dreams,
accuracy on 5,000 real images: 84.5 % with shifts and mirroring alone, 86.6 % zoomed and turned too, 86.4 % softened,
85.7 % with patches.

Blends of two images are off unless asked for: taught on dreams, they moved the student's batch statistics away from
those of real images and cost a third of a point of accuracy to two points. With many passes over real images they help.

Cost: a bilinear sampling and an average over neighbors per batch. Source: Beyer et al., 2022, arXiv:2106.05237,
section 3; patches, Yun et al., 2019, arXiv:1905.04899.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.augment import RandomAffine
from reverie.core.errors import RangeError, ShapeError

__all__ = ["Views"]

# Sides of a patch, as shares of the image's.
PATCH_SIDES = (0.25, 0.75)


@dataclass(frozen=True)
class Views:
    """How a batch of images is varied before both networks see it; all parts off is the images themselves.

    Shapes: (n, c, h, w) in [0, 1] -> the same.

    Attributes:
        flip: Mirror each image left to right with probability 1/2.
        shift_pixels: Shift each image by up to so many pixels each way, the border reflected; at least 0.
        zoom: Enlarge or shrink each image by up to this share, in [0, 1).
        turn: Turn each image by up to this angle in radians, either way; at least 0.
        soften: Move each pixel up to this share of the way to the average of its 3 by 3 neighborhood, in [0, 1]; the
            share is drawn evenly from [0, soften], for each image anew.
        patches: Probability, in [0, 1], that a rectangle of another image of the batch covers a part of an image; its
            sides are drawn evenly between a quarter and three quarters of the image's.
        blend: Mix into each image up to this share of another one of the batch, in [0, 1]: the share is drawn evenly
            from [0, blend], for each image anew.

    Raises:
        RangeError: A number outside its range.
        ShapeError: When called, images that are not (n, c, h, w).

    Example:
        >>> images = torch.arange(4.0).reshape(2, 1, 1, 2)
        >>> still = Views(flip=False, shift_pixels=0, zoom=0, turn=0, soften=0, patches=0)
        >>> still(images, torch.Generator()) is images
        True

    Fails when: left and right, or small shapes, are what decides the class; leave those parts out.
    """

    flip: bool = True
    shift_pixels: int = 2
    zoom: float = 0.2
    turn: float = 0.15
    soften: float = 1.0
    patches: float = 0.5
    blend: float = 0.0

    def __post_init__(self) -> None:
        if self.shift_pixels < 0:
            raise RangeError(f"shift_pixels is a distance and at least 0, got {self.shift_pixels}")
        if not 0 <= self.zoom < 1:
            raise RangeError(f"zoom is a share in [0, 1), got {self.zoom}")
        if not self.turn >= 0:
            raise RangeError(f"turn is an angle in radians and at least 0, got {self.turn}")
        for name in ("soften", "patches", "blend"):
            if not 0 <= getattr(self, name) <= 1:
                raise RangeError(f"{name} is a share in [0, 1], got {getattr(self, name)}")

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """One view of each image; all choices come from `rng`, a generator of the CPU."""
        if images.ndim != 4:
            raise ShapeError(f"views are drawn of images (n, c, h, w), got {tuple(images.shape)}")
        if self.zoom or self.turn:
            images = RandomAffine(self.shift_pixels, self.zoom, self.turn, self.flip)(images, rng)
        elif self.flip or self.shift_pixels:
            images = self._moved(images, rng)
        if self.soften:
            images = images.lerp(_softened(images), self.soften * _drawn(images, rng))
        if self.patches:
            images = torch.where(self._covered(images, rng), _others(images, rng), images)
        if self.blend:
            images = images.lerp(_others(images, rng), self.blend * _drawn(images, rng))
        return images

    def _moved(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Each image shifted by whole pixels, and mirrored or not."""
        n, c, h, w = images.shape
        reach = min(self.shift_pixels, h - 1, w - 1)
        top, left = torch.randint(0, 2 * reach + 1, (2, n), generator=rng)
        rows = top[:, None] + torch.arange(h)
        columns = left[:, None] + torch.arange(w)
        if self.flip:
            columns = torch.where(torch.rand(n, 1, generator=rng) < 0.5, columns.flip(1), columns)
        padded = F.pad(images, (reach,) * 4, mode="reflect") if reach else images
        which = torch.arange(n)[:, None, None, None], torch.arange(c)[None, :, None, None]
        return padded[*which, rows[:, None, :, None], columns[:, None, None, :]]

    def _covered(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """(n, 1, h, w): where another image shows."""
        n, _, *sides = images.shape
        low, high = PATCH_SIDES
        inside = []
        for side in sides:
            share, place = torch.rand(2, n, 1, generator=rng)
            long = ((low + (high - low) * share) * side).round()
            start = (place * (side - long + 1)).floor()
            at = torch.arange(side)
            inside.append((at >= start) & (at < start + long))
        taken = torch.rand(n, 1, 1, generator=rng) < self.patches
        return (taken & inside[0][:, :, None] & inside[1][:, None, :])[:, None].to(images.device)


def _softened(images: Tensor) -> Tensor:
    """Averages over neighborhoods of 3 by 3, fewer at the border."""
    return F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)


def _others(images: Tensor, rng: torch.Generator) -> Tensor:
    """The same images in another order."""
    return images[torch.randperm(len(images), generator=rng).to(images.device)]


def _drawn(images: Tensor, rng: torch.Generator) -> Tensor:
    """(n, 1, 1, 1), evenly from [0, 1)."""
    return torch.rand(len(images), 1, 1, 1, generator=rng).to(images)
