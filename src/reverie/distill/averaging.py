"""A running average of a student's weights, which is often the better student.

Cost: one more copy of the weights, and one pass over them per step.
"""

import copy

import torch
from torch import Tensor, nn

__all__ = ["RunningAverage"]


class RunningAverage:
    """average <- d average + (1 - d) student, after each step, statistics of normalizations included.

    d is min(decay, (1 + t) / (10 + t)) after t steps, so that the first steps do not weigh for ever. What is not a
    floating-point number, such as a counter, is the student's.

    Args:
        student: What is averaged; copied.
        decay: In (0, 1).

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = layer.weight.data.fill_(0.0)
        >>> average = RunningAverage(layer, decay=0.9)
        >>> _ = layer.weight.data.fill_(11.0)
        >>> average.follow(layer, steps=1)
        >>> round(average.network.weight.item(), 4)
        9.0
    """

    def __init__(self, student: nn.Module, *, decay: float) -> None:
        self.network, self.decay = copy.deepcopy(student), decay

    def follow(self, student: nn.Module, *, steps: int) -> None:
        """Move towards the student, which has taken so many steps."""
        share = 1 - min(self.decay, (1 + steps) / (10 + steps))
        ours, theirs = self.network.state_dict(), student.state_dict()
        floating = [name for name, tensor in ours.items() if tensor.is_floating_point()]
        with torch.no_grad():
            torch._foreach_lerp_([ours[name] for name in floating], [theirs[name] for name in floating], share)
            for name in ours.keys() - set(floating):
                ours[name].copy_(theirs[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The average, by name."""
        return dict(self.network.state_dict())
