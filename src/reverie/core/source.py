"""Where batches come from: real images, a dream bank, or noise, all alike to whoever reads them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.core.errors import RangeError, ShapeError
from reverie.core.rng import generator

__all__ = ["Source", "noise_source"]


@dataclass(frozen=True, eq=False)
class Source:
    """Images with a name, held in memory as 8-bit values, as any image file would hold them.

    Attributes:
        name: What a table calls it: `"dreams"`, `"noise"`, `"real"`.
        images: (n, c, h, w) uint8.
        labels: (n,) int64, or None where nobody knows them.

    Raises:
        ShapeError: The images are not uint8 (n, c, ...) with n >= 1, or the labels are not one for each.

    Example:
        >>> source = Source("real", torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
        >>> len(source), source.floats()
        (1, tensor([[[[0., 1.]]]]))
    """

    name: str
    images: Tensor
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim < 3 or len(self.images) == 0:
            raise ShapeError(
                f"source {self.name!r} needs uint8 images (n, c, h, w) with n >= 1, "
                f"got {self.images.dtype} {tuple(self.images.shape)}"
            )
        if self.labels is not None and self.labels.shape != (len(self.images),):
            raise ShapeError(
                f"source {self.name!r} has {len(self.images)} images and {tuple(self.labels.shape)} labels"
            )

    def __len__(self) -> int:
        return len(self.images)

    def floats(self, pick: Tensor | slice | None = None) -> Tensor:
        """Images as float32 in [0, 1]: all, or those picked."""
        chosen = self.images if pick is None else self.images[pick]
        return chosen.float() / 255

    def split(self, *, held_out: float, seed: int) -> tuple["Source", "Source"]:
        """Two disjoint sources: the rest, and a random share `held_out`, in (0, 1)."""
        count = round(len(self) * held_out)
        if not 0 < count < len(self):
            raise RangeError(f"cannot hold out {held_out} of {len(self)} images; need at least one on each side")
        order = torch.randperm(len(self), generator=generator(seed, "split"))
        return self._picked(order[count:]), self._picked(order[:count])

    def batches(self, *, batch_size: int, seed: int) -> Iterator[Tensor]:
        """Index batches (batch_size,), shuffled anew each pass, for ever; no batch is short.

        A source smaller than `batch_size` repeats images within a batch.

        Raises:
            RangeError: `batch_size` is below 1; raised where the first batch is drawn.
        """
        if batch_size < 1:
            raise RangeError(f"a batch of {batch_size} images of source {self.name!r} is empty; give at least 1")
        rng = generator(seed, "batches")
        order = torch.empty(0, dtype=torch.int64)
        while True:
            while len(order) < batch_size:
                order = torch.cat([order, torch.randperm(len(self), generator=rng)])
            yield order[:batch_size]
            order = order[batch_size:]

    def _picked(self, pick: Tensor) -> "Source":
        return Source(self.name, self.images[pick], None if self.labels is None else self.labels[pick])


def noise_source(*, count: int, image_shape: tuple[int, ...], seed: int) -> Source:
    """Gaussian noise of mean 1/2 and deviation 1/4, clipped to [0, 1]: the control beside every data-free claim.

    Args:
        count: Images, at least 1.
        image_shape: (c, ...) of each.
        seed: Of the noise.

    Example:
        >>> noise_source(count=2, image_shape=(1, 4, 4), seed=0).images.shape
        torch.Size([2, 1, 4, 4])
    """
    noise = torch.randn(count, *image_shape, generator=generator(seed, "noise"))
    return Source("noise", (noise * 63.75 + 127.5).round().clamp(0, 255).to(torch.uint8))
