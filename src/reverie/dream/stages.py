"""Dreams from coarse to fine: stages of rising resolution, each with its own steps, schedule and views.

Small images are cheap, and what a network sees in them is large; the next stage goes on from them at a higher
resolution. A spectrum is continued without loss: its frequencies stay, the new ones begin as the noise of the image's
own seed. What comes back is the last iterate of the last stage: losses of different stages do not compare, so no
iterate of a coarse stage is ever kept in its place.

Cost: that of each stage's steps; at half the sides an image has a quarter of the pixels.
Source: stages from low to full resolution, Yin et al. 2020, arXiv:1912.08795, section 4.1. Differs: any number of
stages; the canvas itself is small, where the publication pools a large one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.augment import Augment, still
from reverie.core.describe import describe
from reverie.core.errors import RangeError, ShapeError
from reverie.core.events import Listener, part_of, silent
from reverie.core.rng import derive_seed
from reverie.dream.canvas import Canvas, PixelCanvas
from reverie.dream.fourier import FourierCanvas
from reverie.dream.loop import Optimized, optimize

__all__ = [
    "MakeCanvas",
    "Stage",
    "check_stages",
    "finishing_stages",
    "grown",
    "halving_stages",
    "optimize_stages",
]

LEARNING_RATE = 0.05
# Steps on images that were not recognized in views, and the rate that they begin with, as shares.
FINISH, FINISH_RATE = 0.25, 0.4
MODES = {3: "linear", 4: "bilinear", 5: "trilinear"}


class MakeCanvas(Protocol):
    """How a canvas begins: `FourierCanvas`, `PixelCanvas.noise`, `white_noise`, `deep_image_prior`, or your own.

    Example:
        >>> makes: list[MakeCanvas] = [FourierCanvas, PixelCanvas.noise]
        >>> [make([0, 1], (3, 8, 8), device=None).images().shape for make in makes]
        [torch.Size([2, 3, 8, 8]), torch.Size([2, 3, 8, 8])]
    """

    def __call__(self, seeds: Sequence[int], image_shape: Sequence[int], *, device: torch.device | None) -> Canvas:
        """One image for each seed, the same for the same seeds."""


@dataclass(frozen=True)
class Stage:
    """A part of an optimization: one resolution, its steps and its schedule.

    Attributes:
        steps: Optimization steps, >= 1.
        share: Of the full sides of the images, in (0, 1].
        learning_rate: Of the first step, > 0; half a cosine takes it to zero at the stage's end.
        augment: What the network is shown in each step; None takes that of the whole dream.
        unseen_only: Whether the stage is for images on which the network does not yet answer as asked: the others stay
            as the stage before left them, and where that is all of a batch, it is skipped.

    Example:
        >>> Stage(100, share=0.5).image_shape((3, 32, 32))
        (3, 16, 16)
    """

    steps: int
    share: float = 1.0
    learning_rate: float = LEARNING_RATE
    augment: Augment | None = None
    unseen_only: bool = False

    def image_shape(self, full: Sequence[int]) -> tuple[int, ...]:
        """The shape of this stage's images, no side below one pixel.

        Example:
            >>> Stage(100, share=0.5).image_shape((3, 32, 31))
            (3, 16, 16)
        """
        return full[0], *(max(1, round(self.share * side)) for side in full[1:])

    def describe(self) -> dict[str, Any]:
        """As JSON values."""
        augment = None if self.augment is None else describe(self.augment)
        return {
            "steps": self.steps,
            "share": self.share,
            "learning_rate": self.learning_rate,
            "augment": augment,
            "unseen_only": self.unseen_only,
        }


def halving_stages(count: int, *, steps: int, learning_rate: float = LEARNING_RATE) -> tuple[Stage, ...]:
    """Stages of which each has twice the sides of the one before, and as many steps; the last takes what is left over.

    Args:
        count: How many, >= 1; 1 is the full resolution alone.
        steps: Of all together, >= count.
        learning_rate: Of each stage's first step, > 0.

    Raises:
        RangeError: A number lies outside its range.

    Example:
        >>> [(stage.share, stage.steps) for stage in halving_stages(3, steps=100)]
        [(0.25, 33), (0.5, 33), (1.0, 34)]
    """
    if count < 1 or steps < count:
        raise RangeError(f"stages need a count of at least 1 and a step for each, got {count} stages of {steps} steps")
    each = steps // count
    return tuple(
        Stage(each if left else steps - each * (count - 1), 0.5**left, learning_rate) for left in reversed(range(count))
    )


def finishing_stages(*, steps: int, learning_rate: float = LEARNING_RATE) -> tuple[Stage, ...]:
    """The usual two: all steps under the dream's views, and a quarter more for images that the network then misses.

    Views make images that other networks recognize, and that teach. A network that was never taught to bear turned or
    zoomed images finds its class in all views only halfway, so images that it misses are finished as they are, and only
    those. Measured on a transformer of two layers, 40 dreams of 250 steps: it recognizes 68 % without the second part,
    and all with it. Where all of 1,024 dreams ended as they are, a CIFAR-10 ResNet-20 without three of its blocks
    learned less from them: 86.1 % of test images, and 87.6 % where none did.

    Args:
        steps: Of the first part, >= 1; below 4 there is no second one.
        learning_rate: Of the first step, > 0; the second part begins with 0.4 of it.

    Example:
        >>> [(stage.steps, round(stage.learning_rate, 3), stage.unseen_only) for stage in finishing_stages(steps=200)]
        [(200, 0.05, False), (50, 0.02, True)]
    """
    whole, last = Stage(steps, learning_rate=learning_rate), int(FINISH * steps)
    rate = FINISH_RATE * learning_rate
    return (whole, Stage(last, learning_rate=rate, augment=still, unseen_only=True)) if last else (whole,)


def check_stages(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Stages that end at the full resolution, and never shrink.

    Raises:
        RangeError: None at all, a number out of range, a stage coarser than the one before, a coarse last one, one
            for unseen images that does not follow another of its size, or one for all images behind it.
    """
    for stage in stages:
        if stage.steps < 1 or not 0 < stage.share <= 1 or not stage.learning_rate > 0:
            raise RangeError(f"a stage needs steps >= 1, a share in (0, 1] and a learning_rate above 0, got {stage}")
    shares = [stage.share for stage in stages]
    if not shares or shares != sorted(shares) or shares[-1] != 1:
        raise RangeError(f"stages go from coarse to fine and end with share 1, the whole image; got shares {shares}")
    for before, stage in zip([None, *stages], stages, strict=False):
        if stage.unseen_only and (before is None or before.share != stage.share):
            raise RangeError(f"a stage for unseen images follows another of the same share, got {stage} after {before}")
        if before is not None and before.unseen_only and not stage.unseen_only:
            raise RangeError(f"{stage} would change the images that {before} kept. Put stages for unseen images last.")
    return tuple(stages)


def optimize_stages(
    network: nn.Module,
    make: MakeCanvas,
    seeds: Sequence[int],
    image_shape: Sequence[int],
    *,
    stages: Sequence[Stage],
    augment: Callable[[Sequence[int]], Augment],
    seen: Callable[[Tensor], Tensor] = lambda images: torch.zeros(len(images), dtype=torch.bool),
    device: torch.device | None = None,
    seed: int,
    on_event: Listener = silent,
    **asked: Any,
) -> Optimized:
    """Optimize one canvas after the other, each begun from the one before, and return what the last one shows.

    Args:
        network: As `optimize` takes it.
        make: Makes a canvas.
        seeds: One for each image.
        image_shape: Of the last stage.
        stages: See `check_stages`.
        augment: From the image shape of a stage to what the network is shown in it.
        seen: Images (n, c, ...) in [0, 1] -> whether the network answers each as asked: (n,), bool. Unless given, it
            answers none so.
        device: Of the canvas.
        seed: Of all augmentations.
        on_event: Told of every step, counted over all stages.
        asked: The other arguments of `optimize`: term, targets, precision, taps, statistics.

    Raises:
        ShapeError: The canvas cannot go on at another resolution.
        RangeError: See `optimize`.
        Diverged: See `optimize`.

    Example:
        >>> from reverie.dream.recipe import default_augment
        >>> from reverie.dream.terms import class_term
        >>> network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 3))
        >>> found = optimize_stages(network, PixelCanvas.noise, [0, 1], (1, 8, 8), stages=halving_stages(2, steps=4),
        ...                         augment=default_augment, seed=0, term=class_term(), targets=torch.tensor([0, 2]))
        >>> found.images.shape
        torch.Size([2, 1, 8, 8])
    """
    total, done = sum(stage.steps for stage in stages), 0
    canvas: Canvas | None = None
    result = Optimized(torch.empty(0), {})
    for index, stage in enumerate(check_stages(stages)):
        kept = seen(result.images) if stage.unseen_only else None
        if kept is not None and bool(kept.all()):
            continue
        shape = stage.image_shape(image_shape)
        fresh = make(seeds, shape, device=device)
        canvas = fresh if canvas is None else grown(canvas, fresh)
        told, drawn = part_of(on_event, before=done, total=total), derive_seed(seed, "stage", index) if index else seed
        how: Any = {"learning_rate": stage.learning_rate, "augment": stage.augment or augment(shape), **asked}
        after = optimize(network, canvas, steps=stage.steps, seed=drawn, on_event=told, **how)
        done += stage.steps
        result = after if kept is None else _but(after, kept, result.images)
    return result


def _but(after: Optimized, kept: Tensor, before: Tensor) -> Optimized:
    """The end of a stage, but for images that are kept as they were before it."""
    places = kept.view(-1, *[1] * (before.ndim - 1))
    return replace(after, images=torch.where(places, before, after.images))


def grown(canvas: Canvas, fresh: Canvas) -> Canvas:
    """A canvas of a higher resolution that shows what another shows, and what it cannot show as a fresh one does.

    Spectra keep their frequencies, the new ones are the fresh canvas's; pixels are interpolated linearly.

    Args:
        canvas: Where a stage ended.
        fresh: The start of the next one, of the same kind; changed and returned.

    Raises:
        ShapeError: The kinds differ, or have no resolution that could rise.

    Example:
        >>> small, large = FourierCanvas([0], (1, 4, 4)), FourierCanvas([0], (1, 8, 8))
        >>> grown(small, large).images().shape
        torch.Size([1, 1, 8, 8])
    """
    with torch.no_grad():
        if isinstance(canvas, FourierCanvas) and isinstance(fresh, FourierCanvas):
            _keep_frequencies(canvas, fresh)
        elif isinstance(canvas, PixelCanvas) and isinstance(fresh, PixelCanvas):
            size = fresh.pixels.shape[2:]
            fresh.pixels.copy_(_resized(canvas.pixels, size))
        elif canvas.images().shape == fresh.images().shape:
            return canvas
        else:
            raise ShapeError(
                f"a {type(canvas).__name__} cannot go on at another resolution. Take one stage, or optimize pixels or "
                "their spectrum."
            )
    return fresh


def _keep_frequencies(canvas: FourierCanvas, fresh: FourierCanvas) -> None:
    """Copy the coefficients of the frequencies that both have, in the fresh canvas's units."""
    # The transform is unitary, so the same wave has a larger coefficient in a larger image.
    unit = math.sqrt(math.prod(fresh.sides) / math.prod(canvas.sides))
    old, new = canvas.coefficients, fresh.coefficients
    places = [_both(small, large, half=False) for small, large in zip(canvas.sides[:-1], fresh.sides[:-1], strict=True)]
    places.append(_both(canvas.sides[-1], fresh.sides[-1], half=True))
    # The frequency of half a wave per pixel stands for two in a larger image: it begins anew, but for equal sides.
    waves = old[_grid(places, 0)] * canvas.scale[_grid(places, 0)[2:]][..., None]
    new[_grid(places, 1)] = waves * unit / fresh.scale[_grid(places, 1)[2:]][..., None]


def _grid(places: Sequence[tuple[Tensor, Tensor]], side: int) -> tuple[slice | Tensor, ...]:
    """All images and channels, at every combination of places."""
    grids: tuple[Tensor, ...] = tuple(torch.meshgrid(*(pair[side] for pair in places), indexing="ij"))
    return slice(None), slice(None), *grids


def _both(small: int, large: int, *, half: bool) -> tuple[Tensor, Tensor]:
    """Where the frequencies of a small side lie in its own spectrum, and in that of a large side."""
    waves = torch.arange(small // 2 + 1) if half else (torch.fft.fftfreq(small) * small).round().long()
    if small != large:
        waves = waves[2 * waves.abs() < small]
    return waves % small, waves % large


def _resized(pixels: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(pixels, size=tuple(size), mode=MODES[pixels.ndim], align_corners=False)
