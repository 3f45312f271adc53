"""Both losses against independent NumPy code in float64, in value and in gradient."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from reverie.core.errors import RangeError, ShapeError
from reverie.distill import feature_loss, soft_label_loss

Array = NDArray[np.float64]


def draw(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def soft_label_reference(student: Array, teacher: Array, temperature: float) -> float:
    total = 0.0
    for row_s, row_t in zip(student, teacher, strict=True):
        p_s, p_t = np.exp(row_s / temperature), np.exp(row_t / temperature)
        p_s, p_t = p_s / p_s.sum(), p_t / p_t.sum()
        total += sum(t * (np.log(t) - np.log(s)) for s, t in zip(p_s, p_t, strict=True))
    return temperature**2 * total / len(student)


def feature_reference(student: Array, teacher: Array) -> float:
    return float(((student - teacher) ** 2).sum() / (teacher**2).sum())


def finite_differences(function: Callable[[Array], float], at: Array, step: float = 1e-5) -> Array:
    slope = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        up, down = at.copy(), at.copy()
        up[index] += step
        down[index] -= step
        slope[index] = (function(up) - function(down)) / (2 * step)
    return slope


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_soft_label_loss_equals_the_reference(temperature: float) -> None:
    student, teacher = draw(5, 7, seed=1).requires_grad_(True), draw(5, 7, seed=2)
    loss = soft_label_loss(student, teacher, temperature=temperature)
    s, t = student.detach().double().numpy(), teacher.double().numpy()
    assert float(loss.detach()) == pytest.approx(soft_label_reference(s, t, temperature), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, student)
    slope = finite_differences(lambda x: soft_label_reference(x, t, temperature), s)
    np.testing.assert_allclose(gradient.double().numpy(), slope, rtol=1e-4, atol=1e-6)


def test_feature_loss_equals_the_reference() -> None:
    student, teacher = draw(2, 3, 2, 2, seed=1).requires_grad_(True), draw(2, 3, 2, 2, seed=2)
    loss = feature_loss(student, teacher)
    s, t = student.detach().double().numpy(), teacher.double().numpy()
    assert float(loss.detach()) == pytest.approx(feature_reference(s, t), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, student)
    np.testing.assert_allclose(
        gradient.double().numpy(), finite_differences(lambda x: feature_reference(x, t), s), atol=1e-6
    )


def test_gradient_of_soft_labels_is_steady_over_temperature() -> None:
    student, teacher = draw(64, 10, seed=1, scale=1.0).requires_grad_(True), draw(64, 10, seed=2, scale=1.0)
    norms = []
    for temperature in (1.0, 2.0, 4.0, 8.0, 20.0):
        loss = soft_label_loss(student, teacher, temperature=temperature)
        norms.append(float(torch.autograd.grad(loss, student)[0].norm()))
    assert max(norms) / min(norms) < 2


def test_soft_label_loss_is_summed_over_classes_and_averaged_over_images() -> None:
    student, teacher = draw(3, 4, seed=1), draw(3, 4, seed=2)
    once = soft_label_loss(student, teacher, temperature=4.0)
    assert torch.allclose(soft_label_loss(student.repeat(5, 1), teacher.repeat(5, 1), temperature=4.0), once)
    # A class that neither network ever names must not dilute the loss, as a mean over classes would.
    never = torch.full((3, 4), -1e4)
    wider = soft_label_loss(torch.cat([student, never], 1), torch.cat([teacher, never], 1), temperature=4.0)
    assert torch.allclose(wider, once)


def test_losses_are_zero_at_the_teacher_and_read_bfloat16() -> None:
    logits = draw(4, 6)
    assert float(soft_label_loss(logits, logits, temperature=3.0)) == 0.0
    assert float(feature_loss(logits, logits)) == 0.0
    half = logits.bfloat16()
    assert soft_label_loss(half, half.flip(0), temperature=3.0).dtype == torch.float32
    assert feature_loss(half, half.flip(0)).dtype == torch.float32
    assert float(feature_loss(torch.zeros_like(logits), logits)) == pytest.approx(1.0)


def test_losses_refuse_unequal_shapes_and_name_both() -> None:
    with pytest.raises(ShapeError, match=r"\(2, 10\).*\(2, 12\)"):
        soft_label_loss(torch.zeros(2, 10), torch.zeros(2, 12), temperature=1.0)
    with pytest.raises(ShapeError, match=r"\(2, 8, 4, 4\).*\(2, 16, 4, 4\)"):
        feature_loss(torch.zeros(2, 8, 4, 4), torch.zeros(2, 16, 4, 4))
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(RangeError, match="temperature"):
            soft_label_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature=temperature)
