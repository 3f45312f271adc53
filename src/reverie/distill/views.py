"""The views of an image that student and teacher are both shown.

A small bank goes a long way when each image is seen in many ways, and when the teacher answers for the very view that
the student sees: nothing is assumed about what a shift or a flip leaves unchanged. Blends of two images are off unless
asked for: taught on dreams, they moved the student's batch statistics away from those of real images and cost a third
of a point of accuracy to two points. With many passes over real images they help.

Cost: a gather per batch. Source: Beyer et al., 2022, arXiv:2106.05237, section 3.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.errors import RangeError, ShapeError

__all__ = ["Views"]


@dataclass(frozen=True)
class Views:
    """How a batch of images is varied before both networks see it; all parts off is the images themselves.

    Attributes:
        flip: Mirror each image left to right with probability 1/2.
        shift_pixels: Shift each image by up to so many pixels each way, the border reflected; at least 0.
        blend: Mix into each image up to this share of another one of the batch, in [0, 1]: the share is drawn evenly
            from [0, blend], for each image anew.

    Raises:
        RangeError: A negative shift, or a blend outside [0, 1].

    Example:
        >>> images = torch.arange(4.0).reshape(2, 1, 1, 2)
        >>> Views(flip=False, shift_pixels=0).draw(images, torch.Generator()) is images
        True
    """

    flip: bool = True
    shift_pixels: int = 2
    blend: float = 0.0

    def __post_init__(self) -> None:
        if self.shift_pixels < 0:
            raise RangeError(f"shift_pixels is a distance and at least 0, got {self.shift_pixels}")
        if not 0 <= self.blend <= 1:
            raise RangeError(f"blend is a share in [0, 1], got {self.blend}")

    def draw(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """One view of each image.

        Shapes: (n, c, h, w) -> the same.

        Args:
            images: In [0, 1]; the view stays in that range.
            rng: Where the choices come from, a generator of the CPU.

        Raises:
            ShapeError: The images are not (n, c, h, w).
        """
        if images.ndim != 4:
            raise ShapeError(f"views are drawn of images (n, c, h, w), got {tuple(images.shape)}")
        moved = self._moved(images, rng) if self.flip or self.shift_pixels else images
        if not self.blend:
            return moved
        partners = moved[torch.randperm(len(moved), generator=rng)]
        share = self.blend * torch.rand(len(moved), 1, 1, 1, generator=rng)
        return moved.lerp(partners, share.to(moved.device))

    def _moved(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Each image shifted, and mirrored or not."""
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
