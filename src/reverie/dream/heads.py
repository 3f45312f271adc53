"""What a network answers, and how a dream is asked for: one class, several labels, a vector to match, a map of classes.

A head says how the answer to a dream is compared with what was asked: as a term to be optimized, and as a figure per
image afterwards. Everything else of dreaming is the same for all heads.

Cost: that of a loss. Source: Yin et al. 2020, arXiv:1912.08795, for one class; Mahendran and Vedaldi 2015,
arXiv:1412.0035, for a vector to match.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.errors import RangeError, ShapeError
from reverie.dream.terms import Part, Term, View, class_term

__all__ = ["Head", "dense_map", "embedding", "multi_label", "single_label"]


@dataclass(frozen=True)
class Head:
    """One kind of answer.

    Attributes:
        name: What messages and a bank's configuration call it.
        term: Small where the answer is the one asked for.
        check: Raises where targets do not fit an answer; called with (answer to n images, targets of n images).
        agreement: (answers, targets) -> (n,) share in [0, 1] of what was asked for that the network answers.

    Example:
        >>> head = single_label()
        >>> head.name, [part.name for part in head.term.parts]
        ('single label', ['class'])
    """

    name: str
    term: Term
    check: Callable[[Tensor, Tensor], None]
    agreement: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LabelsLoss:
    """Mean binary cross entropy of the logits with the labels asked for, in nats per label."""

    def __call__(self, view: View) -> Tensor:
        """Mean over images and labels."""
        return F.binary_cross_entropy_with_logits(view.logits, view.targets.to(view.logits.dtype))


@dataclass(frozen=True)
class MatchLoss:
    """|answer - target|^2 / |target|^2, averaged over images: 0 where equal, 1 for an answer of zeros."""

    def __call__(self, view: View) -> Tensor:
        """Mean over images."""
        answer, target = view.logits.flatten(1), view.targets.to(view.logits.dtype).flatten(1)
        squares = target.square().sum(1).clamp_min(torch.finfo(answer.dtype).tiny)
        return ((answer - target).square().sum(1) / squares).mean()


@dataclass(frozen=True)
class MapLoss:
    """Mean cross entropy of every position's logits with its class, in nats."""

    def __call__(self, view: View) -> Tensor:
        """Mean over images and positions."""
        return F.cross_entropy(view.logits, view.targets)


def single_label() -> Head:
    """One class of k for each image.

    Shapes: answers (n, k), targets (n,) int64.

    Example:
        >>> single_label().agreement(torch.tensor([[0.0, 1.0]]), torch.tensor([1]))
        tensor([1.])
    """

    def check(answer: Tensor, targets: Tensor) -> None:
        _shapes(answer.ndim == 2 and targets.shape == answer.shape[:1], "one class of (n, k)", answer, targets)
        _classes(targets, answer.shape[1])

    return Head("single label", class_term(), check, lambda answer, targets: (answer.argmax(1) == targets).float())


def multi_label() -> Head:
    """Any of k labels for each image, each by itself.

    Shapes: answers (n, k) logits, targets (n, k) of 0 and 1. Agreement is the share of labels on the right side of 0.

    Example:
        >>> multi_label().agreement(torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 1.0]]))
        tensor([0.5000])
    """

    def check(answer: Tensor, targets: Tensor) -> None:
        _shapes(answer.ndim == 2 and targets.shape == answer.shape, "labels (n, k) of 0 and 1", answer, targets)
        if not bool(((targets == 0) | (targets == 1)).all()):
            raise RangeError(f"labels must be 0 or 1, got {float(targets.min()):g} to {float(targets.max()):g}")

    def agreement(answer: Tensor, targets: Tensor) -> Tensor:
        return ((answer > 0) == (targets > 0)).float().mean(1)

    return Head("multi-label", _term("labels", LabelsLoss()), check, agreement)


def embedding() -> Head:
    """A vector, or any tensor, for each image to match.

    Shapes: answers (n, ...), targets (n, ...) alike. Agreement is (1 + cosine) / 2.

    Example:
        >>> embedding().agreement(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
        tensor([1.])
    """

    def check(answer: Tensor, targets: Tensor) -> None:
        _shapes(targets.shape == answer.shape and answer.ndim > 1, "a target for every answer", answer, targets)
        if not bool(torch.isfinite(targets).all()):
            raise RangeError("embedding targets hold values that are not finite")

    def agreement(answer: Tensor, targets: Tensor) -> Tensor:
        return (1 + F.cosine_similarity(answer.flatten(1), targets.to(answer.dtype).flatten(1))) / 2

    return Head("embedding", _term("embedding", MatchLoss()), check, agreement)


def dense_map() -> Head:
    """One class of k for each position, as in segmentation.

    Shapes: answers (n, k, ...), targets (n, ...) int64. Agreement is the share of positions.

    Example:
        >>> dense_map().agreement(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), torch.tensor([[1, 1]]))
        tensor([0.5000])
    """

    def check(answer: Tensor, targets: Tensor) -> None:
        fits = answer.ndim > 2 and targets.shape == (len(answer), *answer.shape[2:])
        _shapes(fits, "one class for every position of (n, k, ...)", answer, targets)
        _classes(targets, answer.shape[1])

    def agreement(answer: Tensor, targets: Tensor) -> Tensor:
        return (answer.argmax(1) == targets).float().flatten(1).mean(1)

    return Head("dense map", _term("map", MapLoss()), check, agreement)


def _term(name: str, loss: Callable[[View], Tensor]) -> Term:
    return Term((Part(name, 1.0, loss),))


def _shapes(fits: bool, wanted: str, answer: Tensor, targets: Tensor) -> None:
    if not fits:
        raise ShapeError(
            f"targets must be {wanted}; the network answers {tuple(answer.shape)}, the targets have shape "
            f"{tuple(targets.shape)}. Choose the head that the network has."
        )


def _classes(targets: Tensor, classes: int) -> None:
    if targets.is_floating_point() or not bool(((targets >= 0) & (targets < classes)).all()):
        raise RangeError(f"targets must lie in 0..{classes - 1}, got {targets.min().item()}..{targets.max().item()}")
