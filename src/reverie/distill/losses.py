"""What a student is asked for: the teacher's probabilities, and the teacher's features.

Cost: negligible beside a forward pass. Both losses compute in float32 whatever they are given, and both are plain
functions of two tensors; the second argument, the teacher's, gets no gradient from its caller.

Source: Hinton, Vinyals and Dean, 2015, arXiv:1503.02531, section 2; Romero et al., 2015, arXiv:1412.6550.
"""

import torch.nn.functional as F
from torch import Tensor

from reverie.core.errors import RangeError, ShapeError

__all__ = ["feature_loss", "soft_label_loss"]


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
        >>> import torch
        >>> round(float(soft_label_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, -1.0]]), temperature=1.0)), 4)
        0.3278

    Reference: Hinton et al., 2015, arXiv:1503.02531, section 2. Differs: no term for true labels; nobody has them.
    """
    if student_logits.shape != teacher_logits.shape or student_logits.ndim != 2:
        raise ShapeError(
            f"soft labels need logits (n, classes) of one shape, the student gave {tuple(student_logits.shape)} and "
            f"the teacher {tuple(teacher_logits.shape)}. Give the student a last layer with the teacher's classes."
        )
    if not temperature > 0:
        raise RangeError(f"the temperature divides the logits and must be above 0, got {temperature}")
    student = F.log_softmax(student_logits.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def feature_loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """|student - teacher|^2 / |teacher|^2 over the whole batch: 0 where equal, 1 where the student is silent.

    Being relative, one weight serves layers of any size and scale.

    Shapes: two tensors of one shape, any axes -> scalar.

    Raises:
        ShapeError: The shapes differ.

    Example:
        >>> import torch
        >>> feature_loss(torch.tensor([[3.0, 3.0]]), torch.tensor([[3.0, 4.0]]))
        tensor(0.0400)

    Fails when: the teacher's feature is zero everywhere; the loss is then the student's square times 1e12.

    Reference: Romero et al., 2015, arXiv:1412.6550, equation 3. Differs: relative, and no regressor, since a cut
    student's channels are a choice of the teacher's.
    """
    if student_feature.shape != teacher_feature.shape:
        raise ShapeError(
            f"features are compared element by element, the student's has shape {tuple(student_feature.shape)} and the "
            f"teacher's {tuple(teacher_feature.shape)}. Say which of the teacher's channels the student kept."
        )
    student, teacher = student_feature.float(), teacher_feature.float()
    return (student - teacher).square().sum() / teacher.square().sum().clamp_min(1e-12)
