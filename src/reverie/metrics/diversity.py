"""How different the images of one class are from each other, beside the same figure of real images.

What for: images that all convince and all look alike teach nothing new. Cost: one forward pass, n^2 distances.
Source: the feature distance is that of Zhang et al. 2018, arXiv:1801.03924, equation 1, without learned weights.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.errors import RangeError, ReferenceNotFound
from reverie.core.source import Source
from reverie.metrics.feature_space import layer_features

__all__ = ["coverage", "relative_diversity", "within_class_diversity"]


def within_class_diversity(network: nn.Module, source: Source, layers: Sequence[str]) -> float:
    """Mean distance between two images of one class, in the features of a network's layers.

    The distance of two images at one layer is the mean over positions of |u - v|^2, u and v the channel vectors there,
    each of length 1; it is summed over layers and averaged over all pairs of one class, every class alike.

    Args:
        network: A network that had no part in making the images.
        source: Images with labels; classes of one image do not count.
        layers: Whose inputs are read, each (n, c, ...).

    Raises:
        ReferenceNotFound: No labels, no such layer, or no class with two images.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())
        >>> alike = Source("one image twice", torch.full((2, 3, 8, 8), 100, dtype=torch.uint8), torch.tensor([0, 0]))
        >>> abs(within_class_diversity(net, alike, ["1"])) < 1e-9
        True
    """
    if source.labels is None:
        raise ReferenceNotFound(f"diversity within classes needs labels, source {source.name!r} has none")
    read = layer_features(network, source, layers)
    unit = {name: F.normalize(values.reshape(*values.shape[:2], -1), dim=1) for name, values in read.items()}
    means = []
    for label in source.labels.unique().tolist():
        places = (source.labels == label).nonzero()[:, 0]
        if len(places) > 1:
            means.append(sum(_mean_distance(values[places]) for values in unit.values()))
    if not means:
        raise ReferenceNotFound(f"no class of source {source.name!r} has two images whose distance could be taken")
    return sum(means) / len(means)


def relative_diversity(network: nn.Module, source: Source, real: Source, layers: Sequence[str]) -> float:
    """Within-class diversity of a source over that of real images: 1 where they vary as much.

    Args:
        network: A network that had no part in making the images.
        source: Images with labels.
        real: Real images with labels of the same classes.
        layers: Whose inputs are read.

    Raises:
        ReferenceNotFound: As `within_class_diversity`.
        RangeError: The real images of a class are all the same.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())
        >>> images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
        >>> real = Source("real", images, torch.tensor([0, 0, 0, 1, 1, 1]))
        >>> relative_diversity(net, real, real, ["1"])
        1.0
    """
    yardstick = within_class_diversity(network, real, layers)
    if not yardstick > 0:
        raise RangeError(f"the images of source {real.name!r} do not differ within a class; they are no yardstick")
    return within_class_diversity(network, source, layers) / yardstick


def coverage(features: Tensor, real_features: Tensor, *, neighbors: int = 5) -> float:
    """Share of real images whose surroundings hold a made one: within the distance of its k-th real neighbor.

    Shapes: features (n, d), real_features (m, d), m > neighbors -> share in [0, 1].

    Raises:
        RangeError: Not more real images than `neighbors`, or `neighbors` below 1.

    Example:
        >>> real = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
        >>> coverage(torch.tensor([[0.5], [0.6]]), real, neighbors=1)
        0.5

    Reference: Naeem et al., 2020, arXiv:2002.09797, equation 8.
    """
    if not 1 <= neighbors < len(real_features):
        raise RangeError(f"coverage with {neighbors} neighbors needs more real images, got {len(real_features)}")
    real = real_features.double()
    among = torch.cdist(real, real)
    # The nearest is the image itself.
    radius = among.kthvalue(neighbors + 1, dim=1).values
    return float((torch.cdist(real, features.double()).amin(1) <= radius).double().mean())


def _mean_distance(unit: Tensor) -> float:
    """(n, c, positions) of unit channel vectors -> mean over pairs of the mean over positions of |u - v|^2."""
    count, _, positions = unit.shape
    # |u - v|^2 = 2 - 2 u . v, or less where a vector is zero; the sum over pairs needs one sum of vectors only.
    squares = unit.double().square().sum()
    together = unit.double().sum(0).square().sum()
    pairs = count * (count - 1)
    return float((2 * count * squares - 2 * together) / (pairs * positions))
