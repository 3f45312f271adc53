"""Taylor pruning: a few of the units that matter least go every few batches, while training goes on.

Reference: Molchanov et al., 2019, "Importance estimation for neural network pruning", arXiv:1906.10771.
"""

import torch
from torch import Tensor, nn

from reverie.compress.importance.products import Score, gate_score
from reverie.compress.pruners.pruner import Pruner
from reverie.core.errors import RangeError
from reverie.graph.structure import Structure

__all__ = ["TaylorPruner"]


class TaylorPruner(Pruner):
    """Iterative pruning over all layers at once by a running average of Taylor scores.

    Args:
        body: The network that trains; changed in place.
        structure: Of `body`.
        kept: Share of all units to end with, in (0, 1).
        every: Batches between two pruning steps, at least 1.
        remove: Units that go in each, at least 1.
        momentum: Weight of earlier scores, in [0, 1): A <- momentum * A + (1 - momentum) * mean of the last batches.
        score: Scores of one batch.

    Raises:
        RangeError: A number is out of its range.

    Example:
        >>> from reverie.graph import probe
        >>> body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> pruner = TaylorPruner(body, probe(body, torch.zeros(1, 4)), kept=0.5, every=2, remove=4)
        >>> for _ in range(2):
        ...     body(torch.ones(4, 4)).square().sum().backward()
        ...     pruner.after_backward()
        ...     pruner.after_step()
        >>> pruner.finished, len(pruner.plan().kept["0"])
        (True, 4)

    Reference: the paper's rule: 100 units every 30 batches of 256, then 25 epochs of training at a falling rate without
    weight decay. Differs: one gate per group of coupled units, found from the network, so the scores of shared stages
    need no division by their blocks; ties at the threshold never remove more than was asked.

    Fails when: batches are so few that scores are noise; the standard errors of `gate_scores` show it.
    """

    def __init__(
        self,
        body: nn.Module,
        structure: Structure,
        *,
        kept: float,
        every: int = 30,
        remove: int = 100,
        momentum: float = 0.9,
        score: Score = gate_score,
    ) -> None:
        super().__init__(body, structure, every=every, score=score)
        if not 0 < kept < 1 or remove < 1 or not 0 <= momentum < 1:
            raise RangeError(
                f"kept must be in (0, 1), remove at least 1, momentum in [0, 1); got {kept}, {remove} and {momentum}"
            )
        self.target, self.remove, self.momentum = kept, remove, momentum
        self._average: dict[str, Tensor] = {}

    @property
    def finished(self) -> bool:
        """Whether as few units are left as was asked."""
        return self.silenced.kept <= self.target

    def prune(self) -> None:
        """Silence the units of least average score."""
        fresh = self.silenced.take()
        keep = self.momentum if self._average else 0.0
        self._average = {
            name: keep * self._average.get(name, torch.zeros_like(one)) + (1 - keep) * one
            for name, one in fresh.items()
        }
        alive = self.silenced.alive
        total = sum(len(one) for one in alive.values())
        count = min(self.remove, sum(self.silenced.counts.values()) - int(self.target * total))
        ranked = sorted(
            (float(score), name, unit)
            for name, scores in self._average.items()
            for unit, score in enumerate(scores.tolist())
            if bool(alive[name][unit])
        )
        for _, name, unit in ranked[: max(count, 0)]:
            self.silenced.silence({name: [unit]})
