"""What the loss would be without a unit, if the logits moved on along their tangent: nearly the oracle, for one pass.

What for: a Taylor series of the loss sees neither that a sure answer stays sure nor that a wrong one can not get worse
for ever; both are in the softmax, which is known exactly. So only the logits are taken to first order, and the loss of
the moved logits is computed as it is. In a network of convolutions, linear layers and ReLU, logits are piecewise linear
in each unit, so little is left out.

Cost: one forward pass and as many backward passes as there are classes, for all images of a batch and all units.
"""

import torch
from torch import Tensor

from reverie.compress.importance.batches import batches
from reverie.compress.importance.oracle import losses_without
from reverie.compress.importance.scored import Scored, over_images
from reverie.compress.importance.slopes import LogitSlopes
from reverie.core.events import Event, Listener, silent
from reverie.core.network import ImageNetwork
from reverie.core.source import Source
from reverie.graph.structure import Structure

__all__ = ["tangent_changes"]


def tangent_changes(
    network: ImageNetwork,
    structure: Structure,
    source: Source,
    *,
    images: int = 256,
    batch_size: int = 64,
    targets: Tensor | None = None,
    square_over: int | None = None,
    on_event: Listener = silent,
) -> dict[str, Scored]:
    """The change of the loss when one unit alone goes, with logits z moved to z - dz/dgate.

    What `oracle_changes` measures, without taking anything away.

    Shapes: per free group (units,).
    Units: nats, squared where `square_over` is given; cross-entropy with targets, else the divergence from the whole
        network's answers. Higher means keep.

    Args:
        network: Untouched.
        structure: Of `network.body`.
        source: Images.
        images: How many are used at most.
        batch_size: Images at once; decides no value.
        targets: (n,) class per image; None compares answers.
        square_over: As for `oracle_changes`.
        on_event: Called with the stage "ranking units".

    Raises:
        RangeError, ShapeError: As the arguments say.

    Example:
        >>> from torch import nn
        >>> from reverie.core.source import noise_source
        >>> from reverie.graph import probe
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> network, structure = ImageNetwork(net, image_shape=(1, 2, 2)), probe(net, torch.zeros(1, 1, 2, 2))
        >>> source = noise_source(count=8, image_shape=(1, 2, 2), seed=0)
        >>> tangent_changes(network, structure, source)["1"].value.shape
        torch.Size([3])

    Reference: Molchanov et al., 2019, arXiv:1906.10771, for the gate. Differs: the expansion is of the logits, not of
    the loss; standard errors are over images.

    Fails when: there are a thousand classes, each of which is a backward pass; take `gate_scores`.
    """
    slopes = LogitSlopes(network, structure)
    count = min(images, len(source))
    found: dict[str, list[Tensor]] = {group.name: [] for group in structure.free}
    done = 0
    for inputs, asked, _ in batches(network, source, images=images, batch_size=batch_size, targets=targets):
        logits, moves = slopes(inputs, _each_logit)
        for name, move in moves.items():
            found[name].append(losses_without(logits - move, asked, logits))
        done += len(inputs)
        on_event(Event("ranking units", done, count))
    return {name: over_images(torch.cat(parts, dim=1), square_over) for name, parts in found.items()}


def _each_logit(logits: Tensor) -> Tensor:
    """The sums that are one logit each: (n, k, k)."""
    return torch.eye(logits.shape[1]).to(logits).expand(len(logits), -1, -1)
