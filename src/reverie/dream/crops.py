"""Random views of images: a box resized to the whole, mirrored or not; and the curriculum from easy to hard.

What for: an image that is dreamed, or taught from, in many crops holds its class in more than one place and size.
Boxes are plain numbers, so the views that soft labels were given for can be made again.

Cost: one bilinear sampling per step. Source: Yin et al. 2023, arXiv:2306.13092 (SRe2L), section 3; Yin and Shen 2023,
arXiv:2311.18838 (CDA), section 3: the curriculum.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.augment import Augment
from reverie.core.counts import check_counts
from reverie.core.errors import RangeError

__all__ = ["CurriculumCrop", "RandomCrop", "crop", "draw_boxes", "from_the_start"]

# Width over height of a box, drawn evenly on the logarithm.
ASPECT = (3 / 4, 4 / 3)


def draw_boxes(count: int, *, smallest: float, largest: float, rng: torch.Generator) -> Tensor:
    """Boxes (count, 5): left, top, width, height as shares of the image, and 1 where it is mirrored.

    The area is drawn evenly between `smallest` and `largest`, shares of the whole; aspect from 3/4 to 4/3; half are
    mirrored.

    Raises:
        RangeError: Not 0 < smallest <= largest <= 1.

    Example:
        >>> draw_boxes(1, smallest=1.0, largest=1.0, rng=torch.Generator().manual_seed(0))[0, :2]
        tensor([0., 0.])
    """
    if not 0 < smallest <= largest <= 1:
        raise RangeError(f"areas need 0 < smallest <= largest <= 1, got {smallest} and {largest}")
    area, aspect, left, top, mirrored = torch.rand(5, count, generator=rng)
    area = smallest + (largest - smallest) * area
    low, high = (math.log(value) for value in ASPECT)
    aspect = (low + (high - low) * aspect).exp()
    # A box that would be longer than the image is cut to it, and so is a little smaller than drawn.
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    if smallest == 1:
        width = height = torch.ones(count)
    return torch.stack([left * (1 - width), top * (1 - height), width, height, (mirrored < 0.5).float()], dim=1)


def crop(images: Tensor, boxes: Tensor) -> Tensor:
    """Each image's box, bilinearly resized to the whole.

    Shapes: images (n, c, h, w), boxes (n, 5) -> (n, c, h, w).

    Example:
        >>> image = torch.tensor([[[[0.0, 1.0]]]])
        >>> crop(image, torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0]]))
        tensor([[[[1., 0.]]]])
    """
    left, top, width, height, mirrored = boxes.to(images.device).unbind(1)
    # affine_grid maps [-1, 1] of the result to where it is read, [-1, 1] of the image.
    matrix = torch.zeros(len(images), 2, 3, device=images.device)
    matrix[:, 0, 0] = width * (1 - 2 * mirrored)
    matrix[:, 1, 1] = height
    matrix[:, 0, 2] = 2 * left + width - 1
    matrix[:, 1, 2] = 2 * top + height - 1
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid.to(images.dtype), padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class RandomCrop:
    """Every image by a random box, each on its own.

    Attributes:
        smallest: Least area of a box, as a share of the whole, in (0, 1].

    Example:
        >>> RandomCrop(0.5)(torch.rand(2, 3, 8, 8), torch.Generator()).shape
        torch.Size([2, 3, 8, 8])

    Raises:
        RangeError: `smallest` out of range.
    """

    smallest: float

    def __post_init__(self) -> None:
        _check_shares(smallest=self.smallest)

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """What the network is shown of the images in one step."""
        return crop(images, draw_boxes(len(images), smallest=self.smallest, largest=1.0, rng=rng))


@dataclass(frozen=True)
class CurriculumCrop:
    """Boxes whose least area falls from the whole image to `smallest` over the first `share` of the steps.

    It counts its own calls; `dream` begins it anew in every batch.

    Attributes:
        steps: Calls in all, >= 1.
        smallest: Least area at the end, in (0, 1].
        share: In which share of the steps it falls, in (0, 1].

    Example:
        >>> views = CurriculumCrop(steps=10)
        >>> round(views.least_area(0), 2), round(views.least_area(9), 2)
        (1.0, 0.08)

    Raises:
        RangeError: A number lies outside its range.
    """

    steps: int
    smallest: float = 0.08
    share: float = 0.8
    _calls: list[int] = field(default_factory=lambda: [0], repr=False, compare=False)

    def __post_init__(self) -> None:
        check_counts(steps=self.steps)
        _check_shares(smallest=self.smallest, share=self.share)

    def least_area(self, step: int) -> float:
        """The least area at a step: half a cosine from 1 to `smallest`.

        Example:
            >>> [round(CurriculumCrop(11, smallest=0.2, share=1.0).least_area(step), 2) for step in (0, 5, 10)]
            [1.0, 0.6, 0.2]
        """
        done = min(1.0, step / max(1.0, self.share * (self.steps - 1)))
        return self.smallest + (1 - self.smallest) * 0.5 * (1 + math.cos(math.pi * done))

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """What the network is shown of the images in one step."""
        least = self.least_area(self._calls[0])
        self._calls[0] += 1
        return crop(images, draw_boxes(len(images), smallest=least, largest=1.0, rng=rng))


def from_the_start(augment: Augment | None) -> Augment | None:
    """The same views, but of a curriculum: one that was not called yet.

    Example:
        >>> views = CurriculumCrop(steps=10)
        >>> from_the_start(views) == views, from_the_start(views) is views
        (True, False)
    """
    if isinstance(augment, CurriculumCrop):
        return CurriculumCrop(augment.steps, augment.smallest, augment.share)
    return augment


def _check_shares(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 < value <= 1:
            raise RangeError(f"{name} must lie in (0, 1], got {value}")
