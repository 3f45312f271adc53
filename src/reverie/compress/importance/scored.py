"""Scores of the units of one group, and how sure they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Scored", "averaged"]


@dataclass(frozen=True, eq=False)
class Scored:
    """One score per unit; higher means keep.

    Attributes:
        value: (units,) float64.
        standard_error: (units,) of the value over batches; infinite where there was one batch, zero where nothing was
            sampled.
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
