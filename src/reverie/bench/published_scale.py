"""Distillation without data at the scale of the literature, on a GPU: teachers trained here, students on dreams alone.

What for: the published figures are of CIFAR-10, ResNet-34 to ResNet-18 and WRN-40-2 to WRN-16-1. The teachers are
trained by the recipe below, which is part of the figure; the students never see a real image. Cost: written for one
large GPU, about an hour for each pair; without one the figures say so.

Sources: residual networks, He et al. 2016, arXiv:1512.03385; wide ones, Zagoruyko and Komodakis 2016, arXiv:1605.07146,
section 3 (SGD, Nesterov momentum, weight decay 5e-4, 200 epochs, shift by 4 and mirror). Differs: one cosine in place
of three steps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.bench.figure import Measured
from reverie.bench.kinds.images import WideResNet
from reverie.core.errors import ReferenceNotFound, ShapeError
from reverie.core.events import Event, Listener
from reverie.core.network import ImageNetwork
from reverie.core.rng import generator, preserved_rng
from reverie.core.source import Source
from reverie.distill.views import Views
from reverie.metrics.evaluate import evaluate
from reverie.teach import adaptive_route, teach
from reverie.zoo.networks import CifarResNet

__all__ = ["PAIRS", "PUBLISHED", "Scale", "pair_figures", "train_teacher"]

SHAPE = (3, 32, 32)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
WIDE = (64, 128, 256, 512)


@dataclass(frozen=True)
class Scale:
    """How much work a pair of networks gets.

    Attributes:
        epochs: Of the teacher on real images.
        batch_size: Of teacher and student.
        learning_rate: Peak of the teacher's.
        dreams: Images to teach on, a third of them where the student still errs.
        dream_steps: Optimization steps of each.
        teach_steps: Training steps of the student.
        students: Seeds.
    """

    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 0.1
    dreams: int = 30_000
    dream_steps: int = 250
    teach_steps: int = 60_000
    students: int = 3


PUBLISHED = Scale()
PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "34-to-18": (
        partial(CifarResNet, blocks=(3, 4, 6, 3), widths=WIDE),
        partial(CifarResNet, blocks=(2, 2, 2, 2), widths=WIDE),
    ),
    "40-2-to-16-1": (partial(WideResNet, 40, 2, base=16), partial(WideResNet, 16, 1, base=16)),
}


def train_teacher(
    build: Callable[[], nn.Module],
    images: Source,
    *,
    scale: Scale,
    device: torch.device,
    seed: int = 0,
    on_event: Listener,
) -> ImageNetwork:
    """A network trained on labeled images: SGD with Nesterov momentum, one cosine, each image shifted and mirrored.

    The number of epochs is fixed beforehand, and no image of the test set is looked at.

    Args:
        build: Makes the untrained network, which takes normalized images.
        images: Real ones, (n, 3, 32, 32), with labels.
        scale: How long.
        device: Where.
        seed: Decides the start, the order and the views.
        on_event: Hears every epoch.

    Raises:
        ShapeError: The images have no labels.
    """
    if images.labels is None:
        raise ShapeError(f"a teacher is trained on labeled images, and {images.name} has no labels")
    labels = images.labels
    with preserved_rng():
        torch.manual_seed(seed)
        network = ImageNetwork(build(), image_shape=SHAPE, mean=MEAN, std=STD).to(device).train()
    sgd = torch.optim.SGD(network.parameters(), lr=scale.learning_rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = max(len(images) // scale.batch_size, 1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, scale.epochs * steps)
    views, rng = Views(shift_pixels=4, zoom=0, turn=0, soften=0, patches=0), generator(seed, "teacher")
    batches = images.batches(batch_size=min(scale.batch_size, len(images)), seed=seed)
    for epoch in range(scale.epochs):
        for _ in range(steps):
            pick = next(batches)
            shown = views(images.floats(pick), rng).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = network(shown)
            loss: Tensor = F.cross_entropy(logits.float(), labels[pick].to(device))
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            schedule.step()
        on_event(Event("training a teacher", epoch + 1, scale.epochs))
    return network.eval()


def pair_figures(
    name: str,
    *,
    real: Callable[[], Source],
    test: Callable[[], Source],
    scale: Scale = PUBLISHED,
    device: torch.device | None = None,
) -> Callable[[Listener], Mapping[str, Measured]]:
    """Figures of one pair: `gpu-NAME`, the students' accuracy, with `-teacher`, `-lowest` and `-time`.

    The time is that of all dreams and of one student's lessons, in seconds.

    Args:
        name: One of `PAIRS`.
        real: The training images of the teacher.
        test: What all are judged by, at the very end.
        scale: How much work.
        device: Where; None is a GPU, and a sentence where there is none.
    """

    def run(on_event: Listener) -> Mapping[str, Measured]:
        if device is None and not torch.cuda.is_available():
            raise ReferenceNotFound("not run: needs a GPU with CUDA, and this machine has none")
        place = device or torch.device("cuda")
        teacher_of, student_of = PAIRS[name]
        learned, judged = real(), test()
        teacher = train_teacher(teacher_of, learned, scale=scale, device=place, on_event=on_event)
        starts = []
        for seed in range(scale.students):
            with preserved_rng():
                torch.manual_seed(seed)
                starts.append(ImageNetwork(student_of(), image_shape=SHAPE, mean=MEAN, std=STD).to(place).eval())
        taught = teach(
            teacher,
            starts,
            test=judged,
            route=adaptive_route,
            dreams=scale.dreams,
            dream_steps=scale.dream_steps,
            teach_steps=scale.teach_steps,
            batch_size=scale.batch_size,
            control=False,
            on_event=on_event,
        )
        lessons = [seconds for stage, seconds in taught.seconds.items() if stage.startswith("teaching-dreams")]
        reached = next(line for line in taught.lines if line.images == "dreams").accuracy or ()
        kind = f"lowest and highest of {len(reached)} seeds"
        return {
            f"gpu-{name}": Measured(sum(reached) / len(reached), (min(reached), max(reached)), kind),
            f"gpu-{name}-lowest": Measured(min(reached)),
            f"gpu-{name}-teacher": Measured(evaluate(teacher, judged).accuracy.value),
            f"gpu-{name}-time": Measured(taught.seconds["dreaming"] + sum(lessons) / len(lessons)),
        }

    return run
