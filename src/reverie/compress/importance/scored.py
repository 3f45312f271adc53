"""Scores of the units of one group, and how sure they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.core.errors import RangeError

__all__ = ["Scored", "averaged", "over_images"]


@dataclass(frozen=True, eq=False)
class Scored:
    """One score per unit; higher means keep.

    Attributes:
        value: (units,) float64.
        standard_error: (units,) of the value over batches; infinite where there was one batch, zero where nothing was
            sampled.

    Example:
        >>> found = averaged([{"conv": torch.tensor([1.0, 4.0])}, {"conv": torch.tensor([3.0, 4.0])}])["conv"]
        >>> found.value.tolist(), found.standard_error.tolist()
        ([2.0, 4.0], [1.0, 0.0])
    """

    value: Tensor
    standard_error: Tensor


def averaged(batches: Sequence[Mapping[str, Tensor]]) -> dict[str, Scored]:
    """The mean over batches of each group's scores, with its standard error.

    Args:
        batches: At least one; group -> (units,).
    """
    made = {}
    for group in batches[0]:
        values = torch.stack([batch[group].double() for batch in batches])
        count = len(values)
        error = values.std(0) / count**0.5 if count > 1 else torch.full_like(values[0], float("inf"))
        made[group] = Scored(values.mean(0), error)
    return made


def over_images(each: Tensor, square_over: int | None = None) -> Scored:
    """The mean of what each image says, or the mean square of what a few together say, with its standard error.

    Shapes: each (units, images).

    Args:
        each: A change of the loss.
        square_over: Images whose mean change is squared, as the gradient of a batch is in Taylor scores; None takes the
            mean of all as it is, with its sign. The last few images that fill no batch are left out.

    Example:
        >>> changes = torch.tensor([[1.0, -1.0, 3.0, 1.0]])
        >>> over_images(changes).value, over_images(changes, 2).value, over_images(changes, 1).value
        (tensor([1.], dtype=torch.float64), tensor([2.], dtype=torch.float64), tensor([3.], dtype=torch.float64))
    """
    values = each.double()
    if square_over is not None:
        whole = values.shape[1] // square_over * square_over
        if whole == 0:
            raise RangeError(f"square_over asks for {square_over} images at once, and there are {values.shape[1]}")
        values = values[:, :whole].reshape(len(values), -1, square_over).mean(2).square()
    count = values.shape[1]
    error = values.std(1) / count**0.5 if count > 1 else torch.full_like(values[:, 0], float("inf"))
    return Scored(values.mean(1), error)
