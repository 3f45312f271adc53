"""NViT: Hessian-aware importance, less what a unit saves in latency; and the rule its results suggest.

Reference: Yang et al., 2023, "Global vision transformer pruning with Hessian-aware saliency", arXiv:2110.04869.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from reverie.compress.importance.products import Score, fisher_score
from reverie.compress.kinds import LayerCost
from reverie.compress.pruners.pruner import Pruner
from reverie.core.errors import RangeError
from reverie.graph.structure import Structure

__all__ = ["NVitPruner", "Redistributed", "redistribution"]


class NVitPruner(Pruner):
    """Global pruning of all dimensions of a transformer, or of any network, until a latency is predicted.

    Every `every` batches, `remove` blocks of units go, of all groups together those of the least
    I - eta * (latency now - latency without the block). A group is left alone once it is down to its last block.

    Args:
        body: The network that trains; changed in place.
        structure: Of `body`.
        latency: Cost of one layer at given widths.
        share: Of the whole network's latency to end with, in (0, 1).
        every: Batches between two pruning steps, at least 1.
        remove: Blocks that go in each, at least 1.
        eta: Weight of the latency, in scores per unit of latency, at least 0.
        block: Group -> units that go together, such as 16 of an embedding, 2 heads, 8 of query and key; 1 where a group
            is not named.
        score: Scores of one batch.

    Raises:
        RangeError: A number is out of its range.

    Example:
        >>> from reverie.graph import probe
        >>> body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> macs = lambda layer, into, out, groups: float(into * out)
        >>> pruner = NVitPruner(body, probe(body, torch.zeros(1, 4)), latency=macs, share=0.5, every=2, remove=8)
        >>> for _ in range(2):
        ...     body(torch.ones(4, 4)).square().sum().backward()
        ...     pruner.after_backward()
        ...     pruner.after_step()
        >>> pruner.finished, len(pruner.plan().kept["0"])
        (True, 4)

    Reference: the paper's algorithm, whose blocks are 16 of the embedding, 2 heads, 8 of query and key, 8 of values and
    16 of the hidden layer. Differs: latency is the sum of a table of layers in place of a five-dimensional table of
    transformer blocks; dimensions are whatever groups the structure has.

    Fails when: scores and latency are of sizes that eta does not fit; look at `Silenced.take` once.
    """

    def __init__(
        self,
        body: nn.Module,
        structure: Structure,
        *,
        latency: LayerCost,
        share: float,
        every: int = 100,
        remove: int = 32,
        eta: float = 5e-4,
        block: Mapping[str, int] | None = None,
        score: Score = fisher_score,
    ) -> None:
        super().__init__(body, structure, every=every, score=score)
        if not 0 < share < 1 or remove < 1 or eta < 0:
            raise RangeError(
                f"share must be in (0, 1), remove at least 1, eta at least 0; got {share}, {remove} and {eta}"
            )
        self.latency, self.remove, self.eta = latency, remove, eta
        self.block = dict(block or {})
        self._limit = share * self.predicted({})

    def predicted(self, counts: Mapping[str, int]) -> float:
        """The latency of the network with these units."""
        return sum(self.latency(layer, *layer.widths(counts)) for layer in self.silenced.structure.layers)

    @property
    def finished(self) -> bool:
        """Whether the predicted latency is within the share."""
        return self.predicted(self.silenced.counts) <= self._limit

    def prune(self) -> None:
        """Silence the blocks of units whose score, less what they save, is least."""
        scores = self.silenced.take()
        for _ in range(self.remove):
            counts = self.silenced.counts
            now = self.predicted(counts)
            if now <= self._limit:
                return
            worst: tuple[float, str, list[int]] | None = None
            for name, alive in self.silenced.alive.items():
                size = self.block.get(name, 1)
                if counts[name] <= size:
                    continue
                ranked = torch.where(alive, scores[name], float("inf")).argsort(stable=True)[:size]
                saved = now - self.predicted({**counts, name: counts[name] - size})
                value = float(scores[name][ranked].sum()) - self.eta * saved
                if worst is None or value < worst[0]:
                    worst = (value, name, ranked.tolist())
            if worst is None:
                return
            self.silenced.silence({worst[1]: worst[2]})


@dataclass(frozen=True)
class Redistributed:
    """Widths of a vision transformer's blocks, first to last.

    Attributes:
        embedding: Width of the stream.
        heads: Per block.
        query_key: Width of queries and keys of one head, per block.
        value: Width of values of one head, per block.
        hidden: Hidden width of the feed-forward layer, per block.

    Example:
        >>> found = redistribution(176)
        >>> found.embedding, found.heads[:3], found.value[0]
        (176, (10, 2, 2), 64)
    """

    embedding: int
    heads: tuple[int, ...]
    query_key: tuple[int, ...]
    value: tuple[int, ...]
    hidden: tuple[int, ...]


def redistribution(embedding: int) -> Redistributed:
    """The rule of twelve blocks that pruned networks suggest: thin ends, a fat middle.

    With r = round(0.005 E) and q = 8 round(0.05 E / 8): heads 10, 2r, 2r, six of 4r, 2r, 2r, 10; queries and keys 2q,
    q, q, six of 2q, q, q, 2q; values 64; hidden 3E, 6E, 3E for three, six and three blocks.

    Args:
        embedding: E, at least 100: below, the rule leaves a block without heads.

    Raises:
        RangeError: The embedding is narrower.

    Example:
        >>> found = redistribution(384)
        >>> found.heads, found.query_key[:3], found.hidden[2:4]
        ((10, 4, 4, 8, 8, 8, 8, 8, 8, 4, 4, 10), (32, 16, 16), (1152, 2304))

    Reference: the paper's rule, whose networks have E = 176 (tiny) and 384 (small).
    """
    if embedding < 100:
        raise RangeError(f"the rule leaves blocks without heads below an embedding of 100, got {embedding}")
    r, q = round(0.005 * embedding), 8 * max(round(0.05 * embedding / 8), 1)
    heads = (10, 2 * r, 2 * r, *[4 * r] * 6, 2 * r, 2 * r, 10)
    query_key = (2 * q, q, q, *[2 * q] * 6, q, q, 2 * q)
    hidden = (*[3 * embedding] * 3, *[6 * embedding] * 6, *[3 * embedding] * 3)
    return Redistributed(embedding, heads, query_key, (64,) * 12, hidden)
