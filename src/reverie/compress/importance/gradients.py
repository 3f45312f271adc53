"""Taylor scores: what the loss would do if a unit went, from its derivatives where the unit is still there.

Cost: a forward and a backward pass per batch; for the second order, as many backward passes more as there are probes.

Sources: Molchanov et al., 2019, arXiv:1906.10771 (first and second order, gates and weights); scores of parameters name
their own in `products`.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from reverie.compress.importance.batches import batches, loss_of
from reverie.compress.importance.gates import Gates
from reverie.compress.importance.image_gates import ImageGates
from reverie.compress.importance.products import Score, fisher_score
from reverie.compress.importance.scored import Scored, averaged, over_images
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
            full gradient, and takes no longer where all that is read are convolutions and linear layers.
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
    each = ImageGates(network.body, structure)
    if batch_size == 1 and each.possible:
        return _image_scores(network, source, each, images, targets, seed, on_event)
    gates = Gates(network.body, structure)

    def one(inputs: Tensor, asked: Tensor | None, index: int) -> dict[str, Tensor]:
        ones = {name: gate.requires_grad_() for name, gate in gates.ones().items()}
        loss = loss_of(gates(inputs, ones), asked, seed=seed, index=index)
        slopes = torch.autograd.grad(loss, list(ones.values()), allow_unused=True, materialize_grads=True)
        return {name: slope.square() for name, slope in zip(ones, slopes, strict=True)}

    return _gathered(network, source, one, images, batch_size, targets, on_event)


def _image_scores(
    network: ImageNetwork,
    source: Source,
    gates: ImageGates,
    images: int,
    targets: Tensor | None,
    seed: int,
    on_event: Listener,
) -> dict[str, Scored]:
    """(dL/dz)^2 image by image, in passes of many images."""
    parts: dict[str, list[Tensor]] = {name: [] for name in gates.units}
    count, done = min(images, len(source)), 0
    for inputs, asked, index in batches(network, source, images=images, batch_size=TOGETHER, targets=targets):
        ones = {name: gate.requires_grad_() for name, gate in gates.ones(len(inputs)).items()}
        loss = loss_of(gates(inputs, ones), asked, seed=seed, index=index) * len(inputs)
        slopes = torch.autograd.grad(loss, list(ones.values()), allow_unused=True, materialize_grads=True)
        for name, slope in zip(ones, slopes, strict=True):
            parts[name].append(slope.T.square())
        done += len(inputs)
        on_event(Event("ranking units", done, count))
    return {name: over_images(torch.cat(one, dim=1)) for name, one in parts.items()}


def second_order_scores(
    network: ImageNetwork,
    structure: Structure,
    source: Source,
    *,
    images: int = 128,
    batch_size: int = 32,
    probes: int = 8,
    targets: Tensor | None = None,
    seed: int = 0,
    on_event: Listener = silent,
) -> dict[str, Scored]:
    """Second order, at a gate: (-dL/dz + H_zz / 2)^2 per batch, averaged over batches.

    Args:
        network: As for `gate_scores`, and so for all that is not named here.
        structure: Of `network.body`.
        source: Images.
        images: How many are used at most.
        batch_size: Images whose mean loss is differentiated.
        probes: Random signs that the diagonal of the Hessian is estimated with, per batch, at least 1.
        targets: (n,) class per image, or None.
        seed: Decides signs and classes.
        on_event: Called with the stage "ranking units".

    Example:
        >>> from torch import nn
        >>> from reverie.core.source import noise_source
        >>> from reverie.graph import probe
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> network, structure = ImageNetwork(net, image_shape=(1, 2, 2)), probe(net, torch.zeros(1, 1, 2, 2))
        >>> source = noise_source(count=8, image_shape=(1, 2, 2), seed=0)
        >>> second_order_scores(network, structure, source, probes=2)["1"].value.shape
        torch.Size([3])

    Reference: Molchanov et al., 2019. Differs: the diagonal is estimated by Hutchinson's
    products with random signs in place of one backward pass per gate.
    """
    gates = Gates(network.body, structure)

    def one(inputs: Tensor, asked: Tensor | None, index: int) -> dict[str, Tensor]:
        ones = {name: gate.requires_grad_() for name, gate in gates.ones().items()}
        inner = list(ones.values())
        loss = loss_of(gates(inputs, ones), asked, seed=seed, index=index)
        slopes = torch.autograd.grad(loss, inner, create_graph=True, allow_unused=True, materialize_grads=True)
        diagonal = [torch.zeros_like(gate) for gate in inner]
        rng = generator(seed, "signs", index)
        for probe in range(probes):
            signs = [torch.randint(0, 2, gate.shape, generator=rng).float() * 2 - 1 for gate in inner]
            turned = torch.autograd.grad(
                slopes, inner, signs, retain_graph=probe + 1 < probes, allow_unused=True, materialize_grads=True
            )
            for total, sign, value in zip(diagonal, signs, turned, strict=True):
                total += sign * value / probes
        change = zip(ones, slopes, diagonal, strict=True)
        return {name: (-slope.detach() + curve / 2).square() for name, slope, curve in change}

    return _gathered(network, source, one, images, batch_size, targets, on_event)


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
