"""In which order a source is learned: plainly shuffled, or every class alike and the easy images first.

An order is a function of a `Draw` that yields index batches, as many as are asked for. It depends on nothing but the
draw, so a run that goes on after a kill sees the same batches.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from reverie.core.errors import RangeError
from reverie.core.rng import generator
from reverie.core.source import Source

__all__ = ["Draw", "Order", "balanced_curriculum", "shuffled"]


@dataclass(frozen=True, eq=False)
class Draw:
    """What batches are drawn from.

    Attributes:
        source: The images.
        answers: Gives the teacher's logits (n, classes) for all of them; one pass of the teacher where it is called.
        batch_size: Images in a batch.
        steps: Batches wanted.
        seed: Of all choices.

    Example:
        >>> source = Source("some", torch.zeros(6, 1, 2, 2, dtype=torch.uint8))
        >>> draw = Draw(source, answers=lambda: torch.eye(3).repeat(2, 1), batch_size=3, steps=2, seed=0)
        >>> draw.answers().argmax(1)
        tensor([0, 1, 2, 0, 1, 2])
    """

    source: Source
    answers: Callable[[], Tensor]
    batch_size: int
    steps: int
    seed: int


Order = Callable[[Draw], Iterator[Tensor]]


def shuffled(draw: Draw) -> Iterator[Tensor]:
    """Every image once a pass, in a new order each pass.

    Example:
        >>> source = Source("some", torch.zeros(6, 1, 2, 2, dtype=torch.uint8))
        >>> draw = Draw(source, answers=lambda: torch.eye(3).repeat(2, 1), batch_size=3, steps=2, seed=0)
        >>> sorted(torch.cat(list(shuffled(draw))).tolist())
        [0, 1, 2, 3, 4, 5]
    """
    return islice(draw.source.batches(batch_size=draw.batch_size, seed=draw.seed), draw.steps)


def balanced_curriculum(draw: Draw, *, first: float = 0.5, whole_at: float = 0.5) -> Iterator[Tensor]:
    """Every class as often as the others, and of each the images first that the teacher is surest of.

    An image's class is the teacher's. At the start the surest share `first` of each class is drawn from; the share
    grows in a straight line and is all at `whole_at` of the steps. Within it all images are equally likely.

    Args:
        draw: What batches are drawn from.
        first: Share of each class that is there from the start, in (0, 1].
        whole_at: Share of the steps after which every image may come, in (0, 1].

    Raises:
        RangeError: A share outside its range.

    Example:
        >>> source = Source("some", torch.zeros(6, 1, 2, 2, dtype=torch.uint8))
        >>> draw = Draw(source, answers=lambda: torch.eye(3).repeat(2, 1), batch_size=3, steps=2, seed=0)
        >>> [sorted((batch % 3).tolist()) for batch in balanced_curriculum(draw)]  # image i is of class i % 3
        [[0, 1, 2], [0, 1, 2]]

    Reference: class balance against forgetting, Liu et al., 2024, arXiv:2406.07876 ("SSD-KD"); easy to hard, Li et
    al., 2022, arXiv:2208.13648 ("CuDFKD"). Differs: difficulty is the teacher's doubt alone, so it is known before the
    first step.
    """
    for name, value in (("first", first), ("whole_at", whole_at)):
        if not 0 < value <= 1:
            raise RangeError(f"{name} is a share in (0, 1], got {value}")
    probabilities = draw.answers().softmax(1)
    surest, named = probabilities.max(1)
    members = [(named == one).nonzero().flatten() for one in named.unique()]
    ranked = [of_class[surest[of_class].argsort(descending=True, stable=True)] for of_class in members]
    for step in range(draw.steps):
        rng = generator(draw.seed, "curriculum", step)
        share = min(1.0, first + (1 - first) * step / (whole_at * draw.steps))
        yield _balanced(ranked, share, draw.batch_size, rng)


def _balanced(ranked: list[Tensor], share: float, batch_size: int, rng: torch.Generator) -> Tensor:
    """(batch_size,) indices: classes in turn from a random one on, images at random among the first of each."""
    turn = torch.randperm(len(ranked), generator=rng)
    picks = []
    for place in range(batch_size):
        of_class = ranked[int(turn[place % len(ranked)])]
        there = max(1, round(share * len(of_class)))
        picks.append(of_class[int(torch.randint(there, (), generator=rng))])
    return torch.stack(picks)
