"""Batch-norm statistics matched by a running average over steps and batches.

What for: a batch of few images cannot have the moments of a data set, and need not where batches are many: their
average should. Cost: one addition per channel.

Source: Fang et al. 2022, arXiv:2112.15278, section 3.3.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from reverie.core.errors import RangeError
from reverie.dream.statistics import Moments
from reverie.dream.terms import Part, Statistics, Term, View

__all__ = ["RunningStatistics", "memory_of", "remember", "running_statistics_term", "with_fresh_memory"]


@dataclass(frozen=True)
class RunningStatistics:
    """As `Statistics`, of (1 - momentum) times the batch's moments plus momentum times their running average.

    The average is the loss's own memory, so two of equal settings are equal in reports. `dream` begins it anew in every
    batch; `generate` keeps it for the whole bank.

    Attributes:
        momentum: Weight of the past, in [0, 1).
    """

    momentum: float
    _past: list[tuple[Tensor, Tensor]] = field(default_factory=list, repr=False, compare=False)

    def __call__(self, view: View) -> Tensor:
        """Mean over layers; the running average moves on."""
        if len(self._past) != len(view.moments):
            self._past[:] = [(one.mean.detach(), one.variance.detach()) for one in view.moments]
        blended = [self._blend(one, past) for one, past in zip(view.moments, self._past, strict=True)]
        self._past[:] = [(one.mean.detach(), one.variance.detach()) for one in blended]
        return Statistics()(replace(view, moments=blended))

    def _blend(self, one: Moments, past: tuple[Tensor, Tensor]) -> Moments:
        mean, variance = (
            (1 - self.momentum) * now + self.momentum * before.to(now.device)
            for now, before in zip((one.mean, one.variance), past, strict=True)
        )
        return Moments(one.name, mean, variance, one.stored_mean, one.stored_variance)


def running_statistics_term(*, momentum: float = 0.9) -> Term:
    """Have the statistics of the training data on the average over batches; see `RunningStatistics`.

    Args:
        momentum: Weight of the past, in [0, 1); 0 is `statistics_term()`.

    Raises:
        RangeError: `momentum` out of range.

    Example:
        >>> running_statistics_term().describe()[0]["loss"]
        'RunningStatistics(momentum=0.9)'
    """
    if not 0 <= momentum < 1:
        raise RangeError(f"momentum must be at least 0 and below 1, got {momentum}")
    return Term((Part("running statistics", 1.0, RunningStatistics(momentum)),))


def with_fresh_memory(term: Term) -> Term:
    """The same term, whose running averages begin anew and are its own."""
    return Term(
        tuple(
            replace(part, loss=RunningStatistics(part.loss.momentum))
            if isinstance(part.loss, RunningStatistics)
            else part
            for part in term.parts
        )
    )


def memory_of(term: Term) -> dict[str, Tensor]:
    """The running averages of a term, by name, to be kept."""
    return {
        f"{place}.{layer}.{kind}": tensor
        for place, part in enumerate(term.parts)
        if isinstance(part.loss, RunningStatistics)
        for layer, pair in enumerate(part.loss._past)
        for kind, tensor in zip(("mean", "variance"), pair, strict=True)
    }


def remember(term: Term, memory: Mapping[str, Tensor]) -> None:
    """Put kept running averages back into a term with fresh memory."""
    for place, part in enumerate(term.parts):
        if isinstance(part.loss, RunningStatistics):
            layers = sum(name.startswith(f"{place}.") for name in memory) // 2
            part.loss._past[:] = [
                (memory[f"{place}.{layer}.mean"], memory[f"{place}.{layer}.variance"]) for layer in range(layers)
            ]
