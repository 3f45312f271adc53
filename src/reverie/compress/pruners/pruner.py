"""What all pruners have in common: they are told of every batch, and prune every few."""

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import nn

from reverie.compress.importance.products import Score
from reverie.compress.plan import Plan
from reverie.compress.pruners.silenced import Silenced
from reverie.core.counts import check_counts
from reverie.graph.structure import Structure

__all__ = ["Pruner"]


class Pruner(ABC):
    """Prunes a network while it trains; a published method says only when it has `finished`, and what goes by `prune`.

    Args:
        body: The network that trains; changed in place.
        structure: Of `body`.
        every: Batches between two pruning steps, at least 1.
        score: Scores of one batch.

    Attributes:
        silenced: Which units still speak.

    Raises:
        RangeError: `every` is below 1.

    Example of a loop::

        pruner = TaylorPruner(body, structure, kept=0.5)
        for images, labels in loader:
            optimizer.zero_grad()
            cross_entropy(body(images), labels).backward()
            pruner.after_backward()
            optimizer.step()
            pruner.after_step(optimizer)
        small, record = cut(body, structure, pruner.plan().kept)

    Example:
        >>> from reverie.compress.importance import gate_score
        >>> from reverie.graph import probe
        >>> class FirstUnits(Pruner):
        ...     @property
        ...     def finished(self) -> bool:
        ...         return self.silenced.kept < 1
        ...     def prune(self) -> None:
        ...         self.silenced.silence({name: [0] for name in self.silenced.alive})
        >>> body = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        >>> pruner = FirstUnits(body, probe(body, torch.zeros(1, 4)), every=1, score=gate_score)
        >>> body(torch.ones(1, 4)).sum().backward()
        >>> pruner.after_backward()
        >>> pruner.after_step()
        >>> pruner.plan().kept
        {'0': (1, 2)}
    """

    def __init__(self, body: nn.Module, structure: Structure, *, every: int, score: Score) -> None:
        check_counts(every=every)
        self.silenced = Silenced(body, structure, score=score)
        self.every = every
        self._steps = 0

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether as little is left as was asked."""

    @abstractmethod
    def prune(self) -> None:
        """Silence more units, by the scores since the last time."""

    @final
    def after_backward(self) -> None:
        """Read the gradients of a batch."""
        if not self.finished:
            self.silenced.observe()

    @final
    def after_step(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Keep silent units silent, and silence more where it is time."""
        self._steps += 1
        if self._steps % self.every == 0 and not self.finished:
            self.prune()
        self.silenced.hush(optimizer)

    @final
    def plan(self) -> Plan:
        """What is left."""
        return self.silenced.plan()
