"""Teach a detector with the help of a classifier that never saw a box.

Cost: per step one pass of the detector, the classifier on one crop per object, and its first layers on one crop per
anchor that answers for an object.
Source: Chawla et al., 2021, arXiv:2106.05209.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reverie.core.errors import Diverged, RangeError, ReferenceNotFound, ShapeError
from reverie.core.events import Event, Listener, silent
from reverie.core.network import ImageNetwork
from reverie.core.rng import derive_seed, generator, preserved_rng, seed_global
from reverie.core.tap import select_layers
from reverie.distill.detector.crop import crop
from reverie.distill.detector.losses import assign_batch, box_loss, class_loss, detection_loss
from reverie.distill.detector.network import SmallDetector
from reverie.distill.detector.scenes import Scenes
from reverie.distill.schedules import cosine
from reverie.metrics.detection import average_precision

__all__ = ["ClassifierLessons", "detector_precision", "teach_detector"]

STEPS_PER_EVENT = 10


@dataclass(frozen=True, eq=False)
class ClassifierLessons:
    """What a detector learns from a classifier of the same classes.

    Attributes:
        classifier: Takes crops in [0, 1]; untouched.
        class_weight: Of the class distillation; 0 leaves it out.
        box_weight: Of the box distillation; 0 leaves it out.
        temperature: Of the class distillation.
        stem: Name of a layer of the classifier whose output is compared in the boxes, or None for pixels alone.

    Raises:
        RangeError: A negative weight.

    Example:
        >>> classifier = ImageNetwork(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)), image_shape=(3, 32, 32))
        >>> ClassifierLessons(classifier, box_weight=0.0).class_weight
        0.4
    """

    classifier: ImageNetwork
    class_weight: float = 0.4
    box_weight: float = 0.15
    temperature: float = 2.0
    stem: str | None = None

    def __post_init__(self) -> None:
        if min(self.class_weight, self.box_weight) < 0:
            raise RangeError(f"weights are at least 0, got {self.class_weight} and {self.box_weight}")


def teach_detector(
    detector: SmallDetector,
    scenes: Scenes,
    *,
    lessons: ClassifierLessons | None = None,
    steps: int = 500,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    seed: int = 0,
    on_event: Listener = silent,
) -> SmallDetector:
    """Train a copy of a detector on scenes: on the truth alone, or with what a classifier sees in the boxes.

    detection_loss + class_weight * class_loss + box_weight * box_loss, by Adam with a cosine schedule.

    Args:
        detector: The start; untouched.
        scenes: Images with boxes.
        lessons: What a classifier adds; None for the truth alone.
        steps: At least 1.
        batch_size: At least 2.
        learning_rate: Its peak, above 0.
        seed: Decides the order.
        on_event: Called with the stage "teaching a detector".

    Raises:
        RangeError: A number outside its range.
        ShapeError: The classifier names other classes, or takes images of other channels.
        Diverged: The loss is not finite.

    Example:
        >>> from reverie.core.source import Source
        >>> from reverie.distill.detector.scenes import make_scenes
        >>> objects = Source("squares", torch.full((4, 1, 16, 16), 255, dtype=torch.uint8), torch.arange(4))
        >>> scenes = make_scenes(objects, count=4, seed=0, size=32, sides=(8, 16))
        >>> detector = SmallDetector(classes=4, channels=1, size=32, width=8)
        >>> taught = teach_detector(detector, scenes, steps=2, batch_size=2)
        >>> torch.equal(taught.heads[0].weight, detector.heads[0].weight)
        False

    Reference: Chawla et al., 2021, arXiv:2106.05209, section 3.
    """
    if steps < 1 or batch_size < 2 or not learning_rate > 0:
        raise RangeError(
            f"a detector needs steps >= 1, batch_size >= 2 and learning_rate > 0, got {steps}, {batch_size} and "
            f"{learning_rate}"
        )
    with preserved_rng():
        seed_global(derive_seed(seed, "detector"))
        student = copy.deepcopy(detector).train().requires_grad_(True)
        helper = None if lessons is None else _Helper(lessons, scenes, detector.classes)
        adam = torch.optim.Adam(student.parameters(), lr=learning_rate)
        rng, order = generator(seed, "scenes"), torch.empty(0, dtype=torch.int64)
        for step in range(steps):
            while len(order) < batch_size:
                order = torch.cat([order, torch.randperm(len(scenes), generator=rng)])
            pick, order = order[:batch_size], order[batch_size:]
            images = scenes.images[pick].float() / 255
            assigned = assign_batch(student.anchors, [scenes.truths[index] for index in pick.tolist()])
            logits, boxes = student(images)
            loss = detection_loss(logits, boxes, student.anchors, assigned)
            if helper is not None and lessons is not None:
                if lessons.class_weight:
                    crops = crop(images, assigned.boxes, assigned.images, size=helper.size)
                    said = helper.answers(crops)
                    loss = loss + lessons.class_weight * class_loss(
                        logits, said, assigned, temperature=lessons.temperature
                    )
                if lessons.box_weight:
                    stem = helper.stem if lessons.stem is not None else None
                    loss = loss + lessons.box_weight * box_loss(images, boxes, assigned, stem=stem, size=helper.size)
            for group in adam.param_groups:
                group["lr"] = learning_rate * cosine(step, steps)
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()
            if (step + 1) % STEPS_PER_EVENT == 0 or step + 1 == steps:
                value = float(loss.detach())
                if not value < float("inf"):
                    raise Diverged(
                        f"teaching the detector left the finite numbers by step {step + 1}, learning rate "
                        f"{learning_rate:g}. Take a lower learning rate."
                    )
                on_event(Event("teaching a detector", step + 1, steps, {"loss": value}))
    return student.eval()


def detector_precision(detector: SmallDetector, scenes: Scenes, *, batch_size: int = 64) -> float:
    """Average precision over overlaps 0.50 to 0.95 of a detector on scenes that it did not learn from.

    Args:
        detector: Untouched.
        scenes: Images with their boxes and classes.
        batch_size: Images at once; changes memory and speed, not the result.

    Example:
        >>> from reverie.core.source import Source
        >>> from reverie.distill.detector.scenes import make_scenes
        >>> objects = Source("squares", torch.full((4, 1, 16, 16), 255, dtype=torch.uint8), torch.arange(4))
        >>> scenes = make_scenes(objects, count=4, seed=0, size=32, sides=(8, 16))
        >>> detector = SmallDetector(classes=4, channels=1, size=32, width=8)
        >>> 0 <= detector_precision(detector, scenes) <= 1
        True
    """
    network = copy.deepcopy(detector).eval()
    found = []
    for start in range(0, len(scenes), batch_size):
        found += network.detect(scenes.images[start : start + batch_size].float() / 255)
    return average_precision(found, scenes.truths)


class _Helper:
    """A copy of the classifier, and its first layers."""

    def __init__(self, lessons: ClassifierLessons, scenes: Scenes, classes: int) -> None:
        self.network: nn.Module = copy.deepcopy(lessons.classifier).eval().requires_grad_(False)
        channels, self.size = lessons.classifier.image_shape[0], int(lessons.classifier.image_shape[-1])
        if channels != scenes.images.shape[1]:
            raise ShapeError(
                f"the classifier takes images of {channels} channels, the scenes have {scenes.images.shape[1]}"
            )
        self.layer = lessons.stem
        answered = self.answers(torch.zeros(2, channels, self.size, self.size)).shape[1]
        if answered != classes:
            raise ShapeError(
                f"the classifier names {answered} classes and the detector {classes}; they must be the same"
            )

    def answers(self, crops: Tensor) -> Tensor:
        """The classifier's logits of crops."""
        with torch.no_grad():
            logits: Tensor = self.network(crops)
        return logits

    def stem(self, crops: Tensor) -> Tensor:
        """What the layer returns for crops, with its gradient; what comes after it is not computed."""
        ((name, layer),) = select_layers(self.network, [str(self.layer)]).items()
        reached: list[Tensor] = []

        def stop(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            reached.append(output)
            raise _Reached

        handle = layer.register_forward_hook(stop)
        try:
            self.network(crops)
        except _Reached:
            return reached[0]
        finally:
            handle.remove()
        raise ReferenceNotFound(f"the classifier's forward pass does not reach its layer {name!r}")


class _Reached(Exception):
    """The way out of a forward pass once the layer was reached."""
