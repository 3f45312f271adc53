"""What a student is asked for: its teacher's probabilities.

Every loss is a plain function of the student's and the teacher's logits, so any of them may stand in a training loop of
one's own. All are means over images and sums over classes, need no labels, and compute in float32, or in float64 where
they are given it. The teacher's tensor gets no gradient from its caller.

Cost: negligible beside a forward pass.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.errors import RangeError, ShapeError

__all__ = ["LogitLoss", "correlation_loss", "decoupled_loss", "soft_label_loss", "standardized_loss"]

LogitLoss = Callable[[Tensor, Tensor], Tensor]

# Logits of one image whose deviation is below this are all alike: they name no class.
FLAT = 1e-7


def soft_label_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), summed over classes, averaged over images.

    The factor T^2 keeps the gradient's size steady when T changes. At T = 1 the unit is nats.

    Shapes: both (n, classes) -> scalar.

    Args:
        student_logits: What is trained.
        teacher_logits: What is asked for.
        temperature: T, above 0. High values weigh the teacher's ranking of the wrong classes.

    Raises:
        ShapeError: The shapes differ.
        RangeError: The temperature is not above 0.

    Example:
        >>> round(float(soft_label_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, -1.0]]), temperature=1.0)), 4)
        0.3278

    Reference: Hinton et al., 2015, arXiv:1503.02531, section 2. Differs: no term for true labels; nobody has them.
    """
    _check_logits(student_logits, teacher_logits)
    _check_temperature(temperature)
    student = F.log_softmax(wide(student_logits) / temperature, dim=1)
    teacher = F.log_softmax(wide(teacher_logits) / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def standardized_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 2.0) -> Tensor:
    """The soft-label loss of standardized logits: each image's logits have mean 0 and deviation 1 first.

    T^2 KL(softmax(z(teacher) / T) || softmax(z(student) / T)), z(x) = (x - mean(x)) / deviation(x) over classes.
    The student has to rank the classes and space them as the teacher does; how far it spreads them is its own affair.

    Shapes: both (n, classes) -> scalar.

    Args:
        student_logits: What is trained.
        teacher_logits: What is asked for.
        temperature: T, above 0.

    Raises:
        ShapeError: The shapes differ, or there is one class.
        RangeError: The temperature is not above 0.

    Example:
        >>> logits = torch.tensor([[3.0, 1.0, -1.0]])
        >>> abs(float(standardized_loss(logits, 5 * logits + 2))) < 1e-6
        True

    Fails when: the student's calibration matters; its confidence is not taught.

    Reference: Sun et al., 2024, arXiv:2403.01549, equation 9. Differs: T^2 in place of a free weight.
    """
    _check_logits(student_logits, teacher_logits)
    if student_logits.shape[1] < 2:
        raise ShapeError("standardized logits need at least 2 classes: the deviation of one number is 0")
    student, teacher = (_standardized(wide(logits)) for logits in (student_logits, teacher_logits))
    return soft_label_loss(student, teacher, temperature=temperature)


def correlation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    within_image: float = 1.0,
    within_class: float = 1.0,
) -> Tensor:
    """How far the student's probabilities are from correlating with the teacher's, by image and by class.

    T^2 (a (1 - mean over images of r(rows)) + b (1 - mean over classes of r(columns))), r the Pearson correlation of
    softmax(logits / T). It asks for relations and not for equal values, which suits students much weaker than their
    teacher.

    Shapes: both (n, classes) -> scalar in [0, 2 T^2 (a + b)].

    Args:
        student_logits: What is trained.
        teacher_logits: What is asked for.
        temperature: T, above 0.
        within_image: a, at least 0: the classes of one image.
        within_class: b, at least 0: the images of one class, over the batch.

    Raises:
        ShapeError: The shapes differ.
        RangeError: The temperature is not above 0, or a weight is negative.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> abs(float(correlation_loss(logits, logits))) < 1e-6
        True

    Fails when: the batch holds one image, whose columns have no correlation; `within_class` then adds a constant.

    Reference: Huang et al., 2022, arXiv:2205.10536, equation 9 ("DIST").
    """
    _check_logits(student_logits, teacher_logits)
    _check_temperature(temperature)
    if min(within_image, within_class) < 0:
        raise RangeError(f"weights are at least 0, got within_image {within_image} and within_class {within_class}")
    student, teacher = ((wide(logits) / temperature).softmax(1) for logits in (student_logits, teacher_logits))
    rows = 1 - _correlation(student, teacher).mean()
    columns = 1 - _correlation(student.T, teacher.T).mean()
    return temperature**2 * (within_image * rows + within_class * columns)


def decoupled_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 4.0,
    target: float = 1.0,
    others: float = 8.0,
    labels: Tensor | None = None,
) -> Tensor:
    """The soft-label loss in two parts with weights of their own: the first class against the rest, and the rest.

    T^2 (a KL of (p, 1 - p) + b KL of the other classes' probabilities among themselves), p the probability of the
    image's class. With a = 1 and b = 1 - p of the teacher it is the soft-label loss; a fixed b keeps what a confident
    teacher knows of the other classes from fading.

    Shapes: both (n, classes); labels (n,) int64 -> scalar.

    Args:
        student_logits: What is trained.
        teacher_logits: What is asked for.
        temperature: T, above 0.
        target: a, at least 0.
        others: b, at least 0.
        labels: The image's class; None takes the teacher's first one.

    Raises:
        ShapeError: The shapes differ, or there are fewer than 2 classes.
        RangeError: The temperature is not above 0, or a weight is negative.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, 1.0]])
        >>> float(decoupled_loss(logits, logits))
        0.0

    Reference: Zhao et al., 2022, arXiv:2203.08679, equation 7. Differs: without labels, the teacher's class.
    """
    _check_logits(student_logits, teacher_logits)
    _check_temperature(temperature)
    if student_logits.shape[1] < 2:
        raise ShapeError("the decoupled loss sets one class against the others, and there is only one")
    if min(target, others) < 0:
        raise RangeError(f"weights are at least 0, got target {target} and others {others}")
    chosen = teacher_logits.argmax(1) if labels is None else labels
    if chosen.shape != student_logits.shape[:1]:
        raise ShapeError(f"{len(student_logits)} rows of logits need as many labels, got {tuple(chosen.shape)}")
    student, teacher = (_split(wide(logits) / temperature, chosen) for logits in (student_logits, teacher_logits))
    binary, rest = (
        F.kl_div(mine, theirs, reduction="batchmean", log_target=True)
        for mine, theirs in zip(student, teacher, strict=True)
    )
    return temperature**2 * (target * binary + others * rest)


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 at least: sums over many values need it."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _split(logits: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Log probabilities (n, 2) of the chosen class and of all others, and (n, classes - 1) of the others alone."""
    n, classes = logits.shape
    is_chosen = F.one_hot(chosen, classes).bool()
    rest = logits[~is_chosen].view(n, classes - 1)
    pair = torch.stack([logits[is_chosen], rest.logsumexp(1)], dim=1)
    return F.log_softmax(pair, dim=1), F.log_softmax(rest, dim=1)


def _standardized(logits: Tensor) -> Tensor:
    deviation, mean = torch.std_mean(logits, dim=1, keepdim=True, correction=0)
    return (logits - mean) / (deviation + FLAT)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of each pair of rows; 0 where one of them is constant."""
    return F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True), dim=1)


def _check_logits(student_logits: Tensor, teacher_logits: Tensor) -> None:
    if student_logits.shape != teacher_logits.shape or student_logits.ndim != 2:
        raise ShapeError(
            f"soft labels need logits (n, classes) of one shape, the student gave {tuple(student_logits.shape)} and "
            f"the teacher {tuple(teacher_logits.shape)}. Give the student a last layer with the teacher's classes."
        )


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise RangeError(f"the temperature divides the logits and must be above 0, got {temperature}")
