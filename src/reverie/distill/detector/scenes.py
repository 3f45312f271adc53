"""Scenes to detect in: labeled pictures of single objects, at random places and sizes on a larger, clouded canvas.

What for: a detection problem of known truth, made in seconds from any set of labeled images; its objects are real ones.
Cost: one resize per object.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.errors import RangeError, ReferenceNotFound
from reverie.core.rng import generator
from reverie.core.source import Source
from reverie.metrics.detection import Truth, overlaps

__all__ = ["Scenes", "make_scenes"]

TRIES = 20
# Objects may touch, and hide at most about so much of each other.
MOST_OVERLAP = 0.1


@dataclass(frozen=True, eq=False)
class Scenes:
    """Images with the boxes and classes of what is in them.

    Attributes:
        images: (n, c, size, size) uint8.
        truths: For each image, boxes in shares of the image.

    Example:
        >>> truth = Truth(torch.tensor([[0.0, 0.0, 0.5, 0.5]]), torch.tensor([1]))
        >>> scenes = Scenes(torch.zeros(1, 3, 96, 96, dtype=torch.uint8), (truth,))
        >>> len(scenes.images) == len(scenes.truths)
        True
    """

    images: Tensor
    truths: tuple[Truth, ...]

    def __len__(self) -> int:
        return len(self.images)


def make_scenes(
    objects: Source,
    *,
    count: int,
    seed: int,
    size: int = 96,
    each: tuple[int, int] = (1, 3),
    sides: tuple[int, int] = (24, 48),
) -> Scenes:
    """Scenes with objects drawn at random from a labeled source.

    Args:
        objects: Labeled pictures of single objects.
        count: Scenes, at least 1.
        seed: Decides everything.
        size: Height and width of a scene in pixels.
        each: Fewest and most objects of a scene; where no place is found for one, it is left out, but for the first.
        sides: Smallest and largest height and width of an object in pixels, at most `size`.

    Raises:
        ReferenceNotFound: The objects have no labels.
        RangeError: A number outside its range.

    Example:
        >>> objects = Source("squares", torch.full((4, 1, 8, 8), 255, dtype=torch.uint8), torch.arange(4))
        >>> scenes = make_scenes(objects, count=3, seed=0)
        >>> scenes.images.shape, 1 <= len(scenes.truths[0].boxes) <= 3
        (torch.Size([3, 1, 96, 96]), True)
    """
    if objects.labels is None:
        raise ReferenceNotFound(f"the objects {objects.name!r} have no labels, so nobody could say what was found")
    if count < 1 or not 1 <= each[0] <= each[1] or not 1 <= sides[0] <= sides[1] <= size:
        raise RangeError(
            f"scenes need count >= 1, 1 <= each and 1 <= sides <= size, both ascending; got {count}, {each}, {sides} "
            f"and size {size}"
        )
    made = [_scene(objects, objects.labels, generator(seed, "scene", i), size, each, sides) for i in range(count)]
    return Scenes(torch.stack([image for image, _ in made]), tuple(truth for _, truth in made))


def _scene(
    objects: Source,
    labels: Tensor,
    rng: torch.Generator,
    size: int,
    each: tuple[int, int],
    sides: tuple[int, int],
) -> tuple[Tensor, Truth]:
    wanted = int(torch.randint(each[0], each[1] + 1, (), generator=rng))
    boxes: list[Tensor] = []
    for _ in range(TRIES * wanted):
        if len(boxes) == wanted:
            break
        side = int(torch.randint(sides[0], sides[1] + 1, (), generator=rng))
        left, top = torch.randint(0, size - side + 1, (2,), generator=rng).tolist()
        box = torch.tensor([left, top, left + side, top + side])
        if not boxes or float(overlaps(box[None].float(), torch.stack(boxes).float()).max()) <= MOST_OVERLAP:
            boxes.append(box)
    canvas = _clouds(objects.images.shape[1], size, rng)
    picks = torch.randint(len(objects), (len(boxes),), generator=rng)
    for (left, top, right, bottom), pick in zip(_ints(boxes), picks.tolist(), strict=True):
        picture = F.interpolate(
            objects.floats(slice(pick, pick + 1)), (bottom - top, right - left), mode="bilinear", antialias=True
        )
        canvas[:, top:bottom, left:right] = picture[0]
    image = (canvas * 255).round().clamp(0, 255).to(torch.uint8)
    return image, Truth(torch.stack(boxes).float() / size, labels[picks])


def _clouds(channels: int, size: int, rng: torch.Generator) -> Tensor:
    """(c, size, size) in [0, 1]: smooth shapes with a grain."""
    coarse = torch.rand(1, channels, 6, 6, generator=rng)
    smooth = F.interpolate(coarse, (size, size), mode="bicubic")[0]
    return (smooth + 0.1 * torch.randn(channels, size, size, generator=rng)).clamp(0, 1)


def _ints(boxes: Sequence[Tensor]) -> list[list[int]]:
    return [box.tolist() for box in boxes]
