"""What a student is asked for inside: its teacher's features, or how they relate.

Each loss is a plain function of a student's and a teacher's feature of the same images. Those that compare values need
equal shapes and refuse others; an adapter (`reverie.distill.adapters`) makes them equal. Those that compare relations
take any widths. All compute in float32, or in float64 where they are given it.

Cost: the relations of n images take n^2 numbers, angles n^3; n is a batch.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.errors import RangeError, ShapeError
from reverie.distill.losses import wide

__all__ = [
    "FeatureLoss",
    "angle_loss",
    "attention_loss",
    "contrastive_loss",
    "distance_loss",
    "feature_loss",
    "similarity_loss",
]

FeatureLoss = Callable[[Tensor, Tensor], Tensor]

# Squared lengths below this are those of equal points: they have no direction, and the square root no slope.
POINT = 1e-12


def feature_loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """|student - teacher|^2 / |teacher|^2 over the whole batch: 0 where equal, 1 where the student is silent.

    Being relative, one weight serves layers of any size and scale.

    Shapes: two tensors of one shape, any axes -> scalar.

    Raises:
        ShapeError: The shapes differ.

    Example:
        >>> feature_loss(torch.tensor([[3.0, 3.0]]), torch.tensor([[3.0, 4.0]]))
        tensor(0.0400)

    Fails when: the teacher's feature is zero everywhere; the loss is then the student's square times 1e12.

    Reference: Romero et al., 2015, arXiv:1412.6550, equation 3. Differs: relative; the regressor is an adapter.
    """
    _check_same(student_feature, teacher_feature)
    student, teacher = wide(student_feature), wide(teacher_feature)
    return (student - teacher).square().sum() / teacher.square().sum().clamp_min(1e-12)


def attention_loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Where both networks look: |q(student) - q(teacher)|^2, averaged over images.

    q is the sum over channels of the squared feature, at every position, as a vector of length 1.

    Shapes: (n, c, h, w) and (n, c', h, w) -> scalar in [0, 2]; the widths may differ.

    Raises:
        ShapeError: No maps, or other heights, widths or numbers of images.

    Example:
        >>> maps = torch.rand(2, 3, 4, 4)
        >>> float(attention_loss(maps, 2 * maps)) < 1e-6
        True

    Reference: Zagoruyko and Komodakis, 2017, arXiv:1612.03928, equation 2. Differs: the squared distance, whose slope
    vanishes at the goal, and one average over images; the paper and its code disagree on both.
    """
    if student_feature.ndim != 4 or teacher_feature.ndim != 4:
        raise ShapeError(
            f"attention is that of feature maps (n, c, h, w), got {_both(student_feature, teacher_feature)}"
        )
    if student_feature.shape[2:] != teacher_feature.shape[2:] or len(student_feature) != len(teacher_feature):
        raise ShapeError(f"attention maps need one height and width, got {_both(student_feature, teacher_feature)}")
    student, teacher = (
        F.normalize(wide(feature).square().sum(1).flatten(1), dim=1) for feature in (student_feature, teacher_feature)
    )
    return (student - teacher).square().sum(1).mean()


def distance_loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Huber loss of the distances between the images of a batch, each network's divided by their mean.

    Shapes: (n, ...) and (n, ...), n >= 2 -> scalar; the widths may differ. The mean is over pairs of two images.

    Raises:
        ShapeError: Fewer than 2 images, or other numbers of images.

    Example:
        >>> feature = torch.rand(4, 3)
        >>> float(distance_loss(feature, 5 * feature + 1)) < 1e-6
        True

    Reference: Park et al., 2019, arXiv:1904.05068, equations 5 to 7. Differs: the mean over pairs, not the sum.
    """
    _check_images(student_feature, teacher_feature, least=2)
    apart = ~torch.eye(len(student_feature), dtype=torch.bool, device=student_feature.device)
    distances = []
    for feature in (student_feature, teacher_feature):
        points = wide(feature).flatten(1)
        squares = (points[:, None] - points[None]).square().sum(2)[apart]
        lengths = torch.where(squares > POINT, squares.clamp_min(POINT).sqrt(), 0.0)
        distances.append(lengths / lengths.mean().clamp_min(POINT))
    return F.smooth_l1_loss(distances[0], distances[1])


def angle_loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Huber loss of the cosines of the angles that any three images of a batch make.

    Shapes: (n, ...) and (n, ...), n >= 3 -> scalar; the widths may differ. The mean is over triples of three images.

    Raises:
        ShapeError: Fewer than 3 images, or other numbers of images.

    Example:
        >>> feature = torch.rand(4, 3)
        >>> float(angle_loss(feature, 5 * feature + 1)) < 1e-6
        True

    Reference: Park et al., 2019, arXiv:1904.05068, equations 8 to 10. Differs: the mean over triples, not the sum.
    """
    _check_images(student_feature, teacher_feature, least=3)
    n = len(student_feature)
    apart = ~torch.eye(n, dtype=torch.bool, device=student_feature.device)
    triples = apart[:, :, None] & apart[:, None, :] & apart[None, :, :]
    cosines = []
    for feature in (student_feature, teacher_feature):
        points = wide(feature).flatten(1)
        edges = points[None] - points[:, None]
        squares = edges.square().sum(2, keepdim=True)
        edges = torch.where(squares > POINT, edges / squares.clamp_min(POINT).sqrt(), 0.0)
        cosines.append((edges @ edges.transpose(1, 2))[triples])
    return F.smooth_l1_loss(cosines[0], cosines[1])


def similarity_loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """How unlike the images of a batch are to each other: |g(student) - g(teacher)|^2 / n^2.

    g is the matrix of inner products of all pairs of images, each row as a vector of length 1.

    Shapes: (n, ...) and (n, ...) -> scalar; the widths may differ.

    Raises:
        ShapeError: Other numbers of images.

    Example:
        >>> feature = torch.rand(4, 3)
        >>> float(similarity_loss(feature, 5 * feature)) < 1e-6
        True

    Reference: Tung and Mori, 2019, arXiv:1907.09682, equation 4.
    """
    _check_images(student_feature, teacher_feature, least=1)
    grams = []
    for feature in (student_feature, teacher_feature):
        points = wide(feature).flatten(1)
        grams.append(F.normalize(points @ points.T, dim=1))
    return (grams[0] - grams[1]).square().sum() / len(student_feature) ** 2


def contrastive_loss(student_feature: Tensor, teacher_feature: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Can the teacher's feature of an image be told from those of the others by the student's? In nats.

    Mean over images of -log softmax over the batch of cos(student, teacher) / T, at the image itself.

    Shapes: two tensors (n, ...) of one shape -> scalar; log n where the student knows nothing.

    Args:
        student_feature: What is trained.
        teacher_feature: What is asked for.
        temperature: T, above 0.

    Raises:
        ShapeError: The shapes differ.
        RangeError: The temperature is not above 0.

    Example:
        >>> round(float(contrastive_loss(torch.ones(4, 3), torch.ones(4, 3))), 4)
        1.3863

    Fails when: batches are small; two images are hardly a choice.

    Reference: Tian et al., 2020, arXiv:1910.10699. Differs: the other images are those of the batch, by the bound of
    van den Oord et al., 2018, arXiv:1807.03748, and no memory of earlier batches is kept.
    """
    _check_same(student_feature, teacher_feature)
    if not temperature > 0:
        raise RangeError(f"the temperature divides the cosines and must be above 0, got {temperature}")
    student, teacher = (F.normalize(wide(feature).flatten(1), dim=1) for feature in (student_feature, teacher_feature))
    cosines = student @ teacher.T / temperature
    return F.cross_entropy(cosines, torch.arange(len(cosines), device=cosines.device))


def _check_same(student_feature: Tensor, teacher_feature: Tensor) -> None:
    if student_feature.shape != teacher_feature.shape:
        raise ShapeError(
            f"features are compared element by element, the student's has shape {tuple(student_feature.shape)} and the "
            f"teacher's {tuple(teacher_feature.shape)}. Say which of the teacher's channels the student kept."
        )


def _check_images(student_feature: Tensor, teacher_feature: Tensor, *, least: int) -> None:
    if len(student_feature) != len(teacher_feature) or len(student_feature) < least:
        raise ShapeError(
            f"relations need the same {least} or more images in both features, got "
            f"{_both(student_feature, teacher_feature)}. Take larger batches."
        )


def _both(student_feature: Tensor, teacher_feature: Tensor) -> str:
    return f"{tuple(student_feature.shape)} of the student and {tuple(teacher_feature.shape)} of the teacher"
