"""Taylor scores: what the loss would do if a unit went, from its derivatives where the unit is still there.

Cost: a forward and a backward pass per batch; for the second order, as many backward passes more as there are classes,
or probes where these are fewer.

Sources: Molchanov et al., 2019, arXiv:1906.10771 (first and second order, gates and weights); scores of parameters name
their own in `products`.
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.compress.importance.batches import asked_classes, batches, loss_of
from reverie.compress.importance.gates import Gates
from reverie.compress.importance.products import Score, fisher_score
from reverie.compress.importance.scored import Scored, averaged, over_images
from reverie.compress.importance.slopes import LogitSlopes
from reverie.core.counts import check_counts
from reverie.core.events import Event, Listener, silent
from reverie.core.network import ImageNetwork
from reverie.core.rng import generator
from reverie.core.source import Source
from reverie.graph.structure import Structure

__all__ = ["gate_scores", "parameter_scores", "second_order_scores"]

# Images of one pass where each has gates of its own.
TOGETHER = 64


def gate_scores(
    network: ImageNetwork,
    structure: Structure,
    source: Source,
    *,
    images: int = 256,
    batch_size: int = 16,
    targets: Tensor | None = None,
    seed: int = 0,
    on_event: Listener = silent,
) -> dict[str, Scored]:
    """First order, at a gate: (dL/dz)^2 per batch, averaged over batches.

    A unit's gate multiplies all that reads it, so what its readers say is added before it is squared.

    Shapes: per free group (units,).
    Units: squared loss. Higher means keep.

    Args:
        network: Untouched.
        structure: Of `network.body`.
        source: Images.
        images: How many are used at most.
        batch_size: Images whose mean loss is differentiated; 1 squares image by image, the variant that the paper calls
            full gradient, and takes no longer where all that reads units are convolutions and linear layers.
        targets: (n,) class per image; None draws them from the network's own answers.
        seed: Decides these.
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
        >>> found = gate_scores(network, structure, source)["1"]
        >>> found.value.shape, bool((found.value >= 0).all())
        (torch.Size([3]), True)

    Reference: Molchanov et al., 2019. Differs: see `Gates`; labels are not needed.

    Fails when: the mean loss of large batches no longer moves, as on training images that the network has learned; take
    smaller batches.
    """
    if batch_size == 1:
        changes = _changes(network, structure, source, images, 0, targets, seed, on_event)
        return {name: over_images(one, 1) for name, one in changes.items()}
    gates = Gates(network.body, structure)

    def one(inputs: Tensor, asked: Tensor | None, index: int) -> dict[str, Tensor]:
        ones = {name: gate.requires_grad_() for name, gate in gates.ones().items()}
        loss = loss_of(gates(inputs, ones), asked, seed=seed, index=index)
        slopes = torch.autograd.grad(loss, list(ones.values()), allow_unused=True, materialize_grads=True)
        return {name: slope.square() for name, slope in zip(ones, slopes, strict=True)}

    return _gathered(network, source, one, images, batch_size, targets, on_event)


def second_order_scores(
    network: ImageNetwork,
    structure: Structure,
    source: Source,
    *,
    images: int = 256,
    batch_size: int = 16,
    probes: int = 16,
    targets: Tensor | None = None,
    seed: int = 0,
    on_event: Listener = silent,
) -> dict[str, Scored]:
    """Second order, at a gate: (-dL/dz + H_zz / 2)^2 per batch, averaged over batches.

    H is the curvature that the loss has in the logits, taken to each gate by their slopes: all of it where logits are
    linear in a gate, as in one layer between ReLUs.

    Args:
        network: As for `gate_scores`, and so for all that is not named here.
        structure: Of `network.body`.
        source: Images.
        images: How many are used at most.
        batch_size: Images whose mean loss is expanded; decides no cost. A last batch that is not full is left out.
        probes: Backward passes for H, at least 1. It is exact with as many as there are classes; with fewer, random
            sums of logits estimate it without bias, image by image.
        targets: (n,) class per image, or None.
        seed: Decides classes, and the sums.
        on_event: Called with the stage "ranking units".

    Raises:
        RangeError: No probe; else as for `gate_scores`.

    Example:
        >>> from torch import nn
        >>> from reverie.core.source import noise_source
        >>> from reverie.graph import probe
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> network, structure = ImageNetwork(net, image_shape=(1, 2, 2)), probe(net, torch.zeros(1, 1, 2, 2))
        >>> source = noise_source(count=8, image_shape=(1, 2, 2), seed=0)
        >>> second_order_scores(network, structure, source, batch_size=4)["1"].value.shape
        torch.Size([3])

    Reference: Molchanov et al., 2019. Differs: the second derivative of the logits themselves is left out.
    """
    check_counts(probes=probes)
    changes = _changes(network, structure, source, images, probes, targets, seed, on_event)
    return {name: over_images(one, min(batch_size, one.shape[1])) for name, one in changes.items()}


def _changes(
    network: ImageNetwork,
    structure: Structure,
    source: Source,
    images: int,
    probes: int,
    targets: Tensor | None,
    seed: int,
    on_event: Listener,
) -> dict[str, Tensor]:
    """What each image's loss would do if a unit went, by its slope, and with probes its curvature: (units, n)."""
    parts: dict[str, list[Tensor]] = {group.name: [] for group in structure.free}
    slopes, count, done = LogitSlopes(network, structure), min(images, len(source)), 0
    for inputs, asked, index in batches(network, source, images=images, batch_size=TOGETHER, targets=targets):
        _, found = slopes(inputs, partial(_sums, asked, probes, seed, index))
        for name, values in found.items():
            parts[name].append(values[..., 1:].square().sum(2) / 2 - values[..., 0])
        done += len(inputs)
        on_event(Event("ranking units", done, count))
    return {name: torch.cat(one, dim=1) for name, one in parts.items()}


def _sums(asked: Tensor | None, probes: int, seed: int, index: int, logits: Tensor) -> Tensor:
    """Sums of logits (n, k, 1 + probes): the slope of an image's loss, and a root of its curvature.

    The loss curves by diag(p) - p p' = S S' with S = diag(p^1/2) - p (p^1/2)'. Columns of S are such sums, and so are
    random mixtures of them, whose squares are right on average.
    """
    answers = logits.softmax(1)
    right = F.one_hot(asked_classes(logits, asked, seed=seed, index=index), logits.shape[1])
    slope = (answers - right)[..., None]
    if probes == 0:
        return slope
    n, classes = logits.shape
    mixed = torch.eye(classes).expand(n, -1, -1)
    if probes < classes:
        signs = torch.randint(0, 2, (n, classes, probes), generator=generator(seed, "signs", index))
        mixed = (2.0 * signs - 1) / probes**0.5
    mixed = answers.sqrt()[..., None] * mixed.to(logits)
    return torch.cat([slope, mixed - answers[..., None] * mixed.sum(1, keepdim=True)], dim=2)


def parameter_scores(
    network: ImageNetwork,
    structure: Structure,
    source: Source,
    *,
    score: Score = fisher_score,
    images: int = 256,
    batch_size: int = 16,
    targets: Tensor | None = None,
    seed: int = 0,
    on_event: Listener = silent,
) -> dict[str, Scored]:
    """First order, at the parameters: a score of weights times gradients per batch, averaged over batches.

    Args:
        network: As for `gate_scores`, and so for all that is not named here.
        structure: Of `network.body`.
        source: Images.
        score: Which products count and how: `fisher_score` (NViT), `normalization_score` (HALP), `weight_score`
            (Molchanov et al.), or a function of your own.
        images: How many are used at most.
        batch_size: Images whose mean loss is differentiated.
        targets: (n,) class per image, or None.
        seed: Decides the classes.
        on_event: Called with the stage "ranking units".

    Example:
        >>> from torch import nn
        >>> from reverie.core.source import noise_source
        >>> from reverie.graph import probe
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> network, structure = ImageNetwork(net, image_shape=(1, 2, 2)), probe(net, torch.zeros(1, 1, 2, 2))
        >>> source = noise_source(count=8, image_shape=(1, 2, 2), seed=0)
        >>> parameter_scores(network, structure, source, score=fisher_score)["1"].value.shape
        torch.Size([3])

    Reference: as the score says. Differs: NViT's distillation loss is replaced by answers drawn from the network.
    """
    body = copy.deepcopy(network.body).eval()
    named = {one.tensor for group in structure.free for one in group.slices}
    tensors = {name: tensor.requires_grad_(name in named) for name, tensor in body.named_parameters()}
    read = {name: tensor for name, tensor in tensors.items() if name in named}

    def one(inputs: Tensor, asked: Tensor | None, index: int) -> dict[str, Tensor]:
        loss = loss_of(body(inputs), asked, seed=seed, index=index)
        slopes = torch.autograd.grad(loss, list(read.values()), allow_unused=True, materialize_grads=True)
        products = {name: tensor.detach() * slope for (name, tensor), slope in zip(read.items(), slopes, strict=True)}
        return {group.name: score(group, products) for group in structure.free}

    return _gathered(network, source, one, images, batch_size, targets, on_event)


def _gathered(
    network: ImageNetwork,
    source: Source,
    one: Callable[[Tensor, Tensor | None, int], dict[str, Tensor]],
    images: int,
    batch_size: int,
    targets: Tensor | None,
    on_event: Listener,
) -> dict[str, Scored]:
    total = -(-min(images, len(source)) // max(batch_size, 1))
    found = []
    for inputs, asked, index in batches(network, source, images=images, batch_size=batch_size, targets=targets):
        found.append(one(inputs, asked, index))
        on_event(Event("ranking units", index + 1, total))
    return averaged(found)
