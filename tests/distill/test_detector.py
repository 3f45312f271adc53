"""From classifier to detector: crops, boxes, scenes and losses by hand; a detector that learns."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.oracles import finite_differences
from reverie.core.errors import RangeError, ReferenceNotFound, ShapeError
from reverie.core.network import ImageNetwork
from reverie.core.rng import preserved_rng
from reverie.core.source import Source
from reverie.distill.detector import (
    ClassifierLessons,
    SmallDetector,
    anchors,
    assign,
    assign_batch,
    box_loss,
    class_loss,
    crop,
    decode,
    detection_loss,
    detector_precision,
    encode,
    make_scenes,
    suppress,
    teach_detector,
)
from reverie.metrics.detection import Truth, overlaps
from reverie.zoo.datasets import test_set as embedded_test_set


def clouds(*shape: int, seed: int = 0) -> Tensor:
    """Smooth random images in [0, 1], float64: their slope is the same for small and for tiny moves."""
    coarse = torch.rand(*shape[:2], 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.interpolate(coarse, shape[2:], mode="bicubic").clamp(0, 1)


def one_object(box: list[float], label: int = 0) -> Truth:
    return Truth(torch.tensor([box]), torch.tensor([label]))


def test_a_crop_of_everything_is_the_image_and_one_of_a_quarter_is_that_quarter() -> None:
    images = clouds(2, 3, 8, 8)
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.5, 0.0, 1.0, 0.5]], dtype=torch.float64)
    assert torch.allclose(crop(images, boxes[:1], torch.tensor([1]), size=8)[0], images[1])
    assert torch.allclose(crop(images, boxes[1:], torch.tensor([0]), size=4)[0], images[0, :, :4, 4:])
    with pytest.raises(ShapeError, match=r"\(1, 3\)"):
        crop(images, torch.zeros(1, 3), torch.tensor([0]), size=4)


def test_the_gradient_of_the_box_loss_reaches_the_boxes_and_equals_finite_differences() -> None:
    images = clouds(1, 3, 24, 24)
    around = torch.tensor([[0.25, 0.25, 0.75, 0.75]])
    assigned = assign_batch(around, [one_object([0.3, 0.28, 0.81, 0.7])])
    assigned.boxes.data = assigned.boxes.double()

    def loss(at: np.ndarray) -> float:
        return float(box_loss(images, torch.from_numpy(at), assigned, size=16))

    box = torch.tensor([[[0.221, 0.263, 0.742, 0.713]]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(box_loss(images, box, assigned, size=16), box)
    assert float(gradient.abs().min()) > 1e-3
    slope = finite_differences(loss, box.detach().numpy(), step=1e-7)
    np.testing.assert_allclose(gradient.numpy(), slope, rtol=2e-3, atol=1e-4)


def test_following_the_box_loss_brings_a_box_to_its_object() -> None:
    image = torch.zeros(1, 1, 32, 32)
    image[:, :, 8:24, 8:24] = clouds(1, 1, 16, 16).float() * 0.5 + 0.5
    assigned = assign_batch(torch.tensor([[0.25, 0.25, 0.75, 0.75]]), [one_object([0.25, 0.25, 0.75, 0.75])])
    box = torch.tensor([[[0.32, 0.2, 0.82, 0.72]]], requires_grad=True)
    first = float(overlaps(box[0].detach(), assigned.boxes))
    adam = torch.optim.Adam([box], lr=0.005)
    for _ in range(60):
        adam.zero_grad()
        box_loss(image, box, assigned, size=16).backward()
        adam.step()
    assert first < 0.75
    assert float(overlaps(box[0].detach(), assigned.boxes)) > 0.9


def test_encoding_and_decoding_undo_each_other_and_a_wild_offset_stays_finite() -> None:
    around = anchors([4, 2], [[0.2, 0.3], [0.5]], ratios=(1.0, 2.0))
    assert around.shape == (16 * 4 + 4 * 2, 4)
    boxes = around + 0.05 * torch.rand(around.shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(decode(encode(boxes, around), around), boxes, atol=1e-6)
    assert bool(decode(torch.full((1, 4), 1e6), around[:1]).isfinite().all())
    size = around[1, 2:] - around[1, :2]
    assert torch.allclose(size[0] / size[1], torch.tensor(2.0))
    # One anchor of side 0.5 around (0.5, 0.5), a box of twice that side whose center is 0.05 further right.
    wide = encode(torch.tensor([[0.05, 0.0, 1.05, 1.0]]), anchors([1], [[0.5]]))
    assert torch.allclose(wide, torch.tensor([[1.0, 0.0, math.log(2) / 0.2, math.log(2) / 0.2]]), atol=1e-5)


def test_anchors_answer_for_the_object_that_they_overlap_most_and_no_object_is_left_alone() -> None:
    around = torch.tensor([[0.0, 0.0, 0.4, 0.4], [0.05, 0.0, 0.45, 0.4], [0.6, 0.6, 1.0, 1.0], [0.5, 0.0, 0.6, 0.1]])
    both = Truth(torch.tensor([[0.02, 0.0, 0.42, 0.4], [0.8, 0.8, 0.9, 0.9]]), torch.tensor([5, 6]))
    assert assign(around, both).tolist() == [0, 0, 1, -1]
    assert assign(around, Truth(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))).tolist() == [-1] * 4


def test_weaker_boxes_on_the_same_place_are_suppressed() -> None:
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.05, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0], [0.0, 0.6, 1.0, 1.6]])
    scores = torch.tensor([0.5, 0.9, 0.1, 0.7])
    assert suppress(boxes, scores).tolist() == [1, 3, 2]
    assert suppress(boxes, scores, most=1).tolist() == [1]


def squares(count: int = 6) -> Source:
    return Source("squares", torch.full((count, 1, 8, 8), 255, dtype=torch.uint8), torch.arange(count) % 3)


def test_objects_lie_in_their_boxes_and_hide_each_other_hardly() -> None:
    scenes = make_scenes(squares(), count=20, seed=0, size=64, each=(1, 3), sides=(12, 24))
    assert scenes.images.shape == (20, 1, 64, 64)
    assert {len(truth.boxes) for truth in scenes.truths} == {1, 2, 3}
    for image, truth in zip(scenes.images, scenes.truths, strict=True):
        for left, top, right, bottom in (truth.boxes * 64).round().int().tolist():
            assert bool((image[0, top:bottom, left:right] == 255).all())
            assert 12 <= right - left == bottom - top <= 24
        apart = overlaps(truth.boxes, truth.boxes).fill_diagonal_(0)
        assert float(apart.max()) <= 0.1 + 1e-6
    again, other = (make_scenes(squares(), count=20, seed=seed, size=64, sides=(12, 24)) for seed in (0, 1))
    assert torch.equal(again.images, scenes.images)
    assert not torch.equal(other.images, scenes.images)


def test_scenes_that_cannot_be_made_are_refused() -> None:
    with pytest.raises(ReferenceNotFound, match="have no labels"):
        make_scenes(Source("plain", squares().images), count=1, seed=0)
    with pytest.raises(RangeError, match="scenes need count >= 1"):
        make_scenes(squares(), count=1, seed=0, size=32, sides=(12, 48))


def test_class_distillation_by_hand() -> None:
    around = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])
    assigned = assign_batch(around, [one_object([0.0, 0.0, 0.5, 0.5], 1)])
    logits = torch.tensor([[[0.0, 2.0, 1.0], [5.0, 5.0, 5.0]]], requires_grad=True)
    said = torch.tensor([[1.0, 3.0]])
    total, expected = sum(math.exp(x / 2) for x in (0, 2, 1)), 0.0
    for place, mine in enumerate((0.0, 2.0)):
        p = math.exp(said[0, place].item() / 2) / sum(math.exp(x / 2) for x in (1, 3))
        expected += 4 * p * (math.log(p) - math.log(math.exp(mine / 2) / total))
    loss = class_loss(logits, said, assigned)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(gradient[0, 1].abs().max()) == 0.0, "an anchor without an object is not taught"
    assert float(gradient[0, 0, 2]) > 0, "the background loses where the classifier sees an object"


def test_losses_without_any_object_are_zero() -> None:
    empty = Truth(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assigned = assign_batch(torch.tensor([[0.0, 0.0, 0.5, 0.5]]), [empty])
    assert float(class_loss(torch.zeros(1, 1, 3), torch.zeros(0, 2), assigned)) == 0.0
    assert float(box_loss(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4), assigned)) == 0.0
    with pytest.raises(RangeError, match="temperature"):
        class_loss(torch.zeros(1, 1, 3), torch.zeros(0, 2), assigned, temperature=0)


def test_detection_loss_counts_the_hardest_negatives_three_to_one() -> None:
    around = anchors([3], [[0.3]])
    assigned = assign_batch(around, [one_object(around[4].tolist(), 1)])
    right = torch.zeros(1, 9, 3)
    right[..., 2] = 30.0
    right[0, 4] = torch.tensor([0.0, 30.0, 0.0])
    assert float(detection_loss(right, around[None], around, assigned)) == pytest.approx(0.0, abs=1e-5)
    # Two anchors are sure of class 0 where there is nothing: their entropy is 30 - of four negatives three count.
    wrong = right.clone()
    wrong[0, [0, 8]] = torch.tensor([30.0, 0.0, 0.0])
    assert float(detection_loss(wrong, around[None], around, assigned)) == pytest.approx(60.0, rel=1e-4)
    wrong[0, [1, 2]] = torch.tensor([30.0, 0.0, 0.0])
    assert float(detection_loss(wrong, around[None], around, assigned)) == pytest.approx(90.0, rel=1e-4)


def classifier(classes: int = 3, channels: int = 1) -> ImageNetwork:
    with preserved_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, classes))
    return ImageNetwork(body, image_shape=(channels, 8, 8)).eval()


def detector(seed: int = 0) -> SmallDetector:
    with preserved_rng():
        torch.manual_seed(seed)
        return SmallDetector(classes=3, channels=1, size=48, width=4)


def test_a_detector_learns_and_every_term_has_its_say() -> None:
    scenes = make_scenes(squares(), count=24, seed=0, size=48, sides=(12, 22))
    before = {name: tensor.clone() for name, tensor in detector().state_dict().items()}
    starts = detector()
    taught = {
        name: teach_detector(starts, scenes, lessons=lessons, steps=4, batch_size=8).state_dict()
        for name, lessons in {
            "plain": None,
            "classes": ClassifierLessons(classifier(), box_weight=0.0),
            "boxes": ClassifierLessons(classifier(), class_weight=0.0),
            "boxes in features": ClassifierLessons(classifier(), class_weight=0.0, stem="body.1"),
            "none": ClassifierLessons(classifier(), class_weight=0.0, box_weight=0.0),
        }.items()
    }
    assert all(torch.equal(tensor, before[name]) for name, tensor in starts.state_dict().items())
    heads = {name: state["heads.0.weight"] for name, state in taught.items()}
    assert torch.equal(heads["plain"], heads["none"])
    different = ["plain", "classes", "boxes", "boxes in features"]
    for index, name in enumerate(different):
        assert not any(torch.equal(heads[name], heads[other]) for other in different[:index])
    again = teach_detector(starts, scenes, steps=4, batch_size=8).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in taught["plain"].items())


def test_boxes_are_compared_in_a_layer_and_nothing_behind_it_is_computed() -> None:
    scenes = make_scenes(squares(), count=8, seed=0, size=48, sides=(12, 22))

    def taught(network: ImageNetwork, stem: str = "body.1") -> torch.Tensor:
        lessons = ClassifierLessons(network, class_weight=0.0, stem=stem)
        weight: torch.Tensor = (
            teach_detector(detector(), scenes, lessons=lessons, steps=2, batch_size=4).heads[0].weight
        )
        return weight

    passes: list[int] = []
    other = classifier()
    with torch.no_grad():
        other.body[3].weight.zero_()
    other.body[3].register_forward_hook(lambda *_: passes.append(1))
    assert torch.equal(taught(other), taught(classifier()))
    assert len(passes) == 1, "its classes were counted once"
    assert not torch.equal(taught(classifier(), "body.0"), taught(classifier()))
    with pytest.raises(ReferenceNotFound, match=r"body\.7"):
        taught(classifier(), "body.7")


def test_a_detector_of_no_size_is_refused() -> None:
    for changed, said in (({"size": 100}, "a multiple of 16 pixels, got 100"), ({"classes": 0}, "classes must be at")):
        with pytest.raises(RangeError, match=said):
            SmallDetector(**{"classes": 3, **changed})


def test_a_detector_of_other_classes_or_images_is_refused() -> None:
    scenes = make_scenes(squares(), count=4, seed=0, size=48, sides=(12, 22))
    with pytest.raises(ShapeError, match="classifier names 5 classes and the detector 3"):
        teach_detector(detector(), scenes, lessons=ClassifierLessons(classifier(classes=5)), steps=1, batch_size=2)
    with pytest.raises(ShapeError, match="images of 3 channels, the scenes have 1"):
        teach_detector(detector(), scenes, lessons=ClassifierLessons(classifier(channels=3)), steps=1, batch_size=2)
    with pytest.raises(RangeError, match="steps >= 1"):
        teach_detector(detector(), scenes, steps=0)
    with pytest.raises(RangeError, match="weights are at least 0"):
        ClassifierLessons(classifier(), class_weight=-1)


@pytest.mark.nightly
def test_a_detector_finds_real_objects() -> None:
    objects = embedded_test_set("fashion-mnist")
    scenes = [
        make_scenes(objects, count=count, seed=seed, size=64, sides=(20, 30)) for seed, count in ((0, 256), (1, 64))
    ]
    with preserved_rng():
        torch.manual_seed(0)
        start = SmallDetector(classes=10, channels=1, size=64, width=8)
    taught = teach_detector(start, scenes[0], steps=300, batch_size=16)
    assert detector_precision(taught, scenes[1]) > 0.15 > 5 * detector_precision(start, scenes[1])
