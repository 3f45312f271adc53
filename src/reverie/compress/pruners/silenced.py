"""A network that trains on while units in it are silent: at full width, and equal to what a cut would leave."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from reverie.compress.importance.products import Score
from reverie.compress.plan import Plan
from reverie.core.errors import RangeError
from reverie.graph.structure import Structure

__all__ = ["Silenced"]


class Silenced:
    """Which units of a network under training still speak, and scores of those since they were last asked for.

    Args:
        body: The network that trains. Its weights are changed in place, by `hush`, and nothing else of it is.
        structure: Of `body`.
        score: Scores of one batch.

    Example:
        >>> from reverie.compress.importance import gate_score
        >>> from reverie.graph import probe
        >>> body = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        >>> silenced = Silenced(body, probe(body, torch.zeros(1, 4)), score=gate_score)
        >>> silenced.silence({"0": [1]})
        >>> silenced.hush()
        >>> silenced.counts, bool(body[0].weight[1].any())
        ({'0': 2}, False)
    """

    def __init__(self, body: nn.Module, structure: Structure, *, score: Score) -> None:
        self.body, self.structure, self.score = body, structure, score
        self.alive = {group.name: torch.ones(group.units, dtype=torch.bool) for group in structure.free}
        self._totals = {group.name: torch.zeros(group.units, dtype=torch.float64) for group in structure.free}
        self._batches = 0

    @property
    def counts(self) -> dict[str, int]:
        """Group -> units that speak."""
        return {name: int(alive.sum()) for name, alive in self.alive.items()}

    @property
    def kept(self) -> float:
        """Share of all units that speak, in [0, 1]."""
        return sum(self.counts.values()) / max(sum(len(alive) for alive in self.alive.values()), 1)

    def observe(self) -> None:
        """Add this batch's scores: to be called after the backward pass, before gradients are cleared or clipped.

        A batch whose gradients are not finite, or that left none, is not counted.
        """
        products = {
            name: parameter.detach() * parameter.grad
            for name, parameter in self.body.named_parameters()
            if parameter.grad is not None
        }
        scores = {group.name: self.score(group, products).double().cpu() for group in self.structure.free}
        if not products or not all(bool(torch.isfinite(one).all()) for one in scores.values()):
            return
        for name, one in scores.items():
            self._totals[name] += one
        self._batches += 1

    def take(self) -> dict[str, Tensor]:
        """Mean scores since the last call, silent units at zero; (units,) per group.

        Raises:
            RangeError: No batch was observed since.
        """
        if not self._batches:
            raise RangeError("no batch was observed since the last pruning step; call after_backward() after each one")
        means = {name: total / self._batches * self.alive[name] for name, total in self._totals.items()}
        self._totals = {name: torch.zeros_like(total) for name, total in self._totals.items()}
        self._batches = 0
        return means

    def silence(self, units: Mapping[str, Iterable[int]]) -> None:
        """Let units speak no more, from the next `hush` on; the last unit of a group always speaks."""
        for name, indices in units.items():
            alive = self.alive[name].clone()
            alive[list(indices)] = False
            if bool(alive.any()):
                self.alive[name] = alive

    def keep_best(self, widths: Mapping[str, int], scores: Mapping[str, Tensor]) -> None:
        """Silence all but the best of some groups."""
        for name, width in widths.items():
            ranked = torch.where(self.alive[name], scores[name], -torch.inf).argsort(descending=True, stable=True)
            self.silence({name: ranked[width:].tolist()})

    def hush(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Set all that goes with silent units to zero, and what the optimizer remembers of it."""
        state = dict(self.body.named_parameters()) | dict(self.body.named_buffers())
        with torch.no_grad():
            for group in self.structure.free:
                gone = (~self.alive[group.name]).nonzero()[:, 0].tolist()
                for one in group.slices if gone else ():
                    tensor = state[one.tensor]
                    rows = torch.tensor(one.rows(gone), device=tensor.device)
                    tensor.index_fill_(one.dim, rows, 0)
                    for remembered in _remembered(optimizer, tensor):
                        remembered.index_fill_(one.dim, rows, 0)

    def plan(self) -> Plan:
        """What is left."""
        return Plan(
            {name: tuple(alive.nonzero()[:, 0].tolist()) for name, alive in self.alive.items() if not bool(alive.all())}
        )


def _remembered(optimizer: torch.optim.Optimizer | None, tensor: Tensor) -> list[Tensor]:
    """What an optimizer keeps per element of a parameter, such as its momentum."""
    if optimizer is None or tensor not in optimizer.state:
        return []
    values = optimizer.state[tensor].values()
    return [value for value in values if isinstance(value, Tensor) and value.shape == tensor.shape]
