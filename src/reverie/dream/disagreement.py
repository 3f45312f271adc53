"""Dream what a student gets wrong: terms that are small where teacher and student disagree.

What for: images dreamed from a teacher alone repeat what is typical; a student soon knows them. Images on which the
student still differs teach it more. Two measures: the Jensen-Shannon divergence, bounded and symmetric; and a
divergence that counts only where both still name the same class, unbounded, so that it pulls where the first is flat.

Cost: one forward and backward pass of the student per step.
Source: Yin et al. 2020, arXiv:1912.08795, section 3.3, equation 9; decision mask, Fang et al. 2021, arXiv:2105.08584,
section 3.3. Differs: computed from log-softmax, so it is the divergence of the definition, with a gradient everywhere.
"""

import copy
import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.digest import sha256_network
from reverie.core.errors import RangeError, ShapeError
from reverie.dream.terms import Part, Term, View

__all__ = [
    "Disagreement",
    "MaskedDisagreement",
    "disagreement_term",
    "jensen_shannon",
    "masked_disagreement_term",
]


def jensen_shannon(a_logits: Tensor, b_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """The Jensen-Shannon divergence of two answers, in nats, from 0 (equal) to ln 2 (nothing in common).

    With p and q the softmax of the logits over T and m = (p + q) / 2: (KL(p || m) + KL(q || m)) / 2.

    Shapes: both (n, k) -> (n,).

    Args:
        a_logits: One answer.
        b_logits: The other; the order does not matter.
        temperature: T > 0.

    Raises:
        ShapeError: The shapes differ.
        RangeError: The temperature is not positive.

    Example:
        >>> certain, other = torch.tensor([[90.0, 0.0]]), torch.tensor([[0.0, 90.0]])
        >>> bool(torch.isclose(jensen_shannon(certain, other), torch.tensor(2.0).log()))
        True

    Reference: Lin, 1991, "Divergence measures based on the Shannon entropy", equation 3.1 with equal weights.
    """
    if a_logits.shape != b_logits.shape or a_logits.ndim != 2:
        raise ShapeError(
            f"two answers to the same images have one shape (n, k), got {tuple(a_logits.shape)} and "
            f"{tuple(b_logits.shape)}. Teacher and student must know the same classes."
        )
    if not temperature > 0:
        raise RangeError(f"the temperature divides the logits and must be above 0, got {temperature}")
    log_p, log_q = (F.log_softmax(logits.float() / temperature, dim=1) for logits in (a_logits, b_logits))
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(1)


@dataclass(frozen=True)
class _Against:
    """A term that looks at a student beside the network that dreams.

    Attributes:
        student: A frozen copy; its place in reports is taken by `student_sha256`.
        student_sha256: Which weights.
        temperature: Of both softmaxes.
    """

    student: nn.Module = field(repr=False, compare=False)
    student_sha256: str
    temperature: float


class Disagreement(_Against):
    """1 - JS / ln 2, averaged over images: 1 where teacher and student agree, 0 where they have nothing in common."""

    def __call__(self, view: View) -> Tensor:
        """Mean over images."""
        divergence = jensen_shannon(view.logits, self.student(view.images), temperature=self.temperature)
        return 1 - divergence.mean() / math.log(2)


class MaskedDisagreement(_Against):
    """-KL(teacher || student) in nats over the images on which both still name the same class, divided by all."""

    def __call__(self, view: View) -> Tensor:
        """Mean over all images, those that are masked counting as zero."""
        answer = self.student(view.images).float()
        same = (answer.argmax(1) == view.logits.argmax(1)).detach()
        log_p = F.log_softmax(view.logits / self.temperature, dim=1)
        log_q = F.log_softmax(answer / self.temperature, dim=1)
        return -(same * (log_p.exp() * (log_p - log_q)).sum(1)).mean()


def disagreement_term(student: nn.Module, *, temperature: float = 1.0) -> Term:
    """Have the student answer otherwise than the teacher; see `Disagreement`.

    Args:
        student: Takes the same images and returns logits of the same classes; copied and frozen.
        temperature: > 0. High values look at the classes that neither names.

    Raises:
        RangeError: The temperature is not positive.

    Example:
        >>> student = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
        >>> view = View(torch.ones(1, 1, 2, 2), torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
        >>> _ = student[1].weight.data.copy_(torch.tensor([[0.25] * 4, [0.0] * 4]))
        >>> disagreement_term(student)(view)  # the student answers exactly as the teacher: nothing is gained
        tensor(1.)
    """
    return Term((Part("disagreement", 1.0, Disagreement(*_settings(student, temperature))),))


def masked_disagreement_term(student: nn.Module, *, temperature: float = 1.0) -> Term:
    """Lead the student away from the teacher as long as it still decides alike; see `MaskedDisagreement`.

    Args:
        student: Takes the same images and returns logits of the same classes; copied and frozen.
        temperature: > 0.

    Raises:
        RangeError: The temperature is not positive.

    Example:
        >>> student = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
        >>> view = View(torch.ones(1, 1, 2, 2), torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
        >>> _ = student[1].weight.data.copy_(torch.tensor([[0.0] * 4, [0.25] * 4]))
        >>> abs(float(masked_disagreement_term(student)(view)))  # what the student sees otherwise counts no more
        0.0
    """
    return Term((Part("masked disagreement", 1.0, MaskedDisagreement(*_settings(student, temperature))),))


def _settings(student: nn.Module, temperature: float) -> tuple[nn.Module, str, float]:
    if not temperature > 0:
        raise RangeError(f"the temperature divides the logits and must be above 0, got {temperature}")
    student = copy.deepcopy(student).eval().requires_grad_(False)
    return student, sha256_network(student), temperature
