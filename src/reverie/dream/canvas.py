"""What is optimized.

A canvas holds parameters and shows images in [0, 1]; the loop knows no more of it, so pyramids, Fourier coefficients
or generators fit in unchanged.

Source: box constraint, Yin et al. 2020, arXiv:1912.08795.
"""

import functools
import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Canvas", "PixelCanvas"]

# Share of the variance that all channels have in common: light and shadow, against color.
SHARED_LIGHT = 0.7


class Canvas(Protocol):
    """What the loop needs of an image parametrization.

    Example:
        >>> class OneGray:
        ...     def __init__(self) -> None:
        ...         self.level = torch.zeros(1, requires_grad=True)
        ...     def parameters(self) -> Sequence[Tensor]:
        ...         return (self.level,)
        ...     def images(self) -> Tensor:
        ...         return self.level.sigmoid().expand(1, 3, 8, 8)
        ...     def settle(self) -> None:
        ...         pass
        >>> canvas: Canvas = OneGray()
        >>> canvas.images().shape
        torch.Size([1, 3, 8, 8])
    """

    def parameters(self) -> Sequence[Tensor]:
        """The leaves that are optimized."""

    def images(self) -> Tensor:
        """(n, c, h, w) in [0, 1], with a graph to the parameters."""

    def settle(self) -> None:
        """Return to the allowed set, after each step."""


class PixelCanvas:
    """The pixels themselves, kept in [0, 1].

    Args:
        pixels: (n, c, ...) start values in [0, 1]; copied.

    Example:
        >>> canvas = PixelCanvas(torch.full((1, 1, 2, 2), 0.5))
        >>> canvas.images().shape, canvas.parameters()[0].requires_grad
        (torch.Size([1, 1, 2, 2]), True)
    """

    def __init__(self, pixels: Tensor) -> None:
        layout = torch.channels_last if pixels.ndim == 4 else torch.contiguous_format
        self.pixels = pixels.detach().clone(memory_format=layout).requires_grad_()

    @staticmethod
    def noise(
        seeds: Sequence[int], image_shape: Sequence[int], *, deviation: float = 0.25, device: torch.device | None = None
    ) -> "PixelCanvas":
        """Start from clouds: noise with the spectrum of photographs, each image from a seed of its own.

        Amplitude falls as one over the spatial frequency, and channels share most of it, as light and shadow do. From
        white noise the optimization seldom finds large shapes: dreams stay gray and fine-grained.

        Args:
            seeds: One per image.
            image_shape: (c, length), (c, h, w) or (c, d, h, w).
            deviation: Standard deviation around 1/2, in units of the whole range; > 0.
            device: Where the pixels live; the noise is the same everywhere.

        Reference: Field 1987, "Relations between the statistics of natural images and the response properties of
        cortical cells": the spectrum.
        """
        starts = [_clouds(image_shape, torch.Generator().manual_seed(seed)) for seed in seeds]
        return PixelCanvas((torch.stack(starts) * deviation + 0.5).clamp(0, 1).to(device))

    def parameters(self) -> Sequence[Tensor]:
        """The pixels."""
        return (self.pixels,)

    def images(self) -> Tensor:
        """The pixels."""
        return self.pixels

    def settle(self) -> None:
        """Clip to [0, 1]."""
        with torch.no_grad():
            self.pixels.clamp_(0, 1)


def _clouds(image_shape: Sequence[int], rng: torch.Generator) -> Tensor:
    """(c, ...) of mean 0 and deviation 1 in expectation over many: noise whose amplitude is 1 / frequency."""
    channels, *sides = image_shape
    own, shared = torch.randn(channels + 1, *sides, generator=rng).split([channels, 1])
    white = math.sqrt(1 - SHARED_LIGHT) * own + math.sqrt(SHARED_LIGHT) * shared
    frequency = _length([*map(torch.fft.fftfreq, sides[:-1]), torch.fft.rfftfreq(sides[-1])])
    # The mean level has no frequency of its own: it varies as the largest shapes do.
    origin = (0,) * len(sides)
    frequency[origin] = 1 / max(sides)
    axes = tuple(range(1, 1 + len(sides)))
    clouds = torch.fft.irfftn(torch.fft.rfftn(white, dim=axes) / frequency, s=sides, dim=axes)
    full = _length([*map(torch.fft.fftfreq, sides)])
    full[origin] = frequency[origin]
    return clouds / full.pow(-2).mean().sqrt()


def _length(axes: Sequence[Tensor]) -> Tensor:
    """The Euclidean length of every vector of a grid."""
    grids = [axis.view(-1, *[1] * (len(axes) - 1 - place)) for place, axis in enumerate(axes)]
    return functools.reduce(torch.hypot, grids) if len(grids) > 1 else grids[0].abs()
