"""The terms of DeepInversion as they were published: raw sums of norms, whose weights hold for one network and batch.

What for: to compare with, and to repeat published settings. They grow with the batch, the depth and the resolution, so
the default recipe uses relative losses instead; see `reverie.dream.terms`. Images are measured as the network's body
sees them, after normalization, as in the publication.

Cost: as the default terms. Source: Yin et al. 2020, arXiv:1912.08795, section 3.2 and supplementary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reverie.core.errors import RangeError, StatisticsMissing
from reverie.core.network import as_network
from reverie.dream.terms import Part, Term, View, class_term

__all__ = ["CIFAR", "IMAGENET", "PublishedWeights", "published_term"]


@dataclass(frozen=True)
class PublishedWeights:
    """What the parts are multiplied by.

    Attributes:
        statistics: Of the sum over layers.
        first_weight: Of the first layer within that sum.
        variation: Of the sum of four norms over the whole batch.
        norm: Of the mean norm of an image.

    Example:
        >>> PublishedWeights(statistics=10.0, first_weight=1.0, variation=2.5e-5, norm=3e-8) == CIFAR
        True
    """

    statistics: float
    first_weight: float
    variation: float
    norm: float


CIFAR = PublishedWeights(statistics=10.0, first_weight=1.0, variation=2.5e-5, norm=3e-8)
IMAGENET = PublishedWeights(statistics=0.01, first_weight=10.0, variation=1e-4, norm=1e-5)


@dataclass(frozen=True)
class RawStatistics:
    """Sum over layers of |v - V| + |m - M|, Euclidean norms over channels; the first layer times `first_weight`."""

    first_weight: float

    def __call__(self, view: View) -> Tensor:
        """Sum over layers."""
        if not view.moments:
            raise StatisticsMissing(
                "the published term asks for statistics, and none were collected. Pass statistics= to dream."
            )
        layers = [
            (one.variance - one.stored_variance).norm() + (one.mean - one.stored_mean).norm() for one in view.moments
        ]
        return self.first_weight * layers[0] + torch.stack([layers[0] * 0, *layers[1:]]).sum()


@dataclass(frozen=True)
class RawVariation:
    """Sum of the norms, over the whole batch, of differences to the neighbor right, below, and on both diagonals.

    Attributes:
        std: By which each channel is divided.
    """

    std: tuple[float, ...]

    def __call__(self, view: View) -> Tensor:
        """Sum of four norms."""
        x = view.images / _per_channel(self.std, view.images)
        pairs = (
            (x[..., :, 1:], x[..., :, :-1]),
            (x[..., 1:, :], x[..., :-1, :]),
            (x[..., 1:, 1:], x[..., :-1, :-1]),
            (x[..., 1:, :-1], x[..., :-1, 1:]),
        )
        return torch.stack([(a - b).norm() for a, b in pairs]).sum()


@dataclass(frozen=True)
class RawNorm:
    """Mean over images of the norm of an image.

    Attributes:
        mean: Taken off each channel.
        std: By which it is then divided.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, view: View) -> Tensor:
        """Mean over images."""
        x = (view.images - _per_channel(self.mean, view.images)) / _per_channel(self.std, view.images)
        return x.flatten(1).norm(dim=1).mean()


def published_term(network: nn.Module, *, weights: PublishedWeights) -> Term:
    """Cross entropy + statistics + variation + norm, as published; use it with `ShiftAndFlip` and a `PixelCanvas`.

    Args:
        network: Its normalization is taken over; a plain module has none.
        weights: `CIFAR`, `IMAGENET`, or your own.

    Raises:
        RangeError: A weight is negative.

    Example:
        >>> [(part.name, part.weight) for part in published_term(nn.Identity(), weights=CIFAR).parts]
        [('class', 1.0), ('statistics', 10.0), ('total variation', 2.5e-05), ('norm', 3e-08)]

    Fails when: the batch, the network or the resolution is another than the weights were chosen for.
    Reference: Yin et al., 2020, arXiv:1912.08795, section 3.2. Differs: the norm is a mean over images in all settings.
    """
    if min(weights.statistics, weights.first_weight, weights.variation, weights.norm) < 0:
        raise RangeError(f"weights must be at least 0, got {weights}")
    wrapped = as_network(network, (1,))
    mean, std = (tuple(float(value) for value in one.flatten()) for one in (wrapped.mean, wrapped.std))
    parts = (
        Part("statistics", weights.statistics, RawStatistics(weights.first_weight)),
        Part("total variation", weights.variation, RawVariation(std)),
        Part("norm", weights.norm, RawNorm(mean, std)),
    )
    return class_term() + Term(tuple(part for part in parts if part.weight))


def _per_channel(values: tuple[float, ...], images: Tensor) -> Tensor:
    return images.new_tensor(values).view(-1, *[1] * (images.ndim - 2))
