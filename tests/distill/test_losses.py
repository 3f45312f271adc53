"""Every loss against independent NumPy code in float64, in value and in gradient; and what each loss promises."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill import oracles
from distill.oracles import Array, draw, finite_differences
from reverie.core.errors import RangeError, ShapeError
from reverie.distill import (
    angle_loss,
    attention_loss,
    contrastive_loss,
    correlation_loss,
    decoupled_loss,
    distance_loss,
    feature_loss,
    similarity_loss,
    soft_label_loss,
    standardized_loss,
)

Loss = Callable[[Tensor, Tensor], Tensor]
Reference = Callable[[Array, Array], float]
LOGITS: list[tuple[str, Callable[..., Tensor], Callable[..., float], dict[str, Any]]] = [
    ("soft labels, T 0.5", soft_label_loss, oracles.soft_label, {"temperature": 0.5}),
    ("soft labels, T 1", soft_label_loss, oracles.soft_label, {"temperature": 1.0}),
    ("soft labels, T 4", soft_label_loss, oracles.soft_label, {"temperature": 4.0}),
    ("soft labels, T 20", soft_label_loss, oracles.soft_label, {"temperature": 20.0}),
    ("standardized, T 1", standardized_loss, oracles.standardized, {"temperature": 1.0}),
    ("standardized, T 3", standardized_loss, oracles.standardized, {"temperature": 3.0}),
    ("correlation, T 1", correlation_loss, oracles.correlation, {"temperature": 1.0}),
    ("correlation, T 4", correlation_loss, oracles.correlation, {"temperature": 4.0}),
    ("correlation, rows", correlation_loss, oracles.correlation, {"temperature": 2.0, "within_class": 0.0}),
    ("correlation, columns", correlation_loss, oracles.correlation, {"temperature": 2.0, "within_image": 0.0}),
    ("decoupled", decoupled_loss, oracles.decoupled, {"temperature": 4.0, "target": 1.0, "others": 8.0}),
    ("decoupled, T 1", decoupled_loss, oracles.decoupled, {"temperature": 1.0, "target": 2.0, "others": 0.5}),
]
# Name, loss, reference, shapes of the student's and of the teacher's feature.
FEATURES: list[
    tuple[str, Callable[..., Tensor], Callable[..., float], dict[str, Any], tuple[int, ...], tuple[int, ...]]
]
FEATURES = [
    ("feature", feature_loss, oracles.feature, {}, (3, 2, 2, 2), (3, 2, 2, 2)),
    ("attention", attention_loss, oracles.attention, {}, (3, 2, 2, 3), (3, 4, 2, 3)),
    ("distance", distance_loss, oracles.distance, {}, (5, 3), (5, 2, 2)),
    ("angle", angle_loss, oracles.angle, {}, (5, 3), (5, 2, 2)),
    ("similarity", similarity_loss, oracles.similarity, {}, (4, 3), (4, 2, 2)),
    ("contrastive", contrastive_loss, oracles.contrastive, {"temperature": 0.1}, (4, 3), (4, 3)),
    ("contrastive, T 1", contrastive_loss, oracles.contrastive, {"temperature": 1.0}, (4, 2, 2), (4, 2, 2)),
]
named = pytest.mark.parametrize


def check(loss: Loss, reference: Reference, student: Tensor, teacher: Tensor) -> None:
    """Value and gradient to 1e-6 in float64, and the value to 1e-4 where the tensors are float32."""
    student = student.requires_grad_(True)
    value = loss(student, teacher)
    s, t = student.detach().numpy(), teacher.numpy()
    assert float(value.detach()) == pytest.approx(reference(s, t), rel=1e-6, abs=1e-6)
    (gradient,) = torch.autograd.grad(value, student)
    slope = finite_differences(lambda x: reference(x, t), s)
    assert np.abs(slope).max() > 1e-3, "a test at a flat place says nothing"
    np.testing.assert_allclose(gradient.numpy(), slope, rtol=1e-6, atol=1e-6)
    narrow = loss(student.detach().float(), teacher.float())
    assert narrow.dtype == torch.float32
    assert float(narrow) == pytest.approx(float(value.detach()), rel=1e-4, abs=1e-6)


@named(("loss", "reference", "settings"), [row[1:] for row in LOGITS], ids=[row[0] for row in LOGITS])
def test_losses_of_logits_equal_the_reference(
    loss: Callable[..., Tensor], reference: Callable[..., float], settings: dict[str, Any]
) -> None:
    # Below T = 1 large logits leave no slope, so the logits shrink with T.
    scale = min(3.0, 2 * settings["temperature"])
    student, teacher = draw(5, 7, seed=1, scale=scale), draw(5, 7, seed=2, scale=scale)
    check(partial(loss, **settings), partial(reference, **settings), student, teacher)


@named(
    ("loss", "reference", "settings", "student", "teacher"), [row[1:] for row in FEATURES], ids=[r[0] for r in FEATURES]
)
def test_losses_of_features_equal_the_reference(
    loss: Callable[..., Tensor],
    reference: Callable[..., float],
    settings: dict[str, Any],
    student: tuple[int, ...],
    teacher: tuple[int, ...],
) -> None:
    check(partial(loss, **settings), partial(reference, **settings), draw(*student, seed=1), draw(*teacher, seed=2))


EVERY_LOGIT_LOSS: list[Loss] = [
    partial(soft_label_loss, temperature=4.0),
    standardized_loss,
    correlation_loss,
    decoupled_loss,
]
EVERY_FEATURE_LOSS: list[Loss] = [feature_loss, attention_loss, distance_loss, angle_loss, similarity_loss]


@pytest.mark.parametrize("loss", EVERY_LOGIT_LOSS)
def test_losses_of_logits_are_zero_at_the_teacher_and_above_zero_elsewhere(loss: Loss) -> None:
    logits = draw(6, 5)
    assert abs(float(loss(logits, logits))) < 1e-9
    assert float(loss(logits, logits.flip(0))) > 0.01
    assert loss(logits.bfloat16(), logits.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("loss", EVERY_FEATURE_LOSS)
def test_losses_of_features_are_zero_at_the_teacher_and_above_zero_elsewhere(loss: Loss) -> None:
    maps = draw(6, 3, 4, 4)
    assert abs(float(loss(maps, maps))) < 1e-9
    assert float(loss(maps, maps.flip(0) ** 2)) > 1e-4
    assert loss(maps.bfloat16(), maps.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("loss", [distance_loss, angle_loss])
def test_relations_have_a_slope_where_images_coincide(loss: Loss) -> None:
    student = torch.ones(5, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(student, draw(5, 3).float()), student)
    assert bool(gradient.isfinite().all())


def test_relations_do_not_see_scale_or_place() -> None:
    student, teacher = draw(6, 4, seed=1), draw(6, 3, seed=2)
    for loss in (distance_loss, angle_loss):
        assert torch.allclose(loss(3 * student - 7, teacher), loss(student, teacher))
    assert torch.allclose(similarity_loss(3 * student, teacher), similarity_loss(student, teacher))


def test_standardized_logits_do_not_see_scale_or_place() -> None:
    student, teacher = draw(6, 4, seed=1), draw(6, 4, seed=2)
    assert torch.allclose(standardized_loss(3 * student - 7, teacher), standardized_loss(student, teacher))


def gradient_norm(loss: Callable[..., Tensor], temperature: float) -> float:
    student, teacher = draw(64, 10, seed=1, scale=1.0).requires_grad_(True), draw(64, 10, seed=2, scale=1.0)
    return float(torch.autograd.grad(loss(student, teacher, temperature=temperature), student)[0].norm())


@pytest.mark.parametrize("loss", [soft_label_loss, standardized_loss, partial(decoupled_loss, others=1.0)])
def test_the_gradient_is_steady_over_temperature(loss: Callable[..., Tensor]) -> None:
    norms = [gradient_norm(loss, temperature) for temperature in (1.0, 2.0, 4.0, 8.0, 20.0)]
    assert max(norms) / min(norms) < 2


@pytest.mark.parametrize("loss", [partial(soft_label_loss, temperature=4.0), standardized_loss, decoupled_loss])
def test_losses_are_averaged_over_images(loss: Loss) -> None:
    student, teacher = draw(3, 4, seed=1), draw(3, 4, seed=2)
    assert torch.allclose(loss(student.repeat(5, 1), teacher.repeat(5, 1)), loss(student, teacher))


def test_soft_labels_are_summed_over_classes() -> None:
    # A class that neither network ever names must not dilute the loss, as a mean over classes would.
    student, teacher, never = draw(3, 4, seed=1), draw(3, 4, seed=2), torch.full((3, 4), -1e4, dtype=torch.float64)
    wider = soft_label_loss(torch.cat([student, never], 1), torch.cat([teacher, never], 1), temperature=4.0)
    assert torch.allclose(wider, soft_label_loss(student, teacher, temperature=4.0))


def test_the_parts_of_the_decoupled_loss_make_up_the_soft_label_loss() -> None:
    # KL = KL of (p, 1 - p) + (1 - p of the teacher) KL of the rest, image by image.
    student, teacher = draw(1, 6, seed=1), draw(1, 6, seed=2)
    rest = 1 - float((teacher / 4).softmax(1).max())
    whole = decoupled_loss(student, teacher, temperature=4.0, target=1.0, others=rest)
    assert torch.allclose(whole, soft_label_loss(student, teacher, temperature=4.0))


def test_the_decoupled_loss_is_the_same_with_the_labels_that_the_teacher_would_give() -> None:
    student, teacher = draw(5, 6, seed=1), draw(5, 6, seed=2)
    assert torch.equal(decoupled_loss(student, teacher, labels=teacher.argmax(1)), decoupled_loss(student, teacher))
    assert not torch.equal(decoupled_loss(student, teacher, labels=teacher.argmin(1)), decoupled_loss(student, teacher))


def test_a_student_that_knows_nothing_has_a_contrastive_loss_of_log_n() -> None:
    assert float(contrastive_loss(torch.ones(8, 3), draw(8, 3).float() * 0 + 1)) == pytest.approx(math.log(8), rel=1e-6)
    apart = torch.eye(8)
    assert float(contrastive_loss(apart, apart)) < 0.01


def test_feature_loss_of_a_silent_student_is_one() -> None:
    assert float(feature_loss(torch.zeros(4, 6), draw(4, 6).float())) == pytest.approx(1.0)


def test_losses_refuse_unequal_shapes_and_name_both() -> None:
    for loss in EVERY_LOGIT_LOSS:
        with pytest.raises(ShapeError, match=r"\(2, 10\).*\(2, 12\)"):
            loss(torch.zeros(2, 10), torch.zeros(2, 12))
    for loss in (feature_loss, contrastive_loss):
        with pytest.raises(ShapeError, match=r"\(2, 8, 4, 4\).*\(2, 16, 4, 4\)"):
            loss(torch.zeros(2, 8, 4, 4), torch.zeros(2, 16, 4, 4))
    with pytest.raises(ShapeError, match=r"one height and width.*\(2, 8, 4, 4\).*\(2, 8, 2, 2\)"):
        attention_loss(torch.zeros(2, 8, 4, 4), torch.zeros(2, 8, 2, 2))
    with pytest.raises(ShapeError, match=r"feature maps.*\(2, 8\)"):
        attention_loss(torch.zeros(2, 8), torch.zeros(2, 8))
    for loss, least in ((distance_loss, 2), (angle_loss, 3)):
        with pytest.raises(ShapeError, match=f"same {least} or more images"):
            loss(torch.zeros(least - 1, 4), torch.zeros(least - 1, 4))
    with pytest.raises(ShapeError, match=r"\(4, 2\).*\(3, 2\)"):
        similarity_loss(torch.zeros(4, 2), torch.zeros(3, 2))
    with pytest.raises(ShapeError, match="as many labels"):
        decoupled_loss(torch.zeros(4, 2), torch.zeros(4, 2), labels=torch.zeros(3, dtype=torch.int64))
    for loss in (standardized_loss, decoupled_loss):
        with pytest.raises(ShapeError, match=r"at least 2 classes|only one"):
            loss(torch.zeros(4, 1), torch.zeros(4, 1))


def test_losses_refuse_numbers_outside_their_range() -> None:
    for loss in (soft_label_loss, standardized_loss, correlation_loss, decoupled_loss, contrastive_loss):
        for temperature in (0.0, -1.0, float("nan")):
            with pytest.raises(RangeError, match="temperature"):
                loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature=temperature)
    with pytest.raises(RangeError, match="within_image -1"):
        correlation_loss(torch.zeros(2, 3), torch.zeros(2, 3), within_image=-1)
    with pytest.raises(RangeError, match="others -2"):
        decoupled_loss(torch.zeros(2, 3), torch.zeros(2, 3), others=-2)
