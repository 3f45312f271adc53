"""Magnitude: a unit whose weights are small is taken to matter little. Needs no images."""

import torch

from reverie.compress.importance.scored import Scored
from reverie.core.network import ImageNetwork
from reverie.graph.structure import Structure

__all__ = ["magnitude_scores"]


def magnitude_scores(network: ImageNetwork, structure: Structure, *, order: float = 2.0) -> dict[str, Scored]:
    """The norm of all weights that make a unit, over the layers that make it together.

    Shapes: per free group (units,).
    Units: of the weights. Higher means keep. Not comparable between groups; divide by the group's mean for that.

    Args:
        network: Untouched.
        structure: Of `network.body`.
        order: Of the norm, above 0.

    Example:
        >>> from reverie.graph import probe
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 3))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        >>> wrapped = ImageNetwork(net, image_shape=(2,))
        >>> magnitude_scores(wrapped, probe(net, torch.zeros(1, 2)))["0"].value
        tensor([5., 1.], dtype=torch.float64)

    Reference: Li et al., 2017, "Pruning filters for efficient ConvNets", arXiv:1608.08710. Differs: the
    norm runs over all layers whose filters go together, and is of order 2 unless told.
    """
    state = dict(network.body.named_parameters())
    made = {}
    for group in structure.free:
        total = torch.zeros(group.units, dtype=torch.float64)
        for one in group.slices:
            if one.role == "produce" and one.tensor in state and state[one.tensor].ndim > 1:
                rows = torch.tensor(one.rows(range(group.units)))
                weight = state[one.tensor].detach().cpu().double().transpose(0, one.dim).flatten(1)
                total += weight.abs().pow(order).sum(1)[rows].view(group.units, -1).sum(1)
        made[group.name] = Scored(total.pow(1 / order), torch.zeros(group.units, dtype=torch.float64))
    return made
