"""How much of a bank repeats itself: the cheapest sign that a synthesis has collapsed.

Cost: n^2 inner products of n images, in blocks, so memory stays at a few megabytes.
"""

import torch
from torch import Tensor

from reverie.core.errors import ShapeError

__all__ = ["duplicates", "repeated"]

BLOCK = 1024
ALIKE = 0.98


def duplicates(images: Tensor) -> float:
    """Share of images that nearly repeat an earlier one, in [0, 1).

    Two images are alike where the cosine of their pixels, each image's own mean taken off, exceeds 0.98; brightness
    and contrast do not count. Images of one flat color are alike.

    Shapes: images (n, ...) uint8.

    Raises:
        ShapeError: Not uint8, or no images.

    Example:
        >>> duplicates(torch.tensor([[0, 9, 0], [0, 90, 1], [9, 0, 0]], dtype=torch.uint8))
        0.3333333333333333
    """
    seen = repeated(images)
    return int(seen.sum()) / len(seen)


def repeated(images: Tensor) -> Tensor:
    """Which images nearly repeat an earlier one; alike as in `duplicates`.

    Shapes: images (n, ...) uint8 -> (n,) bool.

    Raises:
        ShapeError: Not uint8, or no images.

    Example:
        >>> repeated(torch.tensor([[0, 9, 0], [0, 90, 1], [9, 0, 0]], dtype=torch.uint8))
        tensor([False,  True, False])
    """
    if images.dtype != torch.uint8 or images.ndim < 2 or len(images) == 0:
        raise ShapeError(f"duplicates takes uint8 images (n, ...), n >= 1, got {images.dtype} {tuple(images.shape)}")
    flat = images.flatten(1).float()
    flat = flat - flat.mean(1, keepdim=True)
    norm = flat.norm(dim=1, keepdim=True)
    # A flat image has no direction; an axis of its own makes flat images alike, and unlike all others.
    plain = norm < 1e-3
    unit = torch.cat([torch.where(plain, 0.0, flat / norm.clamp_min(1e-3)), plain.float()], dim=1)
    rows = []
    for start in range(0, len(unit), BLOCK):
        block = unit[start : start + BLOCK]
        seen = torch.zeros(len(block), dtype=torch.bool, device=unit.device)
        for earlier in range(0, start, BLOCK):
            seen |= (block @ unit[earlier : earlier + BLOCK].T > ALIKE).any(1)
        seen |= (block @ block.T > ALIKE).tril(-1).any(1)
        rows.append(seen)
    return torch.cat(rows)
