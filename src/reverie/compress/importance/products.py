"""Scores of one group's units from weights times gradients, which any loop that trains a network has at hand.

A `Score` is a function of a group and of these products. `parameter_scores` averages it over batches of a source, and a
pruner over the batches that a network trains on.

Cost: a sum over the weights of the group.

Sources: Molchanov et al., 2019, arXiv:1906.10771 (gates, weights); Shen et al. (HALP), 2022, arXiv:2110.10811 (batch
normalization); Yang et al. (NViT), 2023, arXiv:2110.04869 (all linked parameters).
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from reverie.compress.importance.gates import gated_slices
from reverie.graph.structure import Group, Role, Slice

__all__ = [
    "Products",
    "Score",
    "fisher_score",
    "gate_score",
    "gate_slopes",
    "linked_sums",
    "normalization_score",
    "weight_score",
]

# Parameter -> weight times gradient, element by element.
Products = Mapping[str, Tensor]

# One group's scores from the products of one batch: (units,), higher means keep.
Score = Callable[[Group, Products], Tensor]


def gate_score(group: Group, products: Products) -> Tensor:
    """(dL/dz)^2 at the gate of each unit: what `gate_scores` averages, from a backward pass that is made anyway.

    Shapes: (units,).
    Units: squared loss. Higher means keep.

    Example:
        >>> from reverie.graph import probe
        >>> structure = probe(torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Linear(2, 1)), torch.zeros(1, 1))
        >>> gate_score(structure.group("0"), {"1.weight": torch.tensor([[0.5, -2.0]])})
        tensor([0.2500, 4.0000])

    Reference: Molchanov et al., 2019.
    """
    return gate_slopes(group, products).square()


def weight_score(group: Group, products: Products) -> Tensor:
    """Sum of (w dL/dw)^2 over the weights that make a unit, over all layers that make it.

    Shapes: (units,).
    Units: squared loss. Higher means keep.

    Example:
        >>> from reverie.graph import probe
        >>> structure = probe(torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Linear(2, 1)), torch.zeros(1, 1))
        >>> weight_score(structure.group("0"), {"0.weight": torch.tensor([[1.0], [2.0]]), "0.bias": torch.ones(2)})
        tensor([2., 5.])

    Reference: Molchanov et al., 2019.
    """
    return linked_sums(group, {name: product.square() for name, product in products.items()}, roles=("produce",))


def normalization_score(group: Group, products: Products) -> Tensor:
    """|sum of w dL/dw over scale and shift| of the normalization behind a unit.

    A unit that no normalization follows is scored by the weights that make it, in the same way.

    Shapes: (units,).
    Units: loss. Higher means keep.

    Example:
        >>> from reverie.graph import probe
        >>> structure = probe(torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Linear(2, 1)), torch.zeros(1, 1))
        >>> normalization_score(structure.group("0"), {"0.weight": torch.tensor([[1.0], [-2.0]])})
        tensor([1., 2.])

    Reference: HALP: the layers of a group are added before the absolute value is taken.
    """
    follows = any(one.role == "follow" and one.tensor in products for one in group.slices)
    return linked_sums(group, products, roles=("follow",) if follows else ("produce",)).abs()


def fisher_score(group: Group, products: Products) -> Tensor:
    """(sum of w dL/dw over all that goes with a unit)^2: the Fisher approximation of w' H w for the whole group.

    A stream that several blocks share is divided by the number of layers that read it before it is squared, so it
    compares with what lives in one block.

    Shapes: (units,).
    Units: squared loss. Higher means keep.

    Example:
        >>> from reverie.graph import probe
        >>> structure = probe(torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Linear(2, 1)), torch.zeros(1, 1))
        >>> made, read = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0, -3.0]])
        >>> fisher_score(structure.group("0"), {"0.weight": made, "1.weight": read})
        tensor([4., 1.])

    Reference: NViT. Differs: the divisor is counted from the structure, where the paper's runs have constants per
    dimension.
    """
    total = linked_sums(group, products, roles=("produce", "follow", "consume"))
    return (total / max(len(group.consumers), 1)).square()


def linked_sums(group: Group, products: Products, *, roles: tuple[Role, ...]) -> Tensor:
    """The sum of a group's products over what goes with each unit: (units,).

    Args:
        group: The group.
        products: Parameter -> one number per element; what is not there counts nothing.
        roles: Which slices of the group count. An element in two of them counts once per slice.
    """
    return _summed(group, [one for one in group.slices if one.role in roles], products)


def gate_slopes(group: Group, products: Products) -> Tensor:
    """The derivative of the loss at the gate of each unit, from weights times gradients: (units,)."""
    return _summed(group, gated_slices(group), products)


def _summed(group: Group, slices: Iterable[Slice], products: Products) -> Tensor:
    total = torch.zeros(group.units)
    for one in slices:
        if one.tensor in products:
            moved = products[one.tensor].transpose(0, one.dim)
            per_row = moved.reshape(len(moved), -1).sum(1)
            total = total.to(per_row) + per_row[torch.tensor(one.rows(range(group.units)))].view(group.units, -1).sum(1)
    return total
