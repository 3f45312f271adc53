"""The images that evidence is gathered on, in batches, with the classes that the loss asks for."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.counts import check_counts
from reverie.core.errors import ShapeError
from reverie.core.network import ImageNetwork
from reverie.core.rng import generator
from reverie.core.source import Source

__all__ = ["asked_classes", "batches", "loss_of"]


def batches(
    network: ImageNetwork, source: Source, *, images: int, batch_size: int, targets: Tensor | None
) -> Iterator[tuple[Tensor, Tensor | None, int]]:
    """Normalized inputs, their classes where given, and the index of the batch; the last one may be short.

    Args:
        network: Whose preprocessing is used.
        source: Images.
        images: How many are used at most.
        batch_size: Images at once.
        targets: (n,) class per image of the source, or None.

    Raises:
        RangeError: A number is below 1.
        ShapeError: There is not one target per image.
    """
    check_counts(images=images, batch_size=batch_size)
    if targets is not None and targets.shape != (len(source),):
        raise ShapeError(f"source {source.name!r} has {len(source)} images and {tuple(targets.shape)} targets")
    count = min(images, len(source))
    for index, start in enumerate(range(0, count, batch_size)):
        pick = slice(start, min(start + batch_size, count))
        pixels = source.floats(pick).to(network.mean.device)
        yield (pixels - network.mean) / network.std, None if targets is None else targets[pick], index


def loss_of(logits: Tensor, targets: Tensor | None, *, seed: int, index: int) -> Tensor:
    """Mean cross-entropy of a batch."""
    return F.cross_entropy(logits, asked_classes(logits, targets, seed=seed, index=index))


def asked_classes(logits: Tensor, targets: Tensor | None, *, seed: int, index: int) -> Tensor:
    """The class of each image that a loss asks for: (n,).

    Without targets, classes are drawn from the network's own answers. The expected square of the derivative is then
    that of the Kullback-Leibler divergence to second order: what a change does to the answers, whatever is right.
    """
    if targets is not None:
        return targets
    return torch.multinomial(logits.detach().softmax(1), 1, generator=generator(seed, "answers", index))[:, 0]
