"""How a teacher's dreams are made for a student: pixel by pixel, by a generator, or round by round where it errs.

All three end in a bank, so what is taught and measured afterwards is the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from reverie.core.events import Listener
from reverie.core.network import ImageNetwork
from reverie.core.source import Source
from reverie.dream import Bank, dream
from reverie.dream.adaptive import adaptive_dreams
from reverie.dream.generator import generate

__all__ = ["Route", "Wanted", "adaptive_route", "generator_route", "pixel_route"]

ROUNDS = 3


@dataclass(frozen=True, eq=False)
class Wanted:
    """What a route is asked for.

    Attributes:
        teacher: Whose dreams.
        student: The first student, before its lessons.
        teach: Gives the student that the images of a source make of one.
        count: Dreams.
        steps: Optimization steps per dream; a generator has its own.
        seed: Decides all dreams.
        path: Folder to keep them in, or None.
        on_event: Told of every step.
    """

    teacher: ImageNetwork
    student: ImageNetwork
    teach: Callable[[nn.Module, Source], nn.Module]
    count: int
    steps: int
    seed: int
    path: Path | None
    on_event: Listener


Route = Callable[[Wanted], Bank]


def pixel_route(wanted: Wanted) -> Bank:
    """Every pixel of every dream is optimized: the finest images, the most steps.

    Example:
        >>> from reverie.core.events import silent
        >>> body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> teacher = ImageNetwork(body, image_shape=(1, 8, 8))
        >>> wanted = Wanted(teacher, teacher, lambda student, source: student, 4, 2, seed=0, path=None, on_event=silent)
        >>> pixel_route(wanted).images.shape
        torch.Size([4, 1, 8, 8])
    """
    return dream(
        wanted.teacher,
        count=wanted.count,
        steps=wanted.steps,
        seed=wanted.seed,
        path=wanted.path,
        on_event=wanted.on_event,
    )


def generator_route(wanted: Wanted) -> Bank:
    """One generator draws all dreams, in a few steps each: many images in little time.

    Example:
        >>> from reverie.core.events import silent
        >>> body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> teacher = ImageNetwork(body, image_shape=(1, 8, 8))
        >>> wanted = Wanted(teacher, teacher, lambda student, source: student, 4, 2, seed=0, path=None, on_event=silent)
        >>> generator_route(wanted).images.shape
        torch.Size([4, 1, 8, 8])
    """
    return generate(wanted.teacher, count=wanted.count, seed=wanted.seed, path=wanted.path, on_event=wanted.on_event)


def adaptive_route(wanted: Wanted) -> Bank:
    """Three rounds; after the first, dreams are where the student that was taught so far still errs.

    Example:
        >>> from reverie.core.events import silent
        >>> body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> teacher = ImageNetwork(body, image_shape=(1, 8, 8))
        >>> wanted = Wanted(teacher, teacher, lambda student, source: student, 4, 2, seed=0, path=None, on_event=silent)
        >>> adaptive_route(wanted).images.shape
        torch.Size([4, 1, 8, 8])
    """
    each = [wanted.count // ROUNDS] * (ROUNDS - 1)
    found = adaptive_dreams(
        wanted.teacher,
        wanted.student,
        teach=lambda student, pool, _: wanted.teach(student, pool),
        counts=[wanted.count - sum(each), *each],
        steps=wanted.steps,
        seed=wanted.seed,
        path=wanted.path,
        on_event=wanted.on_event,
    )
    return found.pool
