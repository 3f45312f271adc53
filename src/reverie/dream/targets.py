"""What is asked of each dream where nobody says: the classes in turn, or drawn at random.

A draw is a function of (count, classes, seed); `dream(targets=...)` takes one, or the targets themselves.

Cost: none to speak of.
"""

from typing import Protocol

import torch
from torch import Tensor

from reverie.core.rng import generator

__all__ = ["Draw", "balanced_targets", "random_targets"]


class Draw(Protocol):
    """How classes are chosen."""

    def __call__(self, count: int, classes: int, *, seed: int) -> Tensor:
        """(count,) int64 in 0..classes - 1, the same for the same arguments."""


def balanced_targets(count: int, classes: int, *, seed: int) -> Tensor:
    """(count,) int64: every class in turn, in an order drawn from the seed, so counts differ by at most one.

    Args:
        count: Of images, at least 1.
        classes: How many there are, at least 1.
        seed: Of the order.

    Example:
        >>> balanced_targets(6, 3, seed=0).bincount()
        tensor([2, 2, 2])
    """
    order = torch.randperm(classes, generator=generator(seed, "dream", "targets"))
    return order[torch.arange(count) % classes]


def random_targets(count: int, classes: int, *, seed: int) -> Tensor:
    """(count,) int64: every class with the same probability, each image on its own.

    Args:
        count: Of images, at least 1.
        classes: How many there are, at least 1.
        seed: Of the draw.

    Example:
        >>> bool((random_targets(1000, 4, seed=0).bincount() > 200).all())
        True
    """
    return torch.randint(classes, (count,), generator=generator(seed, "dream", "random targets"))
