"""Images of what a network learned, from its weights alone.

Cost: `steps` forward and backward passes of the frozen network per batch.
Source: Yin et al. 2020, arXiv:1912.08795, section 3.2. Differs: statistics are relative and averaged over layers,
every image is shifted and flipped on its own, and one recipe serves all networks.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.digest import sha256_tensors
from reverie.core.errors import RangeError, ShapeError, StatisticsMissing
from reverie.core.events import Event, Listener, silent
from reverie.core.modes import frozen
from reverie.core.network import ImageNetwork, as_network
from reverie.core.rng import derive_seed, generator, preserved_rng
from reverie.dream.bank import Bank, Folder, Shard
from reverie.dream.canvas import Augment, PixelCanvas, ShiftAndFlip
from reverie.dream.loop import choose_precision, optimize
from reverie.dream.statistics import moments
from reverie.dream.terms import Term, View, class_term, describe, norm_term, statistics_term, total_variation_term

__all__ = ["balanced_targets", "default_term", "dream"]

STEPS = 200
LEARNING_RATE = 0.1
# Memory of a batch: as many pixels as 512 images of 32 by 32.
BATCH_PIXELS = 2**19
LARGEST_BATCH = 128
SMALLEST_BATCH = 8
# A largest shift of one fourteenth of the side is 2 pixels at 28 and 32, 16 at 224.
SHIFT_SHARE = 1 / 14


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
    path: Path | str | None = None,
    on_event: Listener = silent,
) -> Bank:
    """Synthesize images that a classifier recognizes, with the statistics of the data it was trained on.

    Shapes: images (count, c, h, w) uint8, labels (count,), logits (count, k).

    Args:
        model: A classifier of images: an `ImageNetwork`, or a plain module together with `image_shape`.
        count: How many images, >= 1.
        image_shape: (c, h, w); the network's own where None.
        targets: The class of each image; None takes every class in turn, in an order drawn from `seed`.
        steps: Optimization steps of each batch, >= 1; None takes 200. Below 50 few images are finished.
        batch_size: Images optimized together, >= 1; None takes up to 128, fewer the larger they are.
        seed: Same seed, same bytes, on one machine with one number of threads.
        term: What the images should satisfy; None is `default_term()`.
        augment: What the network is shown of the images in each step; None shifts each by up to 1/14 of its side and
            mirrors half of them. Where left and right differ, as in writing: `ShiftAndFlip(2, flip=False)`.
        path: Folder to keep the bank in, batch by batch; a killed run goes on there. None keeps it in memory.
        on_event: Told of every step.

    Raises:
        RangeError: A number lies outside its range.
        ShapeError: The network does not take such images, or returns no single-label logits (n, k), k >= 2.
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
    shape = _checked_shape(network, image_shape)
    for name, value in (("count", count), ("steps", steps), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise RangeError(f"{name} must be at least 1, got {value}")
    term = term if term is not None else default_term()
    with preserved_rng():
        classes = _count_classes(network, shape, term)
        targets = balanced_targets(count, classes, seed=seed) if targets is None else targets
        plan = _Plan(
            shape,
            _checked_targets(targets, count, classes),
            batch_size or default_batch_size(shape),
            steps or STEPS,
            seed,
            term,
            augment or ShiftAndFlip(round(SHIFT_SHARE * min(shape[-2:]))),
            choose_precision(network),
        )
        return _dream(network, plan, Path(path) if path is not None else None, on_event)


def default_term() -> Term:
    """The recipe: be recognized, have the right statistics, be smooth, and a trace of the norm.

    class + 5 statistics + total variation + 0.001 norm, each as in `reverie.dream.terms`.
    """
    return class_term() + 5.0 * statistics_term() + total_variation_term() + 0.001 * norm_term()


def default_batch_size(image_shape: Sequence[int]) -> int:
    """As many images as fit in a bounded memory, from 8 to 128."""
    return max(SMALLEST_BATCH, min(LARGEST_BATCH, BATCH_PIXELS // (image_shape[-2] * image_shape[-1])))


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
    with Folder.open(path, config, _teacher_sha256(network)) as folder:
        for index in range(len(folder.shards), plan.batches):
            folder.add(_dream_batch(network, plan, index, on_event))
        return Bank.from_shards(folder.shards, config, path)


def _dream_batch(network: ImageNetwork, plan: _Plan, index: int, on_event: Listener) -> Shard:
    start = index * plan.batch_size
    device = network.mean.device
    labels = plan.targets[start : start + plan.batch_size]
    seeds = [derive_seed(plan.seed, "dream", "image", start + offset) for offset in range(len(labels))]
    canvas = PixelCanvas.noise(seeds, plan.image_shape, device=device)
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
        on_event=_placed(on_event, index * plan.steps, plan.batches * plan.steps),
    )
    images = (result.images * 255).round().to(torch.uint8).contiguous()
    with frozen(network), torch.no_grad():
        logits = network(images.float() / 255).float().cpu()
    shard = Shard(images.cpu(), labels, logits, torch.tensor(seeds))
    agreement = float((logits.argmax(1) == labels).float().mean())
    figures = {"teacher_agreement_share": agreement, **result.losses}
    on_event(Event("dreaming", (index + 1) * plan.steps, plan.batches * plan.steps, figures))
    return shard


def _teacher_sha256(network: nn.Module) -> str:
    return sha256_tensors({**dict(network.named_parameters()), **dict(network.named_buffers())})


def _placed(on_event: Listener, before: int, total: int) -> Listener:
    """Tell of the steps of one batch as steps of the whole."""
    return lambda event: on_event(Event(event.stage, before + event.step, total, event.figures))


def _checked_shape(network: ImageNetwork, image_shape: Sequence[int] | None) -> tuple[int, ...]:
    shape = tuple(network.image_shape if image_shape is None else image_shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ShapeError(f"image_shape must be (channels, height, width), all at least 1, got {shape}")
    if shape[0] != network.image_shape[0]:
        raise ShapeError(
            f"asked for images of {shape[0]} channels, the network takes {network.image_shape[0]}. "
            f"Ask for image_shape=({network.image_shape[0]}, {shape[1]}, {shape[2]})."
        )
    return shape


def _checked_targets(targets: Sequence[int] | Tensor, count: int, classes: int) -> Tensor:
    chosen = torch.as_tensor(targets, dtype=torch.int64).cpu()
    if chosen.shape != (count,):
        raise ShapeError(f"targets must name one class for each of {count} images, got shape {tuple(chosen.shape)}")
    if not bool(((chosen >= 0) & (chosen < classes)).all()):
        raise RangeError(f"targets must lie in 0..{classes - 1}, got {int(chosen.min())}..{int(chosen.max())}")
    return chosen


def _count_classes(network: ImageNetwork, shape: tuple[int, ...], term: Term) -> int:
    """Length of the logits, after showing the network two gray images and the term what came of them."""
    images = torch.full((2, *shape), 0.5, device=network.mean.device)
    with frozen(network), torch.no_grad(), moments(network) as seen:
        try:
            logits = network(images)
        except (RuntimeError, ValueError, IndexError) as error:
            asked = f"{shape[0]} channels, {shape[1]} by {shape[2]} pixels"
            raise ShapeError(
                f"{type(network.body).__name__} cannot take images of {asked} ({str(error).splitlines()[0]}). "
                "Ask for larger images, or for the number of channels that its first layer takes."
            ) from error
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 2 or logits.shape[1] < 2:
            found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise ShapeError(
                f"{type(network.body).__name__} returned {found} for 2 images; dreams by class need logits (2, k) with "
                "k >= 2, one for each class. Wrap the network so that it returns them."
            )
        _try_term(
            network, term, View(images, logits.float(), torch.zeros(2, dtype=torch.int64, device=images.device), seen)
        )
    return logits.shape[1]


def _try_term(network: ImageNetwork, term: Term, view: View) -> None:
    try:
        term(view)
    except StatisticsMissing as error:
        kinds = Counter(type(module).__name__ for module in network.modules() if "Norm" in type(module).__name__)
        found = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no normalization layer"
        raise StatisticsMissing(
            f"the recipe matches batch-norm statistics; {type(network.body).__name__} stores none (found: {found}). "
            "Pass a term without them, such as class_term() + 0.5 * total_variation_term()."
        ) from error
