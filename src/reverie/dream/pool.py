"""Banks as one pool: joined, without repeats, and replayed so that every class and every difficulty has its share.

Cost: counting. Source: replay by difficulty, Liu et al. 2024, "Small scale data-free knowledge distillation",
arXiv:2406.07876. Differs: shares are exact, and no image is drawn twice before all of its class were.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from reverie.core.errors import RangeError, ShapeError
from reverie.core.rng import generator
from reverie.dream.bank import Bank

__all__ = ["join_banks", "replay"]


def join_banks(banks: Sequence[Bank]) -> Bank:
    """All dreams of several banks, in order, without those that nearly repeat an earlier one; in memory.

    Raises:
        RangeError: No banks.
        ShapeError: Dreams of other shapes.

    Example:
        >>> images = torch.tensor([[[[0, 9]]], [[[9, 0]]]], dtype=torch.uint8)
        >>> bank = Bank(images, torch.zeros(2, dtype=torch.int64), torch.zeros(2, 2), torch.arange(2), {"count": 2})
        >>> len(join_banks([bank, bank]))
        2
    """
    if not banks:
        raise RangeError("a pool is joined from at least one bank, got none")
    for bank in banks:
        if _shapes(bank) != _shapes(banks[0]):
            raise ShapeError(
                f"a bank of {_shapes(bank)} cannot join one of {_shapes(banks[0])}. Join banks of one network and size."
            )
    images, labels, logits, seeds = (
        torch.cat([getattr(bank, name) for bank in banks]) for name in ("images", "labels", "logits", "seeds")
    )
    config = {"joined": [dict(bank.config) for bank in banks]}
    return Bank(images, labels, logits, seeds, config).distinct()


def replay(labels: Tensor, difficulty: Tensor, *, count: int, seed: int, hard: float = 0.5) -> Tensor:
    """Places to train on: as many of each class as of any other, a share of them the hardest of their class.

    Shapes: labels (n,) int64, difficulty (n,) -> (count,) int64 places, shuffled.

    Args:
        labels: The class of each image.
        difficulty: Higher is harder, such as the student's loss.
        count: How many places, >= 1; a class that has too few images repeats them.
        seed: Of the draws.
        hard: Share drawn from the hardest, in [0, 1]; the rest is drawn evenly from the others.

    Raises:
        ShapeError: The tensors have other lengths.
        RangeError: `count` or `hard` out of range, or no images.

    Example:
        >>> labels, difficulty = torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([0.0, 3.0, 0.0, 0.0, 1.0, 1.0])
        >>> sorted(labels[replay(labels, difficulty, count=4, seed=0)].tolist())
        [0, 0, 1, 1]
    """
    if labels.ndim != 1 or labels.shape != difficulty.shape:
        raise ShapeError(
            f"one label and one difficulty per image, got {tuple(labels.shape)}, {tuple(difficulty.shape)}"
        )
    if count < 1 or not 0 <= hard <= 1 or len(labels) == 0:
        raise RangeError(f"replay needs images, count >= 1 and hard in [0, 1]; got {len(labels)}, {count} and {hard}")
    rng = generator(seed, "replay")
    classes = labels.unique()
    classes = classes[torch.randperm(len(classes), generator=rng)]
    picks = []
    for index, label in enumerate(classes):
        share = count // len(classes) + (index < count % len(classes))
        picks.append(_of_class((labels == label).nonzero()[:, 0], difficulty, share, hard=hard, rng=rng))
    chosen = torch.cat(picks)
    return chosen[torch.randperm(len(chosen), generator=rng)]


def _shapes(bank: Bank) -> str:
    """Of one dream."""
    parts = {"images": bank.images, "labels": bank.labels, "answers": bank.logits}
    return ", ".join(f"{name} {tuple(part.shape[1:])}" for name, part in parts.items())


def _of_class(places: Tensor, difficulty: Tensor, share: int, *, hard: float, rng: torch.Generator) -> Tensor:
    shuffled = places[torch.randperm(len(places), generator=rng)]
    ordered = shuffled[difficulty[shuffled].argsort(descending=True, stable=True)]
    hardest, rest = ordered[: round(hard * share)], ordered[round(hard * share) :]
    drawn = torch.cat([hardest, rest[torch.randperm(len(rest), generator=rng)]])
    repeats = -(-share // max(1, len(drawn)))
    return drawn.repeat(repeats)[:share]
