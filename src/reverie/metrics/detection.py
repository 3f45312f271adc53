"""How well boxes are found and named: average precision over recall, classes and overlaps, as COCO counts it.

Cost: per class, one sort of its detections and one comparison of each with the truths of its image.
Source: Lin et al., 2014, arXiv:1405.0312, and the evaluation it links to: 101 recalls, overlaps 0.50 to 0.95 by 0.05.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.core.errors import RangeError, ShapeError

__all__ = ["COCO_OVERLAPS", "Found", "Truth", "average_precision", "overlaps"]

COCO_OVERLAPS = tuple(0.5 + 0.05 * place for place in range(10))
RECALLS = 101


@dataclass(frozen=True, eq=False)
class Truth:
    """What is in one image.

    Attributes:
        boxes: (k, 4): left, top, right, bottom, in any unit that the detections share.
        labels: (k,) int64.
    """

    boxes: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        _check(self.boxes, self.labels)


@dataclass(frozen=True, eq=False)
class Found:
    """What a detector reports for one image.

    Attributes:
        boxes: (k, 4): left, top, right, bottom.
        labels: (k,) int64.
        scores: (k,); higher is surer.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor

    def __post_init__(self) -> None:
        _check(self.boxes, self.labels)
        if self.scores.shape != self.labels.shape:
            raise ShapeError(f"{len(self.labels)} detections need as many scores, got {tuple(self.scores.shape)}")


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every box of a with every box of b; 0 where neither has an area.

    Shapes: (n, 4) and (m, 4) -> (n, m) in [0, 1].

    Example:
        >>> overlaps(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]]))
        tensor([[0.3333]])
    """
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clamp_min(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(1) for boxes in (a, b)]
    return shared / (areas[0][:, None] + areas[1][None] - shared).clamp_min(1e-12)


def average_precision(
    found: Sequence[Found], truths: Sequence[Truth], *, thresholds: Sequence[float] = COCO_OVERLAPS
) -> float:
    """The mean over classes that occur, and over overlaps, of precision averaged over recall.

    A detection is right where it overlaps a truth of its class in its image by the threshold at least, and no surer
    detection has taken that truth. Precision at a recall is the best at that recall or a higher one; it is averaged
    over 101 recalls from 0 to 1.

    Args:
        found: For each image.
        truths: For each image, in the same order.
        thresholds: Overlaps asked for, each in (0, 1]; `(0.5,)` for AP50.

    Returns:
        A share in [0, 1].

    Raises:
        ShapeError: Other numbers of images.
        RangeError: No truth at all, no threshold, or one outside (0, 1].

    Example:
        >>> box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        >>> truth = Truth(box, torch.tensor([3]))
        >>> average_precision([Found(box, torch.tensor([3]), torch.tensor([0.9]))], [truth])
        1.0

    Reference: Lin et al., 2014, arXiv:1405.0312. Differs: no sizes of objects, no limit to the number of detections.
    """
    if len(found) != len(truths):
        raise ShapeError(f"{len(truths)} images of truths need as many of detections, got {len(found)}")
    if not thresholds or not all(0 < threshold <= 1 for threshold in thresholds):
        raise RangeError(f"thresholds are overlaps in (0, 1], at least one; got {list(thresholds)}")
    classes = sorted({label for truth in truths for label in truth.labels.tolist()})
    if not classes:
        raise RangeError("average precision needs at least one true box, got none in any image")
    scores = [_of_class(found, truths, label, threshold) for threshold in thresholds for label in classes]
    return sum(scores) / len(scores)


def _of_class(found: Sequence[Found], truths: Sequence[Truth], label: int, threshold: float) -> float:
    hits: list[tuple[float, bool]] = []
    count = 0
    for one, truth in zip(found, truths, strict=True):
        wanted = truth.boxes[truth.labels == label]
        count += len(wanted)
        mine = one.labels == label
        order = one.scores[mine].argsort(descending=True, stable=True)
        # In double precision: in single, an overlap of exactly 0.7 lies below 0.7.
        shared = overlaps(one.boxes[mine][order].double(), wanted.double())
        free = torch.ones(len(wanted), dtype=torch.bool)
        for score, row in zip(one.scores[mine][order].tolist(), shared, strict=True):
            usable = torch.where(free, row.cpu(), -1.0)
            best = int(usable.argmax()) if len(wanted) else -1
            right = best >= 0 and float(usable[best]) >= threshold - 1e-9
            if right:
                free[best] = False
            hits.append((score, right))
    return _area([right for _, right in sorted(hits, key=lambda hit: -hit[0])], count)


def _area(right: Sequence[bool], count: int) -> float:
    """Precision averaged over 101 recalls, of detections from the surest down."""
    if not right:
        return 0.0
    hits = torch.tensor(right, dtype=torch.float64).cumsum(0)
    precision = hits / torch.arange(1, len(right) + 1)
    best_from_here = precision.flip(0).cummax(0).values.flip(0)
    recall = hits / count
    places = torch.searchsorted(recall, torch.linspace(0, 1, RECALLS, dtype=torch.float64) - 1e-9)
    reached = places < len(right)
    return float(torch.where(reached, best_from_here[places.clamp_max(len(right) - 1)], 0.0).mean())


def _check(boxes: Tensor, labels: Tensor) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
        raise ShapeError(f"boxes are (k, 4) with (k,) labels, got {tuple(boxes.shape)} and {tuple(labels.shape)}")
