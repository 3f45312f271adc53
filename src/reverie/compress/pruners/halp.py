"""HALP: every few batches a knapsack decides which units stay, under a latency budget that shrinks exponentially.

Reference: Shen et al., 2022, "Structural pruning via latency-saliency knapsack", arXiv:2210.06659.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from reverie.compress.allocator import Allocation
from reverie.compress.baselines import exponential_targets, halp_allocate
from reverie.compress.importance.products import Score, normalization_score
from reverie.compress.kinds import LayerCost
from reverie.compress.options import PairCost, Site
from reverie.compress.pruners.pruner import Pruner
from reverie.compress.sites import BYPASS, Sites, build_problem
from reverie.core.errors import RangeError

__all__ = ["HalpPruner", "Solve"]

# Sites, pairs, limit of the cost "latency" -> allocation.
Solve = Callable[[Sequence[Site], Sequence[PairCost], float], Allocation]


def _halp(sites: Sequence[Site], pairs: Sequence[PairCost], limit: float) -> Allocation:
    return halp_allocate(sites, pairs, budget="latency", limit=limit, steps=1)


class HalpPruner(Pruner):
    """Latency-aware pruning while training goes on.

    Args:
        body: The network that trains; changed in place.
        sites: Of `body`, with `step` at the width that the runtime computes at once: neurons are grouped by it.
        latency: Cost of one layer at given widths, such as `LatencyTable.milliseconds` of its shape.
        share: Of the whole network's latency to end with, in (0, 1).
        steps: Pruning steps, at least 1.
        every: Batches between two of them, at least 1.
        score: Scores of one batch.
        solve: Chooses widths; the knapsack of the paper, or `allocate` in its place.

    Raises:
        RangeError: A number is out of its range.

    Example:
        >>> from reverie.compress.sites import find_sites
        >>> from reverie.graph import probe
        >>> body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> macs = lambda layer, into, out, groups: float(into * out)
        >>> sites = find_sites(probe(body, torch.zeros(1, 4)), step=2)
        >>> pruner = HalpPruner(body, sites, latency=macs, share=0.5, steps=1, every=2)
        >>> for _ in range(2):
        ...     body(torch.ones(4, 4)).square().sum().backward()
        ...     pruner.after_backward()
        ...     pruner.after_step()
        >>> pruner.finished, len(pruner.plan().kept["0"])
        (True, 4)

    Reference: the paper's algorithm. Differs: the importance of a width is that of the units it leaves out, and the
    exact allocator may take the knapsack's place; blocks are not bypassed; how a loop calls it is in `Pruner`.

    Fails when: latencies of the table do not add up to the network's; measure the result, and lower the share.
    """

    def __init__(
        self,
        body: nn.Module,
        sites: Sites,
        *,
        latency: LayerCost,
        share: float,
        steps: int = 30,
        every: int = 40,
        score: Score = normalization_score,
        solve: Solve = _halp,
    ) -> None:
        super().__init__(body, sites.structure, every=every, score=score)
        if not 0 < share < 1:
            raise RangeError(f"share must be in (0, 1), got {share}")
        self.sites, self.latency, self.solve = _without_bypass(sites), latency, solve
        whole = build_problem(self.sites, {}, {"latency": latency}).whole("latency")
        self._targets = exponential_targets(whole, share * whole, steps=steps)

    @property
    def finished(self) -> bool:
        """Whether the schedule has ended."""
        return not self._targets

    def prune(self) -> None:
        """Let the knapsack choose widths within the next limit of the schedule."""
        target = self._targets.pop(0)
        scores = self.silenced.take()
        counts = self.silenced.counts
        widths = {
            site: tuple(width for width in options if width <= counts[site])
            for site, options in self.sites.widths.items()
        }
        problem = build_problem(replace(self.sites, widths=widths), _losses(widths, scores), {"latency": self.latency})
        found = self.solve(problem.sites, problem.pairs, target - problem.fixed["latency"])
        self.silenced.keep_best(problem.chosen(found), scores)


def _without_bypass(sites: Sites) -> Sites:
    widths = {site: tuple(width for width in options if width != BYPASS) for site, options in sites.widths.items()}
    return Sites(sites.structure, {site: options for site, options in widths.items() if len(options) > 1}, {})


def _losses(widths: dict[str, tuple[int, ...]], scores: dict[str, Tensor]) -> dict[tuple[str, int], float]:
    """(site, width) -> sum of the scores of the units that this width leaves out."""
    losses = {}
    for site, options in widths.items():
        rising = scores[site].sort().values
        lost = torch.cat([torch.zeros(1, dtype=rising.dtype), rising.cumsum(0)])
        losses.update({(site, width): float(lost[len(rising) - width]) for width in options})
    return losses
