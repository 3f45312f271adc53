"""What a detector is asked for: the truth, and what a classifier sees in the boxes.

Cost: the classifier on one crop per object; the differentiable crops of all boxes that answer for an object.
Source: Liu et al., 2016, arXiv:1512.02325, section 2.2; Chawla et al., 2021, arXiv:2106.05209, sections 3.2 and 3.3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.errors import RangeError
from reverie.distill.detector.boxes import assign, encode
from reverie.distill.detector.crop import crop
from reverie.metrics.detection import Truth

__all__ = ["Assigned", "assign_batch", "box_loss", "class_loss", "detection_loss"]

NEGATIVES_PER_POSITIVE = 3


@dataclass(frozen=True, eq=False)
class Assigned:
    """Which anchors of a batch answer for which objects.

    Attributes:
        owners: (p,) int64: the image of each such anchor.
        anchors: (p,) int64: its place among the anchors.
        objects: (p,) int64: its object, counted through the batch.
        boxes: (objects, 4): all objects of the batch.
        labels: (objects,).
        images: (objects,): the image of each object.

    Example:
        >>> from reverie.distill.detector.boxes import anchors
        >>> around = anchors([2], [[0.5]])
        >>> assigned = assign_batch(around, [Truth(torch.tensor([[0.0, 0.0, 0.5, 0.5]]), torch.tensor([1]))])
        >>> assigned.owners, assigned.anchors, assigned.labels
        (tensor([0]), tensor([0]), tensor([1]))
    """

    owners: Tensor
    anchors: Tensor
    objects: Tensor
    boxes: Tensor
    labels: Tensor
    images: Tensor


def assign_batch(around: Tensor, truths: Sequence[Truth]) -> Assigned:
    """Assign every image's anchors; see `assign`.

    Example:
        >>> from reverie.distill.detector.boxes import anchors
        >>> truth = Truth(torch.tensor([[0.0, 0.0, 0.5, 0.5]]), torch.tensor([1]))
        >>> assign_batch(anchors([2], [[0.5]]), [truth, truth]).objects
        tensor([0, 1])
    """
    counts = [len(truth.boxes) for truth in truths]
    firsts = torch.tensor([0, *counts]).cumsum(0)[:-1]
    which = torch.stack([assign(around, truth) for truth in truths])
    owners, places = (which >= 0).nonzero().unbind(1)
    return Assigned(
        owners,
        places,
        which[owners, places] + firsts[owners],
        torch.cat([truth.boxes for truth in truths]),
        torch.cat([truth.labels for truth in truths]),
        torch.arange(len(truths)).repeat_interleave(torch.tensor(counts)),
    )


def detection_loss(logits: Tensor, boxes: Tensor, around: Tensor, assigned: Assigned) -> Tensor:
    """Cross entropy of the classes and Huber loss of the offsets, per anchor that answers for an object.

    Of the anchors without an object only those count that are most sure of one, three for each that has one.

    Shapes: logits (n, anchors, classes + 1), the background last; boxes (n, anchors, 4) -> scalar.

    Args:
        logits: Of the detector.
        boxes: What it predicts.
        around: (anchors, 4), the anchors as boxes.
        assigned: Which anchors answer for which objects.

    Example:
        >>> from reverie.distill.detector.boxes import anchors
        >>> around = anchors([2], [[0.5]])
        >>> assigned = assign_batch(around, [Truth(torch.tensor([[0.0, 0.0, 0.5, 0.5]]), torch.tensor([1]))])
        >>> logits = torch.tensor([[[0.0, 50.0, 0.0]] + [[0.0, 0.0, 50.0]] * 3])
        >>> float(detection_loss(logits, around[None], around, assigned)) < 1e-6  # right about all four anchors
        True

    Reference: Liu et al., 2016, arXiv:1512.02325, equation 1.
    """
    background = logits.shape[2] - 1
    wanted = torch.full(logits.shape[:2], background)
    wanted[assigned.owners, assigned.anchors] = assigned.labels[assigned.objects]
    entropy = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
    positive = (wanted != background).flatten()
    count = max(1, int(positive.sum()))
    hard = (
        entropy.detach()
        .masked_fill(positive, -1.0)
        .topk(min(NEGATIVES_PER_POSITIVE * count, int((~positive).sum())))
        .indices
    )
    classes = entropy[positive].sum() + entropy[hard].sum()
    mine = encode(boxes[assigned.owners, assigned.anchors], around[assigned.anchors])
    theirs = encode(assigned.boxes[assigned.objects], around[assigned.anchors])
    return (classes + F.smooth_l1_loss(mine, theirs, reduction="sum")) / count


def class_loss(logits: Tensor, teacher_logits: Tensor, assigned: Assigned, *, temperature: float = 2.0) -> Tensor:
    """T^2 KL(teacher on an object's crop || detector), averaged over the anchors that answer for an object.

    The teacher gives the background no probability. 0 where no anchor answers for anything.

    Shapes: logits (n, anchors, classes + 1), the background last; teacher_logits (objects, classes) -> scalar.

    Args:
        logits: Of the detector.
        teacher_logits: The classifier's, of the crop of each object.
        assigned: Which anchors answer for which objects.
        temperature: Divides the logits, above 0.

    Raises:
        RangeError: The temperature is not above 0.

    Example:
        >>> from reverie.distill.detector.boxes import anchors
        >>> around = anchors([2], [[0.5]])
        >>> assigned = assign_batch(around, [Truth(torch.tensor([[0.0, 0.0, 0.5, 0.5]]), torch.tensor([1]))])
        >>> sure = torch.tensor([[0.0, 100.0]])
        >>> logits = torch.tensor([[[0.0, 100.0, 0.0]] * 4])
        >>> float(class_loss(logits, sure, assigned))
        0.0

    Reference: Chawla et al., 2021, arXiv:2106.05209, section 3.2, for detectors with a softmax.
    """
    if not temperature > 0:
        raise RangeError(f"the temperature divides the logits and must be above 0, got {temperature}")
    mine = F.log_softmax(logits[assigned.owners, assigned.anchors].float() / temperature, dim=1)[:, :-1]
    theirs = F.log_softmax(teacher_logits.float() / temperature, dim=1)[assigned.objects]
    divergence = (theirs.exp() * (theirs - mine)).sum(1)
    return temperature**2 * divergence.sum() / max(1, len(divergence))


def box_loss(
    images: Tensor,
    boxes: Tensor,
    assigned: Assigned,
    *,
    stem: Callable[[Tensor], Tensor] | None = None,
    size: int = 32,
    pooled: int = 4,
    stem_pooled: int = 8,
) -> Tensor:
    """How unlike what is in the predicted boxes is to what is in the true ones, averaged over anchors with an object.

    Mean absolute difference of both crops, pooled to 4 x 4, and, where a stem is given, of the classifier's first
    features of both, pooled to 8 x 8. The gradient reaches the boxes through the sampling of the crop.

    Shapes: images (n, c, h, w), boxes (n, anchors, 4) -> scalar.

    Args:
        images: As the detector sees them.
        boxes: Predicted.
        assigned: Which of them answer for an object.
        stem: The classifier's first layers: crops (k, c, size, size) -> (k, ...).
        size: Height and width of the crops.
        pooled: Of the pooled pixels.
        stem_pooled: Of the pooled features.

    Example:
        >>> from reverie.distill.detector.boxes import anchors
        >>> around = anchors([2], [[0.5]])
        >>> assigned = assign_batch(around, [Truth(torch.tensor([[0.0, 0.0, 0.5, 0.5]]), torch.tensor([1]))])
        >>> images = torch.rand(1, 3, 64, 64)
        >>> float(box_loss(images, around[None], assigned)) < 1e-6  # the anchor is the box
        True

    Reference: Chawla et al., 2021, arXiv:2106.05209, section 3.3. Differs: 0, and not undefined, without any object.
    """
    mine = crop(images, boxes[assigned.owners, assigned.anchors], assigned.owners, size=size)
    with torch.no_grad():
        theirs = crop(images, assigned.boxes, assigned.images, size=size)
    loss = _mean_difference(mine, theirs[assigned.objects], pooled)
    if stem is None:
        return loss
    with torch.no_grad():
        wanted = stem(theirs)[assigned.objects]
    return loss + _mean_difference(stem(mine), wanted, stem_pooled)


def _mean_difference(mine: Tensor, theirs: Tensor, side: int) -> Tensor:
    if len(mine) == 0:
        return mine.sum()
    return (F.adaptive_avg_pool2d(mine, side) - F.adaptive_avg_pool2d(theirs, side)).abs().mean()
