"""EPI: when to prune during training. Once the sub-network that would be left no longer changes, it is time.

Reference: Shen et al., 2022, "When to prune? A policy towards early structural pruning", arXiv:2110.12007.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from reverie.core.errors import RangeError

__all__ = ["GRADIENT_THRESHOLD", "MAGNITUDE_THRESHOLD", "EarlyPruning", "kept_counts", "similarity"]

# Of the paper, for scores by magnitude and by gradient.
MAGNITUDE_THRESHOLD, GRADIENT_THRESHOLD = 0.983, 0.944


def similarity(first: Mapping[str, int], second: Mapping[str, int]) -> float:
    """How alike two sub-networks are: 1 - mean over groups of |a - b| / (a + b), in [0, 1].

    Args:
        first: Group -> units kept; at least one group.
        second: The same groups.

    Raises:
        RangeError: The groups differ, or there are none.

    Example:
        >>> similarity({"a": 4, "b": 2}, {"a": 4, "b": 6})
        0.75
    """
    if not first or first.keys() != second.keys():
        raise RangeError(f"sub-networks of different groups do not compare: {list(first)} and {list(second)}")
    parts = [abs(first[name] - second[name]) / max(first[name] + second[name], 1) for name in first]
    return 1 - sum(parts) / len(parts)


def kept_counts(scores: Mapping[str, Tensor], *, kept: float) -> dict[str, int]:
    """Units per group that a global ranking leaves; at least one each.

    Args:
        scores: Group -> (units,), comparable between groups, higher means keep.
        kept: Share of all units, in (0, 1).

    Raises:
        RangeError: `kept` is out of its range.

    Example:
        >>> kept_counts({"a": torch.tensor([0.9, 0.1]), "b": torch.tensor([0.8, 0.7, 0.2])}, kept=0.6)
        {'a': 1, 'b': 2}
    """
    if not 0 < kept < 1:
        raise RangeError(f"kept must be in (0, 1), got {kept}")
    every = torch.cat([one.double().flatten() for one in scores.values()])
    count = max(round(kept * len(every)), 1)
    best = torch.zeros(len(every), dtype=torch.bool)
    best[every.argsort(descending=True, stable=True)[:count]] = True
    parts = best.split([one.numel() for one in scores.values()])
    return {name: max(int(part.sum()), 1) for name, part in zip(scores, parts, strict=True)}


class EarlyPruning:
    """Told the sub-network of every epoch, says when to prune.

    The indicator of an epoch is the mean similarity of its sub-network to those of the `window` epochs before. It is
    time when the indicator reaches the threshold and is no lower than in the `window` epochs before.

    Args:
        threshold: 0.983 for scores by magnitude, 0.944 by gradient; in (0, 1].
        window: Epochs that are looked back, at least 1.

    Attributes:
        indicators: Of all epochs so far; None where too few came before.

    Raises:
        RangeError: A number is out of its range.

    Example:
        >>> policy = EarlyPruning(threshold=0.9, window=2)
        >>> [policy.epoch({"a": units}) for units in (8, 4, 4, 4, 4)]
        [False, False, False, True, True]

    Reference: the paper's rule. Differs: where fewer than `window` indicators came before, those there
    are count.

    Fails when: very little is kept; the gradient's indicator then hardly reaches the threshold.
    """

    def __init__(self, *, threshold: float = GRADIENT_THRESHOLD, window: int = 5) -> None:
        if not 0 < threshold <= 1 or window < 1:
            raise RangeError(f"threshold must be in (0, 1] and window at least 1, got {threshold} and {window}")
        self.threshold, self.window = threshold, window
        self.indicators: list[float | None] = []
        self._seen: list[dict[str, int]] = []

    def epoch(self, counts: Mapping[str, int]) -> bool:
        """Take the sub-network of one epoch; whether it is time to prune.

        Args:
            counts: Group -> units that would be kept; see `kept_counts`.
        """
        before: Sequence[dict[str, int]] = self._seen[-self.window :]
        now = dict(counts)
        self._seen.append(now)
        if len(before) < self.window:
            self.indicators.append(None)
            return False
        indicator = sum(similarity(one, now) for one in before) / self.window
        earlier = [one for one in self.indicators[-self.window :] if one is not None]
        self.indicators.append(indicator)
        return indicator >= self.threshold and all(indicator >= one for one in earlier)
