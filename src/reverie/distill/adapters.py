"""Make a student's feature comparable with its teacher's: a learned map of channels, and a common height and width.

An adapter is trained with the student and thrown away afterwards. It is put in only where a loss refuses the two
features as they are.

Cost: one 1x1 convolution of the student's feature.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.errors import ShapeError

__all__ = ["Adapter"]


class Adapter(nn.Module):
    """Maps a student's feature to as many channels as the teacher's has, and pools the larger map to the smaller.

    Shapes: (n, c, h, w) and (n, c', h', w') -> both (n, c', min(h, h'), min(w, w')); (n, ..., c) and (n, ..., c') ->
    both (n, ..., c').

    Args:
        student: The student's feature of a few images.
        teacher: The teacher's feature of the same. From the sizes of both a fixed scale is read, so that one learning
            rate suits features of any size.
        rng: Where the first weights come from, Gaussian.

    Raises:
        ShapeError: The features differ in more than channels, height and width.

    Example:
        >>> student, teacher = torch.ones(2, 8, 4, 4), torch.ones(2, 16, 2, 2)
        >>> mine, theirs = Adapter(student, teacher, rng=torch.Generator())(student, teacher)
        >>> mine.shape == theirs.shape
        True

    Reference: Romero et al., 2015, arXiv:1412.6550, section 2.2, the regressor. Differs: 1x1, without a norm.
    """

    scale: Tensor

    def __init__(self, student: Tensor, teacher: Tensor, *, rng: torch.Generator) -> None:
        super().__init__()
        student_shape, teacher_shape = tuple(student.shape), tuple(teacher.shape)
        maps = len(student_shape) == len(teacher_shape) == 4
        alike = len(student_shape) == len(teacher_shape) and student_shape[1:-1] == teacher_shape[1:-1]
        if not maps and not alike:
            raise ShapeError(
                f"no adapter leads from a feature (n, {', '.join(map(str, student_shape[1:]))}) of the student to "
                f"(n, {', '.join(map(str, teacher_shape[1:]))}) of the teacher. Match layers that return the same kind."
            )
        axis = 1 if maps else -1
        channels, wanted = student_shape[axis], teacher_shape[axis]
        self.maps = maps
        self.weight = nn.Parameter(torch.randn(wanted, channels, generator=rng) / channels**0.5)
        size = student.float().square().mean().sqrt().clamp_min(1e-6)
        self.register_buffer("scale", teacher.float().square().mean().sqrt() / size)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Both features, in one shape."""
        weight = (self.scale * self.weight).to(student.dtype)
        if not self.maps:
            return F.linear(student, weight), teacher
        size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
        if student.shape[2:] != size:
            student = F.adaptive_avg_pool2d(student, size)
        if teacher.shape[2:] != size:
            teacher = F.adaptive_avg_pool2d(teacher, size)
        return F.conv2d(student, weight[:, :, None, None]), teacher
