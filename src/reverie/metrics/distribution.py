"""How far two sets of images lie apart, and how many kinds of images one holds, in the features of any network.

Features come from `reverie.metrics.features`; use a network that had no part in making the images. Values depend on
the network and, for the Fréchet distance, on the count: compare only figures that share both, and print the distance
between two halves of the real images beside them, which is the floor.

Cost: n^2 inner products, or one eigenvalue problem of the feature dimension.
Sources: Bińkowski et al. 2018, arXiv:1801.01401 (kernel distance); Heusel et al. 2017, arXiv:1706.08500 (Fréchet);
Salimans et al. 2016, arXiv:1606.03498 (score).
"""

import torch
from torch import Tensor

from reverie.core.errors import RangeError, ShapeError
from reverie.metrics.classify import check_logits

__all__ = ["frechet_distance", "inception_score", "kernel_distance"]


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel k(x, y) = (x . y / d + 1)^3.

    mean over i != j of k(a_i, a_j) + mean over i != j of k(b_i, b_j) - 2 mean of k(a_i, b_j). Unbiased: 0 in
    expectation for two samples of one distribution, at any count; it may fall below 0.

    Shapes: a (n, d), b (m, d), n and m at least 2 -> scalar. Computed in float64.

    Raises:
        ShapeError: Other shapes, or features of different lengths.
        RangeError: Fewer than two rows, or values that are not finite.

    Example:
        >>> kernel_distance(torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [1.0]]))
        7.0

    Reference: Bińkowski et al., 2018, arXiv:1801.01401, section 4. Differs: one estimate on all rows, no subsets.
    """
    a, b = _checked(a, b)
    across = _kernel(a, b).mean()
    return float(_mean_of_pairs(_kernel(a, a)) + _mean_of_pairs(_kernel(b, b)) - 2 * across)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance of the normal distributions with the moments of two samples.

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), with unbiased covariances. With S_a = A^T A and S_b = B^T B the
    trace of the root is the sum of the singular values of A B^T, so no matrix root is taken.

    Shapes: a (n, d), b (m, d), n and m at least 2 -> scalar, >= 0. Computed in float64.

    Raises:
        ShapeError: Other shapes, or features of different lengths.
        RangeError: Fewer than two rows, or values that are not finite.

    Example:
        >>> round(frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0]])), 6)
        1.0

    Fails when: there are fewer rows than some multiple of the feature length: the distance is then biased upward, by
        more the fewer there are. With fewer than 10,000 say so.
    Reference: Heusel et al., 2017, arXiv:1706.08500, section 2; Dowson and Landau, 1982.
    """
    a, b = _checked(a, b)
    centered = [(x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (a, b)]
    traces = sum(float(x.square().sum()) for x in centered)
    # A = Q R with orthogonal Q leaves singular values alone, and R is no larger than the feature length.
    left, right = (torch.linalg.qr(x, mode="r").R if len(x) > x.shape[1] else x for x in centered)
    root = torch.linalg.matrix_norm(left @ right.T, ord="nuc")
    return max(0.0, float((a.mean(0) - b.mean(0)).square().sum() + traces - 2 * root))


def inception_score(logits: Tensor) -> float:
    """Exp of the mean divergence of a network's answer to each image from its average answer: from 1 to classes.

    exp(mean_i KL(p_i || mean_j p_j)). High where each image is named surely and all classes are named alike often.

    Shapes: logits (n, k) -> scalar in [1, k]. Any network's answer; the name is that of the published one.

    Raises:
        ShapeError: Not (n, k).
        RangeError: A logit is not a number.

    Example:
        >>> round(inception_score(100 * torch.eye(4)), 3)
        4.0

    Fails when: the judge is the network that dreamed the images: it is sure of them by construction.
    Reference: Salimans et al., 2016, arXiv:1606.03498, section 4. Differs: one split.
    """
    check_logits(logits)
    log_p = logits.double().log_softmax(1)
    average = log_p.exp().mean(0)
    divergence = (log_p.exp() * (log_p - average.clamp_min(1e-300).log())).sum(1).mean()
    return float(divergence.exp())


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _mean_of_pairs(kernel: Tensor) -> Tensor:
    count = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (count * (count - 1))


def _checked(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ShapeError(
            f"a distance compares features (n, d) and (m, d), got {tuple(a.shape)} and {tuple(b.shape)}. "
            "Take both from one network with reverie.metrics.features."
        )
    if min(len(a), len(b)) < 2:
        raise RangeError(f"a distance of two samples needs at least 2 rows of each, got {len(a)} and {len(b)}")
    if not bool(torch.isfinite(a).all() & torch.isfinite(b).all()):
        raise RangeError("features hold values that are not finite. Check the network and its images.")
    return a.double(), b.double()
