"""Images of what a network learned, from its weights alone.

Cost: `steps` forward and backward passes of the frozen network per batch.
Source: Yin et al. 2020, arXiv:1912.08795, section 3.2. Differs: statistics are relative and averaged over layers,
every image is shifted, zoomed, turned and mirrored on its own, what is optimized are Fourier coefficients, and one
recipe serves all networks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.errors import RangeError, ShapeError
from reverie.core.events import Event, Listener, silent
from reverie.core.modes import frozen
from reverie.core.network import ImageNetwork, as_network
from reverie.core.precision import choose_precision
from reverie.core.rng import derive_seed, generator, preserved_rng
from reverie.core.tap import Selector
from reverie.dream.bank import Bank, Folder, Shard, teacher_sha256
from reverie.dream.calibrate import choose_statistics
from reverie.dream.canvas import Augment, RandomAffine, ShiftAndFlip
from reverie.dream.fourier import FourierCanvas
from reverie.dream.heads import Head, single_label
from reverie.dream.layer_statistics import StatisticsSource
from reverie.dream.loop import optimize
from reverie.dream.rehearsal import checked_shape, checked_targets, first_answer, sees_statistics, try_term
from reverie.dream.terms import Term, class_term, describe, norm_term, statistics_term, total_variation_term

__all__ = ["balanced_targets", "default_augment", "default_term", "dream", "prior_term"]

STEPS = 250
LEARNING_RATE = 0.05
# Memory of a batch: as many pixels as 512 images of 32 by 32.
BATCH_PIXELS = 2**19
LARGEST_BATCH = 128
SMALLEST_BATCH = 8
# A largest shift of one tenth of the side is 3 pixels at 28 and 32, 22 at 224.
SHIFT_SHARE = 1 / 10


@dataclass(frozen=True)
class _Plan:
    """What is dreamed, batch by batch: everything that decides the bytes but the network."""

    image_shape: tuple[int, ...]
    targets: Tensor
    batch_size: int
    steps: int
    seed: int
    term: Term
    augment: Augment
    precision: torch.dtype
    head: Head
    statistics: StatisticsSource
    taps: Selector | None

    @property
    def batches(self) -> int:
        return -(-len(self.targets) // self.batch_size)

    def config(self) -> dict[str, Any]:
        return {
            "count": len(self.targets),
            "image_shape": list(self.image_shape),
            "targets": self.targets.tolist(),
            "batch_size": self.batch_size,
            "steps": self.steps,
            "seed": self.seed,
            "term": self.term.describe(),
            "learning_rate": LEARNING_RATE,
            "augment": describe(self.augment),
            "precision": str(self.precision).removeprefix("torch."),
            "head": self.head.name,
            "statistics": self.statistics.describe(),
            "taps": None if self.taps is None else getattr(self.taps, "__name__", str(self.taps)),
        }


def dream(
    model: nn.Module,
    *,
    count: int,
    image_shape: Sequence[int] | None = None,
    targets: Sequence[int] | Tensor | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    term: Term | None = None,
    augment: Augment | None = None,
    head: Head | None = None,
    statistics: StatisticsSource | None = None,
    taps: Selector | None = None,
    path: Path | str | None = None,
    on_event: Listener = silent,
) -> Bank:
    """Synthesize images that a network answers as asked, with the statistics of the data it was trained on.

    Shapes: images (count, c, ...) uint8, labels (count,), logits (count, k); other heads have labels (count, ...).

    Args:
        model: A classifier of images: an `ImageNetwork`, or a plain module together with `image_shape`.
        count: How many images, >= 1.
        image_shape: (c, length), (c, h, w) or (c, d, h, w); the network's own where None.
        targets: The class of each image; None takes every class in turn, in an order drawn from `seed`. For other
            heads, what the head takes for each image.
        steps: Optimization steps of each batch, >= 1; None takes 250. Below 50 few images are finished.
        batch_size: Images optimized together, >= 1; None takes up to 128, fewer the larger they are.
        seed: Same seed, same bytes, on one machine with one number of threads.
        term: What the images should satisfy, the head's own part included; None is `default_term()`, with the head's
            part in place of the class, and `prior_term()` where there are no statistics.
        augment: What the network is shown of the images in each step; None is `default_augment`: each is shifted,
            zoomed, turned and perhaps mirrored. Where left and right differ: `RandomAffine(3, flip=False)`.
        head: What kind of answer the network gives; None is `single_label()`. See `reverie.dream.heads`.
        statistics: Which moments the images should have; None takes those of batch normalization where stored, else
            calibrates some; see `reverie.dream.calibrate.choose_statistics`. The bank's configuration names the origin.
        taps: Layers that the term reads, such as `attention_layers` for `patch_similarity_term`.
        path: Folder to keep the bank in, batch by batch; a killed run goes on there, and several processes that ask for
            the same share the work. None keeps it in memory.
        on_event: Told of every step.

    Raises:
        RangeError: A number lies outside its range.
        ShapeError: The network does not take such images, or its answer does not fit the head: for single labels,
            logits (n, k) with k >= 2.
        StatisticsMissing: The term asks for batch-norm statistics that the network lacks.
        FolderInUse: `path` holds something else.
        Diverged: The images are not finite.

    Example:
        >>> body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> bank = dream(body, count=3, image_shape=(1, 8, 8), steps=2)
        >>> bank.images.shape, bank.logits.shape
        (torch.Size([3, 1, 8, 8]), torch.Size([3, 2]))

    Fails when: batches are small (below about 16 images): their statistics say little, and images resemble each other.
    """
    network = as_network(model, image_shape)
    shape = checked_shape(network, image_shape)
    for name, value in (("count", count), ("steps", steps), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise RangeError(f"{name} must be at least 1, got {value}")
    head = head or single_label()
    with preserved_rng():
        answer = first_answer(network, shape, head)
        if targets is None:
            _check_drawn(head, count)
            targets = balanced_targets(count, answer.shape[1], seed=seed)
        asked = checked_targets(targets, count, answer, head)
        statistics = statistics or choose_statistics(network, image_shape=shape)
        if term is None:
            term = _recipe(head, sees_statistics(network, shape, statistics))
        try_term(network, term, shape, asked, statistics=statistics, taps=taps)
        plan = _Plan(
            shape,
            asked,
            batch_size or default_batch_size(shape),
            steps or STEPS,
            seed,
            term,
            augment or default_augment(shape),
            choose_precision(network),
            head,
            statistics,
            taps,
        )
        return _dream(network, plan, Path(path) if path is not None else None, on_event)


def default_term() -> Term:
    """The recipe: be recognized, have the right statistics, be smooth, and a trace of the norm.

    class + 5 statistics + total variation + 0.001 norm, each as in `reverie.dream.terms`.
    """
    return class_term() + 5.0 * statistics_term() + total_variation_term() + 0.001 * norm_term()


def prior_term() -> Term:
    """The recipe without statistics: be recognized, and be smooth.

    class + 10 total variation + 0.001 norm. Of networks whose statistics are known it gives the poorer images; measured
    on a CIFAR-10 ResNet-20, two others recognize 51 % of such dreams, and 84 % of those with statistics.
    """
    return class_term() + 10.0 * total_variation_term() + 0.001 * norm_term()


def default_augment(image_shape: Sequence[int]) -> Augment:
    """What a network is shown of images in each step: they are shifted, zoomed, turned and mirrored.

    Args:
        image_shape: (c, h, w); images of other numbers of dimensions are shifted and mirrored only.
    """
    shift = round(SHIFT_SHARE * min(image_shape[1:]))
    return RandomAffine(shift) if len(image_shape) == 3 else ShiftAndFlip(shift)


def default_batch_size(image_shape: Sequence[int]) -> int:
    """As many images as fit in a bounded memory, from 8 to 128."""
    return max(SMALLEST_BATCH, min(LARGEST_BATCH, BATCH_PIXELS // math.prod(image_shape[1:])))


def balanced_targets(count: int, classes: int, *, seed: int) -> Tensor:
    """(count,) int64: every class in turn, in an order drawn from the seed, so counts differ by at most one.

    Example:
        >>> balanced_targets(6, 3, seed=0).bincount()
        tensor([2, 2, 2])
    """
    order = torch.randperm(classes, generator=generator(seed, "dream", "targets"))
    return order[torch.arange(count) % classes]


def _dream(network: ImageNetwork, plan: _Plan, path: Path | None, on_event: Listener) -> Bank:
    config = plan.config()
    if path is None:
        return Bank.from_shards([_dream_batch(network, plan, i, on_event) for i in range(plan.batches)], config)
    with Folder.open(path, config, teacher_sha256(network)) as folder:
        for index in folder.unfinished(plan.batches):
            folder.add(_dream_batch(network, plan, index, on_event), index)
        return Bank.from_shards(folder.shards, config, path, teacher_sha256=teacher_sha256(network))


def _dream_batch(network: ImageNetwork, plan: _Plan, index: int, on_event: Listener) -> Shard:
    start = index * plan.batch_size
    device = network.mean.device
    labels = plan.targets[start : start + plan.batch_size]
    seeds = [derive_seed(plan.seed, "dream", "image", start + offset) for offset in range(len(labels))]
    canvas = FourierCanvas(seeds, plan.image_shape, device=device)
    result = optimize(
        network,
        canvas,
        term=plan.term,
        targets=labels.to(device),
        steps=plan.steps,
        augment=plan.augment,
        seed=derive_seed(plan.seed, "dream", "batch", index),
        learning_rate=LEARNING_RATE,
        precision=plan.precision,
        taps=plan.taps,
        statistics=plan.statistics,
        on_event=_placed(on_event, index * plan.steps, plan.batches * plan.steps),
    )
    images = (result.images * 255).round().to(torch.uint8).contiguous()
    with frozen(network), torch.no_grad():
        logits = network(images.float() / 255).float().cpu()
    shard = Shard(images.cpu(), labels, logits, torch.tensor(seeds))
    agreement = float(plan.head.agreement(logits, labels).mean())
    figures = {"teacher_agreement_share": agreement, **result.losses}
    on_event(Event("dreaming", (index + 1) * plan.steps, plan.batches * plan.steps, figures))
    return shard


def _placed(on_event: Listener, before: int, total: int) -> Listener:
    """Tell of the steps of one batch as steps of the whole."""
    return lambda event: on_event(Event(event.stage, before + event.step, total, event.figures))


def _recipe(head: Head, with_statistics: bool) -> Term:
    """The recipe with the head's own part in place of the class."""
    parts = (default_term() if with_statistics else prior_term()).parts
    return head.term + Term(tuple(part for part in parts if part.name != "class"))


def _check_drawn(head: Head, count: int) -> None:
    if head.name != single_label().name:
        raise ShapeError(f"dreams for the head {head.name!r} need targets, one for each of {count} images")
