"""The oracle: take each unit away, look at the loss. Exact, slow, and what all other evidence is compared with."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.compress.importance.batches import batches
from reverie.compress.importance.gates import gated_slices
from reverie.compress.importance.partial import PartialRuns
from reverie.compress.importance.scored import Scored, over_images
from reverie.core.events import Event, Listener, silent
from reverie.core.network import ImageNetwork
from reverie.core.source import Source
from reverie.graph.structure import Group, Structure

__all__ = ["logits_without", "losses_without", "oracle_changes"]


def oracle_changes(
    network: ImageNetwork,
    structure: Structure,
    source: Source,
    *,
    images: int = 256,
    batch_size: int = 128,
    targets: Tensor | None = None,
    square_over: int | None = None,
    on_event: Listener = silent,
) -> dict[str, Scored]:
    """The change of the loss when one unit alone goes.

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
        square_over: Images whose mean change is squared before it is averaged: what Taylor scores of batches of this
            size approximate, 1 for those image by image. None keeps the mean of all images, with its sign.
        on_event: Called with the stage "removing units".

    Raises:
        RangeError, ShapeError: As the arguments say.

    Example:
        >>> from reverie.core.source import noise_source
        >>> from reverie.graph import probe
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> network, structure = ImageNetwork(net, image_shape=(1, 2, 2)), probe(net, torch.zeros(1, 1, 2, 2))
        >>> source = noise_source(count=8, image_shape=(1, 2, 2), seed=0)
        >>> _ = net[3].weight.data[:, 0].zero_()
        >>> float(oracle_changes(network, structure, source)["1"].value[0])  # nothing reads unit 0
        0.0

    Cost: a forward pass over the images per unit, from the first layer that reads it on.

    Reference: Molchanov et al., 2019, arXiv:1906.10771, equation 1. Differs: the standard error of each change is kept.
    """
    parts: dict[str, list[Tensor]] = {group.name: [] for group in structure.free}
    found = logits_without(
        network, structure, source, images=images, batch_size=batch_size, targets=targets, on_event=on_event
    )
    for name, logits, asked, whole in found:
        parts[name].append(losses_without(logits, asked, whole))
    return {name: over_images(torch.cat(one, dim=1), square_over) for name, one in parts.items()}


def logits_without(
    network: ImageNetwork,
    structure: Structure,
    source: Source,
    *,
    images: int = 256,
    batch_size: int = 128,
    targets: Tensor | None = None,
    on_event: Listener = silent,
) -> Iterator[tuple[str, Tensor, Tensor | None, Tensor]]:
    """Logits without each unit: group, (units, n, k), targets of the batch, (n, k) of the whole network; by batches.

    Args:
        network: As for `oracle_changes`, and so for all others.
        structure: Of `network.body`.
        source: Images.
        images: How many are used at most.
        batch_size: Images at once.
        targets: (n,) class per image, or None.
        on_event: Called with the stage "removing units".
    """
    # Twice as fast on processors, for convolutions; other layers keep their layout.
    body = copy.deepcopy(network.body).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    runs, groups = PartialRuns(body), structure.free
    count, done = min(images, len(source)), 0
    for inputs, asked, _ in batches(network, source, images=images, batch_size=batch_size, targets=targets):
        with torch.no_grad():
            results = runs.whole(inputs) if runs.possible else {}
            whole = body(inputs)
        for at, group in enumerate(groups):
            layers = {one.tensor.rpartition(".")[0] for one in gated_slices(group)}
            logits = []
            for unit in range(group.units):
                with torch.no_grad(), _without(body, group, unit):
                    logits.append(runs.changed(results, layers) if runs.possible else body(inputs))
            yield group.name, torch.stack(logits), asked, whole
            share = (at + 1) / len(groups)
            on_event(Event("removing units", done + round(share * len(inputs)), count))
        done += len(inputs)


def losses_without(logits: Tensor, targets: Tensor | None, before: Tensor) -> Tensor:
    """What is lost per unit and image: (units, n).

    Shapes: logits (units, n, k) without each unit; before (n, k).
    """
    after = logits.log_softmax(2)
    if targets is not None:
        picked = after.gather(2, targets.to(after.device)[None, :, None].expand(len(after), -1, 1))[..., 0]
        return -picked - F.cross_entropy(before, targets.to(before.device), reduction="none")
    wanted = before.log_softmax(1)
    return (wanted.exp() * (wanted - after)).sum(2)


@contextmanager
def _without(body: nn.Module, group: Group, unit: int) -> Iterator[None]:
    """The body while all that reads a unit is zero for it."""
    state = dict(body.named_parameters()) | dict(body.named_buffers())
    kept: list[tuple[Tensor, int, Tensor, Tensor]] = []
    try:
        for one in gated_slices(group):
            tensor = state.get(one.tensor)
            if tensor is not None:
                rows = torch.tensor(one.rows([unit]), device=tensor.device)
                kept.append((tensor, one.dim, rows, tensor.index_select(one.dim, rows)))
                tensor.index_fill_(one.dim, rows, 0.0)
        yield
    finally:
        for tensor, dim, rows, values in reversed(kept):
            tensor.index_copy_(dim, rows, values)
