"""What the allocator is asked: sites with options, segments over several sites, and terms that couple two sites."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Option", "PairCost", "Segment", "Site"]


@dataclass(frozen=True)
class Option:
    """One thing that could be done at a site.

    Attributes:
        name: What a plan calls it, such as a width.
        loss: Rise of the loss; any finite number, lower is better.
        costs: Budget name -> what the option costs, in the unit of the budget. A name left out costs nothing here.

    Example:
        >>> Option("8", 0.3, {"latency": 1.0}).costs["latency"]
        1.0
    """

    name: str
    loss: float
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Site:
    """A place in the network, and everything that could be done there; exactly one option is chosen.

    Attributes:
        name: Unique.
        options: At least one.

    Example:
        >>> [option.name for option in Site("conv", (Option("16", 0.0), Option("8", 0.3))).options]
        ['16', '8']
    """

    name: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Segment:
    """One thing that could be done to several sites at once, in place of an option at each, such as fusing two layers.

    Attributes:
        name: Unique among the segments.
        sites: Names of the sites covered, each once; at least one.
        loss: Rise of the loss.
        costs: Budget name -> what the segment costs. Pairs with a site that is covered add nothing to it.
    """

    name: str
    sites: tuple[str, ...]
    loss: float
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class PairCost:
    """A cost, and perhaps a loss, that depends on the options of two sites at once.

    Attributes:
        site_a: Name of the site of the rows.
        site_b: Name of the site of the columns; it may be `site_a`, where only the diagonal counts.
        costs: Budget name -> matrix (options of a, options of b), in the unit of the budget.
        forbidden: (options of a, options of b), true where the two options exclude each other; None allows all.
        loss: (options of a, options of b), what the loss of the two together is above the sum of their losses; None is
            zero.

    Example:
        >>> latency_ms = np.array([[4.0, 2.0], [2.0, 1.0]])  # of the layer between, at either width before and behind
        >>> PairCost("conv1", "conv2", {"latency": latency_ms}).costs["latency"][1, 0]
        np.float64(2.0)
    """

    site_a: str
    site_b: str
    costs: Mapping[str, NDArray[np.float64]]
    forbidden: NDArray[np.bool_] | None = None
    loss: NDArray[np.float64] | None = None
