"""Shares of images, and the difference of two shares on the same images, each with its 95 % interval.

Cost: counting. Sources: Wilson 1927 for one share; Newcombe 1998, Statistics in Medicine 17:2635, method 10, for the
interval of a paired difference; McNemar 1947 with the mid-p of Lancaster 1961 for its p-value.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from reverie.core.errors import RangeError, ShapeError

__all__ = ["PairedDifference", "Share", "accuracy", "agreement", "paired_difference", "share"]

# The 97.5 % point of the standard normal distribution: two-sided 95 %.
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Share:
    """How many of `count` images, as a share, with its Wilson 95 % interval.

    Attributes:
        value: The share seen, in [0, 1].
        count: Images counted, at least 1.
        low: Lower end of the interval, in [0, value].
        high: Upper end of the interval, in [value, 1].

    Example:
        >>> import torch
        >>> found = accuracy(torch.eye(4), torch.tensor([0, 1, 2, 0]))
        >>> found.value, found.count, round(found.low, 2), round(found.high, 2)
        (0.75, 4, 0.3, 0.95)
    """

    value: float
    count: int
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """How much more often a is right than b on the same images.

    Attributes:
        difference: Share right of a minus share right of b, in [-1, 1]; positive where a is better.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        p_value: Probability, under equal networks, of disagreements at least as lopsided, in [0, 1]; 0 stands for less
            than a float can hold.

    Example:
        >>> import torch
        >>> right = torch.tensor([True] * 9 + [False])
        >>> found = paired_difference(right, torch.zeros(10, dtype=torch.bool))
        >>> round(found.difference, 3), found.low > 0, round(found.p_value, 4)
        (0.9, True, 0.002)
    """

    difference: float
    low: float
    high: float
    p_value: float


def share(hits: int, count: int) -> Share:
    """The share `hits / count` with its Wilson score interval at 95 %.

    Args:
        hits: How many, in [0, count].
        count: Of how many, at least 1.

    Raises:
        RangeError: No images, or more hits than images.

    Example:
        >>> share(9, 10)
        Share(value=0.9, count=10, low=0.5958499732047615, high=0.9821237869049271)

    Reference: Wilson, 1927, Journal of the American Statistical Association 22:209.
    """
    if count < 1 or not 0 <= hits <= count:
        raise RangeError(f"a share needs 0 <= hits <= count and count >= 1, got {hits} of {count}")
    low, high = _wilson(hits, count)
    return Share(hits / count, count, low, high)


def accuracy(logits: Tensor, labels: Tensor) -> Share:
    """Share of images whose highest logit is their label.

    Shapes: logits (n, classes), labels (n,) int64.

    Raises:
        ShapeError: Other shapes.
        RangeError: A label outside [0, classes), a logit that is not a number, or no images.

    Example:
        >>> import torch
        >>> accuracy(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), torch.tensor([1, 1])).value
        0.5
    """
    check_logits(logits)
    if labels.shape != logits.shape[:1]:
        raise ShapeError(f"{len(logits)} rows of logits need as many labels, got labels of shape {tuple(labels.shape)}")
    check_labels(labels, logits.shape[1])
    return share(int((logits.argmax(1) == labels.to(logits.device)).sum()), len(logits))


def agreement(a_logits: Tensor, b_logits: Tensor) -> Share:
    """Share of images that two networks put into the same class.

    Shapes: both (n, classes).

    Raises:
        ShapeError: Other or unequal shapes.
        RangeError: A logit that is not a number, or no images.

    Example:
        >>> import torch
        >>> agreement(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), torch.tensor([[0.0, 3.0], [0.0, 1.0]])).value
        0.5
    """
    check_logits(a_logits)
    check_logits(b_logits)
    if a_logits.shape != b_logits.shape:
        raise ShapeError(
            f"agreement compares logits of one shape, got {tuple(a_logits.shape)} and {tuple(b_logits.shape)}. "
            "Run both networks on the same images; they must name the same classes."
        )
    return share(int((a_logits.argmax(1) == b_logits.to(a_logits.device).argmax(1)).sum()), len(a_logits))


def paired_difference(right_a: Tensor, right_b: Tensor) -> PairedDifference:
    """Is a really better than b? Share right of a minus that of b, its interval, and McNemar's mid-p value.

    Only images that one gets right and the other wrong carry evidence. p = 2 P(X <= k) - P(X = k), X binomial with
    those images at 1/2, k the smaller of the two counts.

    Shapes: both (n,) bool: which images each network got right, in the same order.

    Raises:
        ShapeError: Unequal or other shapes.
        RangeError: No images.

    Example:
        >>> import torch
        >>> right = torch.tensor([True, True, True, False])
        >>> found = paired_difference(right, right)
        >>> found.difference, round(found.low, 3), round(found.high, 3), found.p_value
        (0.0, -0.427, 0.427, 1.0)

    Reference: Newcombe, 1998, Statistics in Medicine 17:2635, method 10; Fagerland et al., 2013,
    BMC Medical Research Methodology 13:91, for the mid-p.
    """
    if right_a.ndim != 1 or right_a.shape != right_b.shape:
        raise ShapeError(
            f"a paired difference takes one flag per image and network, got {tuple(right_a.shape)} "
            f"and {tuple(right_b.shape)}"
        )
    if len(right_a) == 0:
        raise RangeError("a paired difference needs at least one image, got none")
    a, b = right_a.bool(), right_b.bool().to(right_a.device)
    only_a, only_b, both = int((a & ~b).sum()), int((b & ~a).sum()), int((a & b).sum())
    low, high = _newcombe(both, only_a, only_b, len(a))
    return PairedDifference((only_a - only_b) / len(a), low, high, _mid_p(only_a, only_b))


def check_logits(logits: Tensor) -> None:
    """Refuse what no class can be read from.

    Raises:
        ShapeError: Not (n, classes) with at least one class.
        RangeError: A logit is not a number.
    """
    if logits.ndim != 2 or logits.shape[1] < 1:
        raise ShapeError(f"logits have shape (n, classes), got {tuple(logits.shape)}. Is this network a classifier?")
    if bool(logits.isnan().any()):
        raise RangeError(
            f"{int(logits.isnan().any(1).sum())} of {len(logits)} rows of logits hold NaN. Check the network's weights."
        )


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuse labels that no logit stands for.

    Raises:
        RangeError: A label is negative or at least `classes`.
    """
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise RangeError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, the network has {classes} classes, "
            f"0 to {classes - 1}. Use labels of the classes that the network was trained on."
        )


def _wilson(hits: int, count: int) -> tuple[float, float]:
    value, z2 = hits / count, Z95 * Z95
    center = (value + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 / (1 + z2 / count) * math.sqrt(value * (1 - value) / count + z2 / (4 * count * count))
    # Rounding must not push an end past the value it surrounds: at 0 and at all of them the end is exact.
    return max(0.0, min(value, center - half)), min(1.0, max(value, center + half))


def _newcombe(both: int, only_a: int, only_b: int, count: int) -> tuple[float, float]:
    neither = count - both - only_a - only_b
    a, b = (both + only_a) / count, (both + only_b) / count
    (low_a, high_a), (low_b, high_b) = _wilson(both + only_a, count), _wilson(both + only_b, count)
    spread = math.sqrt(float(both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither))
    covariance = float(both * neither - only_a * only_b)
    # Newcombe's continuity correction of the correlation, applied on the positive side only.
    corrected = max(covariance - count / 2, 0.0) if covariance > 0 else covariance
    phi = corrected / spread if spread else 0.0
    down, up = (a - low_a, high_b - b), (high_a - a, b - low_b)
    below, above = (math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y)) for x, y in (down, up))
    return max(-1.0, a - b - below), min(1.0, a - b + above)


def _mid_p(only_a: int, only_b: int) -> float:
    total, fewer = only_a + only_b, min(only_a, only_b)
    if total == 0:
        return 1.0

    def chance(k: int) -> float:
        choose = math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1)
        return math.exp(choose - total * math.log(2))

    return min(1.0, 2 * math.fsum(chance(k) for k in range(fewer + 1)) - chance(fewer))
