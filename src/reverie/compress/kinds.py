"""Kinds of options beside fewer units and bypassed blocks, each a row of one table.

A kind says, for layers by name, which numbers can be chosen, what a layer then costs, and what is done to it. Numbers
fall, and the first leaves the layer as it is, so evidence, allocator, study and report treat all sites alike: a width,
a rank or a number of bits. A site is called by its kind and its layer, such as "rank of layer1.0.conv1".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from reverie.compress.ranks import Ranks
from reverie.core.edit import Edit
from reverie.core.errors import ReferenceNotFound
from reverie.graph.structure import Layer, Structure

__all__ = ["KINDS", "Kind", "LayerCost", "check_kinds", "is_kind", "offered", "parted"]

# Layer, input channels, output channels, groups -> cost in the unit of its column.
LayerCost = Callable[[Layer, int, int, int], float]


class Kind(Protocol):
    """What else could be done to a layer."""

    def levels(self, body: nn.Module, structure: Structure, example: Tensor) -> Mapping[str, tuple[int, ...]]:
        """Layer -> the numbers to choose from, from the one that changes nothing down.

        Args:
            body: Untouched.
            structure: Of `body`.
            example: Input of `body`, (n, c, h, w).
        """

    def cost(self, cost: LayerCost, layer: Layer, level: int, in_channels: int, out_channels: int) -> float:
        """What the layer costs at a number that changes it and at these widths, from what plain layers cost."""

    def edit(self, body: nn.Module, layer: str, level: int) -> Edit | None:
        """The edit of the body, cut before, that makes the layer so; None where the number is nothing to it by now."""


KINDS: Mapping[str, Kind] = {"rank": Ranks()}


def check_kinds(names: Sequence[str]) -> None:
    """Refuse kinds of options that there are not.

    Raises:
        ReferenceNotFound: Saying which there are.

    Example:
        >>> check_kinds(["rang"])
        Traceback (most recent call last):
        reverie.core.errors.ReferenceNotFound: no kind of option is called 'rang'; there is rank
    """
    for name in names:
        if name not in KINDS:
            raise ReferenceNotFound(f"no kind of option is called {name!r}; there is {', '.join(KINDS)}")


def offered(names: Sequence[str], body: nn.Module, structure: Structure, example: Tensor) -> dict[str, tuple[int, ...]]:
    """Site -> the numbers to choose from, for kinds by name.

    Args:
        names: Of kinds, in any order.
        body: Untouched.
        structure: Of `body`.
        example: Input of `body`, (n, c, h, w).

    Raises:
        ReferenceNotFound: There is no such kind.

    Example:
        >>> import torch
        >>> from reverie.graph import probe
        >>> body = nn.Sequential(nn.Conv2d(48, 64, 3), nn.Flatten(), nn.Linear(64, 4))
        >>> offered(["rank"], body, probe(body, torch.ones(1, 48, 3, 3)), torch.ones(1, 48, 3, 3))
        {'rank of 0': (64, 48, 32, 16)}
    """
    check_kinds(names)
    return {
        f"{name} of {layer}": levels
        for name in dict.fromkeys(names)
        for layer, levels in KINDS[name].levels(body, structure, example).items()
    }


def is_kind(site: str) -> bool:
    """Whether a site is of one of these kinds, and no group of units.

    Example:
        >>> is_kind("rank of layer1.0.conv1"), is_kind("layer1.0.conv1")
        (True, False)
    """
    name, of, _ = site.partition(" of ")
    return bool(of) and name in KINDS


def parted(site: str) -> tuple[Kind, str]:
    """The kind and the layer of a site.

    Raises:
        ReferenceNotFound: There is no such kind, as in a plan of a later version.

    Example:
        >>> parted("rank of layer1.0.conv1")[1]
        'layer1.0.conv1'
    """
    name, of, layer = site.partition(" of ")
    if not of or name not in KINDS:
        raise ReferenceNotFound(f"no kind of option is known that {site!r} could be of; there are {', '.join(KINDS)}")
    return KINDS[name], layer
