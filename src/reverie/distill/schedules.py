"""How the learning rate goes: a share of its peak for every step.

A schedule is any function of (step, steps); `functools.partial` sets what it leaves open.
"""

import math
from collections.abc import Callable

__all__ = ["Schedule", "cosine", "flat", "linear"]

Schedule = Callable[[int, int], float]


def cosine(step: int, steps: int, *, warm_up: float = 0.1) -> float:
    """A linear rise over the first `warm_up` of the steps, then half a cosine down to zero.

    Args:
        step: Steps taken, from 0.
        steps: Steps in all.
        warm_up: Share of the steps, in [0, 1).

    Example:
        >>> [round(cosine(step, 10, warm_up=0.2), 2) for step in (0, 1, 5, 9)]
        [0.5, 1.0, 0.59, 0.03]
    """
    rise = max(1.0, warm_up * steps)
    if step + 1 < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step + 1 - rise) / (steps - rise + 1)))


def linear(step: int, steps: int, *, warm_up: float = 0.1) -> float:
    """A linear rise over the first `warm_up` of the steps, then a straight line down to nearly zero.

    Example:
        >>> [round(linear(step, 10, warm_up=0.2), 2) for step in (0, 1, 5, 9)]
        [0.5, 1.0, 0.56, 0.11]
    """
    rise = max(1.0, warm_up * steps)
    return (step + 1) / rise if step + 1 < rise else 1 - (step + 1 - rise) / (steps - rise + 1)


def flat(step: int, steps: int) -> float:
    """Always the peak.

    Example:
        >>> flat(3, 10)
        1.0
    """
    del step, steps
    return 1.0
