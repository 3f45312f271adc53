"""Boxes as a detector sees them: anchors, offsets from anchors, which anchor answers for which object.

Boxes are (left, top, right, bottom) in shares of the image. Source: Liu et al., 2016, arXiv:1512.02325, section 2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from reverie.metrics.detection import Found, Truth, overlaps

__all__ = ["anchors", "assign", "decode", "encode", "suppress"]

# Offsets are measured in these, so that all four are of size one: of centers, of logarithms of sizes.
CENTER, SIZE = 0.1, 0.2


def anchors(grids: Sequence[int], sides: Sequence[Sequence[float]], *, ratios: Sequence[float] = (1.0,)) -> Tensor:
    """Boxes of all sides and ratios around the center of each cell, grid by grid, row by row.

    Shapes: -> (sum over grids of grid^2 * sides * ratios, 4).

    Args:
        grids: Cells along each side of the image.
        sides: For each grid, the sides of its anchors, in shares of the image.
        ratios: Width over height.

    Example:
        >>> anchors([1], [[0.5]])
        tensor([[0.2500, 0.2500, 0.7500, 0.7500]])
    """
    made = []
    for grid, lengths in zip(grids, sides, strict=True):
        center = (torch.arange(grid) + 0.5) / grid
        down, across = torch.meshgrid(center, center, indexing="ij")
        half = torch.tensor([[side * ratio**0.5, side / ratio**0.5] for side in lengths for ratio in ratios]) / 2
        middle = torch.stack([across, down], dim=2).view(grid * grid, 1, 2)
        made.append(torch.cat([middle - half, middle + half], dim=2).view(-1, 4))
    return torch.cat(made)


def encode(boxes: Tensor, around: Tensor) -> Tensor:
    """Boxes as offsets from anchors: (n, 4) and (n, 4) -> (n, 4); `decode` undoes it.

    Example:
        >>> around = anchors([1], [[0.5]])
        >>> box = torch.tensor([[0.1, 0.2, 0.6, 0.9]])
        >>> torch.allclose(decode(encode(box, around), around), box)
        True
    """
    center, size = _middle(boxes)
    from_center, from_size = _middle(around)
    return torch.cat([(center - from_center) / from_size / CENTER, (size / from_size).log() / SIZE], dim=-1)


def decode(offsets: Tensor, around: Tensor) -> Tensor:
    """Offsets from anchors as boxes: (..., 4) and (n, 4) -> (..., 4), differentiable.

    Example:
        >>> decode(torch.zeros(1, 4), anchors([1], [[0.5]]))
        tensor([[0.2500, 0.2500, 0.7500, 0.7500]])
    """
    from_center, from_size = _middle(around)
    center = from_center + offsets[..., :2] * CENTER * from_size
    # A hundredfold size is no object any more; without a bound the exponential of a wild offset is infinite.
    size = from_size * (offsets[..., 2:] * SIZE).clamp(-4.6, 4.6).exp()
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def assign(around: Tensor, truth: Truth, *, threshold: float = 0.5) -> Tensor:
    """For each anchor the object that it answers for, or -1: (anchors,) int64.

    An anchor answers for the object that it overlaps most, by the threshold at least; and each object has the anchor
    that overlaps it most, whatever that overlap.

    Args:
        around: (anchors, 4), the anchors as boxes.
        truth: What is in the image.
        threshold: Least overlap, in (0, 1].

    Example:
        >>> around = anchors([2], [[0.5]])
        >>> assign(around, Truth(torch.tensor([[0.0, 0.0, 0.5, 0.4]]), torch.tensor([7])))
        tensor([ 0, -1, -1, -1])
    """
    if len(truth.boxes) == 0:
        return torch.full((len(around),), -1)
    shared = overlaps(around, truth.boxes)
    best, which = shared.max(1)
    which = torch.where(best >= threshold, which, -1)
    which[shared.argmax(0)] = torch.arange(len(truth.boxes))
    return which


def suppress(boxes: Tensor, scores: Tensor, *, threshold: float = 0.45, most: int = 50) -> Tensor:
    """Indices of boxes to keep, surest first: those that overlap a surer one by more than the threshold go.

    Shapes: boxes (k, 4), scores (k,) -> (kept,) int64, at most `most` of them.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [5.0, 5.0, 6.0, 6.0]])
        >>> suppress(boxes, torch.tensor([0.8, 0.9, 0.3]))
        tensor([1, 2])
    """
    order = scores.argsort(descending=True, stable=True)[: 8 * most]
    shared = overlaps(boxes[order], boxes[order])
    kept: list[int] = []
    for place in range(len(order)):
        if len(kept) == most:
            break
        if not kept or float(shared[place, kept].max()) <= threshold:
            kept.append(place)
    return order[torch.tensor(kept, dtype=torch.int64)]


def detections(logits: Tensor, boxes: Tensor, *, least: float = 0.02) -> Found:
    """One image's answers as detections: (anchors, classes + 1) with the background last, (anchors, 4)."""
    probabilities = logits.softmax(1)[:, :-1]
    parts = []
    for label in range(probabilities.shape[1]):
        likely = (probabilities[:, label] > least).nonzero().flatten()
        if len(likely):
            scores = probabilities[likely, label]
            kept = suppress(boxes[likely], scores)
            parts.append((boxes[likely][kept], torch.full((len(kept),), label), scores[kept]))
    if not parts:
        return Found(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    return Found(*(torch.cat([part[index] for part in parts]) for index in range(3)))


def _middle(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]).clamp_min(1e-6)
