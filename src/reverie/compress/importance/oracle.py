"""The oracle: take each unit away, look at the loss. Exact, slow, and what all other evidence is compared with."""

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.compress.importance.batches import batches
from reverie.compress.importance.gates import Gates
from reverie.compress.importance.scored import Scored
from reverie.core.events import Event, Listener, silent
from reverie.core.network import ImageNetwork
from reverie.core.source import Source
from reverie.graph.structure import Structure

__all__ = ["oracle_changes"]


def oracle_changes(
    network: ImageNetwork,
    structure: Structure,
    source: Source,
    *,
    images: int = 256,
    batch_size: int = 128,
    targets: Tensor | None = None,
    on_event: Listener = silent,
) -> dict[str, Scored]:
    """The change of the loss when one unit alone goes, with its sign.

    Shapes: per free group (units,).
    Units: nats; cross-entropy with targets, else the divergence from the whole network's answers. Higher means keep.

    Args:
        network: Untouched.
        structure: Of `network.body`.
        source: Images.
        images: How many are used at most.
        batch_size: Images at once.
        targets: (n,) class per image; None compares answers.
        on_event: Called with the stage "removing units".

    Cost: a forward pass over the images per unit.

    Reference: Molchanov et al., 2019. Differs: the standard error of each change is kept.
    """
    gates = Gates(network.body, structure)
    seen = list(batches(network, source, images=images, batch_size=batch_size, targets=targets))
    made = {}
    groups = structure.free
    with torch.no_grad():
        whole = [gates(inputs, {}) for inputs, _, _ in seen]
        for at, group in enumerate(groups):
            changes = []
            for unit in range(group.units):
                gate = torch.ones(group.units)
                gate[unit] = 0.0
                losses = [
                    _losses(gates(inputs, {group.name: gate}), asked, before)
                    for (inputs, asked, _), before in zip(seen, whole, strict=True)
                ]
                changes.append(torch.cat(losses))
            each = torch.stack(changes).double()
            made[group.name] = Scored(each.mean(1), each.std(1) / each.shape[1] ** 0.5)
            on_event(Event("removing units", at + 1, len(groups)))
    return made


def _losses(logits: Tensor, targets: Tensor | None, before: Tensor) -> Tensor:
    """Per image: (n,)."""
    if targets is not None:
        return F.cross_entropy(logits, targets, reduction="none") - F.cross_entropy(before, targets, reduction="none")
    wanted = before.log_softmax(1)
    return (wanted.exp() * (wanted - logits.log_softmax(1))).sum(1)
