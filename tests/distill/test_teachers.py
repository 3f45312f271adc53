"""Several teachers answer with the mean of their probabilities, exactly."""

import pytest
import torch
from torch import nn

from distill.oracles import draw
from reverie.core.errors import RangeError, ShapeError
from reverie.distill import Averaged, soft_label_loss


class Fixed(nn.Module):
    """Answers the same logits whatever it is shown."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("logits", logits.float())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.get_buffer("logits")


def test_the_average_is_that_of_probabilities() -> None:
    answers = [draw(4, 5, seed=seed).float() for seed in range(3)]
    together = Averaged([Fixed(answer) for answer in answers])(torch.zeros(4, 1))
    mean = sum(answer.softmax(1) for answer in answers) / 3
    assert torch.allclose(together.softmax(1), mean, atol=1e-6)
    assert torch.allclose(together, mean.log(), atol=1e-5)


def test_at_a_temperature_it_is_the_average_at_that_temperature() -> None:
    # By hand, at T = 2: teachers of odds e^2 and 1 between two classes have odds e and 1, so 0.731 and 0.5.
    logits = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    together = Averaged([Fixed(one) for one in logits], temperature=2.0)(torch.zeros(1, 1))
    assert (together / 2.0).softmax(1).tolist() == [pytest.approx([0.61553, 0.38447], abs=1e-5)]
    asked = [soft_label_loss(torch.zeros(1, 2), one, temperature=2.0) for one in (together, together * 1.1)]
    assert asked[0] < asked[1]


def test_one_teacher_is_itself_and_a_sure_one_stays_finite() -> None:
    logits = torch.tensor([[300.0, 0.0, -300.0]])
    alone = Averaged([Fixed(logits)])(torch.zeros(1, 1))
    assert float(soft_label_loss(alone, logits, temperature=1.0)) == pytest.approx(0.0, abs=1e-6)
    warm = Averaged([Fixed(logits / 100)], temperature=4.0)(torch.zeros(1, 1))
    assert float(soft_label_loss(warm, logits / 100, temperature=4.0)) == pytest.approx(0.0, abs=1e-6)
    assert bool(Averaged([Fixed(logits), Fixed(-logits)])(torch.zeros(1, 1)).isfinite().all())


def test_no_teacher_and_teachers_of_other_classes_are_refused() -> None:
    with pytest.raises(RangeError, match="at least one network"):
        Averaged([])
    with pytest.raises(RangeError, match=r"above 0, got 0\.0"):
        Averaged([Fixed(torch.zeros(2, 3))], temperature=0.0)
    both = Averaged([Fixed(torch.zeros(2, 3)), Fixed(torch.zeros(2, 4))])
    with pytest.raises(ShapeError, match=r"\(2, 3\), \(2, 4\)"):
        both(torch.zeros(2, 1))
