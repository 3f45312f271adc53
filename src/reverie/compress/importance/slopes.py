"""Derivatives of the logits at every gate, image by image: what all Taylor scores of single images are made of.

Cost: one forward pass, and one backward pass per sum of logits that is asked for, for all images of a batch at once.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from reverie.compress.importance.gates import Gates
from reverie.compress.importance.image_gates import ImageGates
from reverie.core.network import ImageNetwork
from reverie.graph.structure import Structure

__all__ = ["LogitSlopes"]


class LogitSlopes:
    """The slopes of sums of a network's logits at the gates of its units.

    Args:
        network: Untouched; a copy of its body is kept in evaluation mode.
        structure: Of `network.body`.

    Example:
        >>> from torch import nn
        >>> from reverie.graph import probe
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> network, structure = ImageNetwork(net, image_shape=(1, 2, 2)), probe(net, torch.zeros(1, 1, 2, 2))
        >>> logits, slopes = LogitSlopes(network, structure)(torch.ones(5, 1, 2, 2), lambda logits: logits[..., None])
        >>> logits.shape, slopes["1"].shape
        (torch.Size([5, 2]), torch.Size([3, 5, 1]))
    """

    def __init__(self, network: ImageNetwork, structure: Structure) -> None:
        example = (torch.zeros(2, *network.image_shape, device=network.mean.device) - network.mean) / network.std
        each = ImageGates(network.body, structure, example)
        self._gates: ImageGates | Gates = each if each.possible else Gates(network.body, structure)

    def __call__(self, inputs: Tensor, along: Callable[[Tensor], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (n, k), and the slopes of m sums of them at every gate: group -> (units, n, m).

        Args:
            inputs: (n, ...) normalized images.
            along: Logits (n, k) -> the weights (n, k, m) of each sum.
        """
        if isinstance(self._gates, ImageGates):
            return _slopes(self._gates, self._gates.ones(len(inputs)), inputs, along)
        # Gates that can only stand in the weights are one for all images, so each image has a pass of its own.
        logits = self._gates(inputs, {}).detach()
        weights = along(logits)
        parts = [
            _slopes(self._gates, self._gates.ones(), inputs[i : i + 1], partial(_row, weights, i))[1]
            for i in range(len(inputs))
        ]
        return logits, {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}


def _row(weights: Tensor, row: int, _logits: Tensor) -> Tensor:
    return weights[row : row + 1]


def _slopes(
    gates: ImageGates | Gates, ones: Mapping[str, Tensor], inputs: Tensor, along: Callable[[Tensor], Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    inner = [gate.requires_grad_() for gate in ones.values()]
    logits = gates(inputs, dict(zip(ones, inner, strict=True)))
    sums = (logits[..., None] * along(logits.detach())).sum((0, 1))
    columns = [
        torch.autograd.grad(one, inner, retain_graph=True, allow_unused=True, materialize_grads=True) for one in sums
    ]
    # A gate of one image alone has no axis of images.
    slopes = {
        name: torch.stack([column[at].reshape(len(inputs), -1).T for column in columns], dim=2)
        for at, name in enumerate(ones)
    }
    return logits.detach(), slopes
