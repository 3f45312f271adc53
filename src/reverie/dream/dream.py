"""Images of what a network learned, from its weights alone.

Cost: `steps` forward and backward passes of the frozen network per batch.
Source: Yin et al. 2020, arXiv:1912.08795, section 3.2. Differs: statistics are relative and averaged over layers,
every image is shifted, zoomed, turned and mirrored on its own and left as it is in the end, what is optimized are
Fourier coefficients, and one recipe serves all networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.augment import Augment, still
from reverie.core.counts import check_counts
from reverie.core.describe import describe
from reverie.core.digest import sha256_network, sha256_tensors
from reverie.core.errors import RangeError
from reverie.core.events import Event, Listener, part_of, silent
from reverie.core.modes import frozen
from reverie.core.network import ImageNetwork, as_network
from reverie.core.precision import choose_precision
from reverie.core.rng import derive_seed, preserved_rng
from reverie.core.tap import Selector
from reverie.dream.answering import answering
from reverie.dream.bank import Bank, Folder, Shard
from reverie.dream.calibrate import choose_statistics
from reverie.dream.crops import from_the_start
from reverie.dream.fourier import FourierCanvas
from reverie.dream.heads import Head, single_label
from reverie.dream.layer_statistics import StatisticsSource
from reverie.dream.recipe import default_augment, default_batch_size, usual_learning_rate
from reverie.dream.rehearsal import asked_targets, checked_shape, first_answer, try_term, usual_term
from reverie.dream.running import with_fresh_memory
from reverie.dream.shard import eight_bits
from reverie.dream.stages import MakeCanvas, Stage, check_stages, finishing_stages, optimize_stages
from reverie.dream.targets import Draw
from reverie.dream.terms import Term

__all__ = ["dream"]

STEPS = 250


@dataclass(frozen=True)
class _Plan:
    """What is dreamed, batch by batch: everything that decides the bytes but the network."""

    image_shape: tuple[int, ...]
    targets: Tensor
    batch_size: int
    canvas: MakeCanvas
    stages: tuple[Stage, ...]
    seed: int
    term: Term
    augment: Augment | None
    precision: torch.dtype
    head: Head
    layer: str | None
    statistics: StatisticsSource
    taps: Selector | None

    @property
    def batches(self) -> int:
        return -(-len(self.targets) // self.batch_size)

    @property
    def steps(self) -> int:
        """Of one batch, at most."""
        return sum(stage.steps for stage in self.stages)

    def augmented(self, image_shape: Sequence[int]) -> Augment:
        """What the network is shown of images of a stage that does not say."""
        return self.augment or default_augment(image_shape)

    def afresh(self) -> "_Plan":
        """Running averages and curricula begin anew: no batch depends on another."""
        stages = tuple(replace(stage, augment=from_the_start(stage.augment)) for stage in self.stages)
        return replace(self, term=with_fresh_memory(self.term), stages=stages, augment=from_the_start(self.augment))

    def config(self) -> dict[str, Any]:
        return {
            "count": len(self.targets),
            "image_shape": list(self.image_shape),
            "targets": self.targets.tolist() if self.targets.ndim == 1 else _digest(self.targets),
            "batch_size": self.batch_size,
            "steps": sum(stage.steps for stage in self.stages if not stage.unseen_only),
            "seed": self.seed,
            "term": self.term.describe(),
            "canvas": describe(self.canvas),
            "stages": [stage.describe() for stage in self.stages],
            "augment": describe(self.augmented(self.image_shape)),
            "precision": str(self.precision).removeprefix("torch."),
            "head": self.head.name,
            "layer": self.layer,
            "statistics": self.statistics.describe(),
            "taps": _told(self.taps),
        }


def dream(
    model: nn.Module,
    *,
    count: int,
    image_shape: Sequence[int] | None = None,
    targets: Sequence[int] | Tensor | Draw | None = None,
    steps: int | None = None,
    stages: Sequence[Stage] | None = None,
    canvas: MakeCanvas = FourierCanvas,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    term: Term | None = None,
    augment: Augment | None = None,
    head: Head | None = None,
    layer: str | None = None,
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
        targets: The class of each image, or a draw: `balanced_targets`, or None, takes every class in turn, in an order
            from `seed`, `random_targets` each image's class by itself. For other heads, what the head takes for each.
        steps: Optimization steps of each batch, >= 1; None takes 250. Below 50 few images are finished.
        stages: Resolutions from coarse to fine, with their own steps and schedules, in place of `steps` and
            `learning_rate`; see `halving_stages`. The last iterate of the last stage is what is kept.
        canvas: What is optimized: `FourierCanvas`, `PixelCanvas.noise`, `white_noise` or `deep_image_prior`.
        learning_rate: Of the first step, > 0; half a cosine takes it to zero. None takes the canvas's usual one.
        batch_size: Images optimized together, >= 1; None takes up to 128, fewer the larger they are.
        seed: Same seed, same bytes, on one machine with one number of threads.
        term: What the images should satisfy, the head's own part included; None is `default_term()`, with the head's
            part in place of the class, and `prior_term()` where there are no statistics.
        augment: What the network is shown of the images in each step; None is `default_augment`: each is shifted,
            zoomed, turned and perhaps mirrored, or left as it is where the answer is a map; images that the network
            misses are then finished as they are, see `finishing_stages`. Where left and right differ:
            `RandomAffine(3, flip=False)`.
        head: What kind of answer the network gives; None is `single_label()`. See `reverie.dream.heads`.
        layer: The layer whose output is taken for the network's answer, such as `body.layer3` with `embedding()`.
        statistics: Which moments the images should have; None takes those of batch normalization where stored, else
            calibrates some; see `reverie.dream.calibrate.choose_statistics`. The bank's configuration names the origin.
        taps: Layers that the term reads, such as `attention_layers` for `patch_similarity_term`.
        path: Folder to keep the bank in, batch by batch; a killed run goes on there, and several processes share the
            work. None keeps it in memory.
        on_event: Told of every step.

    Raises:
        RangeError: A number lies outside its range.
        ShapeError: The network does not take such images, or its answer does not fit the head: for single labels,
            logits (n, k) with k >= 2.
        StatisticsMissing: Statistics were asked for that the network lacks.
        ReferenceNotFound: It has no such layer.
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
    network = network if layer is None else answering(network, layer)
    shape = checked_shape(network, image_shape)
    check_counts(count=count, steps=steps, batch_size=batch_size)
    chosen = _stages(stages, steps, learning_rate, canvas, varied=augment is None)
    head = head or single_label()
    with preserved_rng():
        sizes = dict.fromkeys(stage.image_shape(shape) for stage in chosen)
        answers = [first_answer(network, size, head) for size in sizes]
        asked = asked_targets(targets, count, answers, head, seed=seed)
        source = statistics or choose_statistics(network, image_shape=shape)
        if term is None:
            term = usual_term(network, shape, source, head, demanded=statistics is not None)
        try_term(network, term, shape, asked, statistics=source, taps=taps)
        size, precision = batch_size or default_batch_size(shape), choose_precision(network)
        views = augment or (still if _has_places(answers[-1]) else None)
        plan = _Plan(shape, asked, size, canvas, chosen, seed, term, views, precision, head, layer, source, taps)
        return _dream(network, plan, Path(path) if path is not None else None, on_event)


def _dream(network: ImageNetwork, plan: _Plan, path: Path | None, on_event: Listener) -> Bank:
    config = plan.config()
    if path is None:
        return Bank.from_shards([_dream_batch(network, plan, i, on_event) for i in range(plan.batches)], config)
    with Folder.open(path, config, sha256_network(network)) as folder:
        for index in folder.unfinished(plan.batches):
            folder.add(_dream_batch(network, plan, index, on_event), index)
        return Bank.from_shards(folder.shards, config, path, teacher_sha256=sha256_network(network))


def _dream_batch(network: ImageNetwork, plan: _Plan, index: int, on_event: Listener) -> Shard:
    plan, start = plan.afresh(), index * plan.batch_size
    device = network.mean.device
    labels = plan.targets[start : start + plan.batch_size]
    seeds = [derive_seed(plan.seed, "dream", "image", start + offset) for offset in range(len(labels))]

    def answers(images: Tensor) -> Tensor:
        with frozen(network), torch.no_grad():
            return network(images.float() / 255).float().cpu()

    def seen(images: Tensor) -> Tensor:
        return plan.head.agreement(answers(eight_bits(images)), labels).to(device) == 1

    result = optimize_stages(
        network,
        plan.canvas,
        seeds,
        plan.image_shape,
        stages=plan.stages,
        augment=plan.augmented,
        seen=seen,
        device=device,
        seed=derive_seed(plan.seed, "dream", "batch", index),
        on_event=part_of(on_event, before=index * plan.steps, total=plan.batches * plan.steps),
        term=plan.term,
        targets=labels.to(device),
        precision=plan.precision,
        taps=plan.taps,
        statistics=plan.statistics,
    )
    images = eight_bits(result.images)
    logits = answers(images)
    shard = Shard(images.cpu(), labels, logits, torch.tensor(seeds))
    agreement = float(plan.head.agreement(logits, labels).mean())
    figures = {"teacher_agreement_share": agreement, **result.losses}
    on_event(Event("dreaming", (index + 1) * plan.steps, plan.batches * plan.steps, figures))
    return shard


def _stages(
    stages: Sequence[Stage] | None, steps: int | None, learning_rate: float | None, canvas: MakeCanvas, *, varied: bool
) -> tuple[Stage, ...]:
    """The stages asked for, or those of the recipe; under views that somebody chose, one."""
    if stages is None:
        rate = usual_learning_rate(canvas) if learning_rate is None else learning_rate
        usual = finishing_stages(steps=steps or STEPS, learning_rate=rate)
        return check_stages(usual if varied else [Stage(steps or STEPS, learning_rate=rate)])
    if steps is not None or learning_rate is not None:
        raise RangeError("stages have steps and learning rates of their own: give either them, or steps and a rate")
    return check_stages(stages)


def _has_places(answer: Tensor) -> bool:
    """Whether an answer says what is where, as maps and feature maps do."""
    return answer[0].ndim > 1 and answer[0][0].numel() > 1


def _told(taps: Selector | None) -> str | None:
    """Which layers are read, in the same words whatever their order."""
    if taps is None:
        return None
    return describe(taps if callable(taps) else frozenset(taps))


def _digest(targets: Tensor) -> dict[str, Any]:
    """Which targets, where they are too many numbers for a manifest."""
    return {"shape": list(targets.shape), "sha256": sha256_tensors({"targets": targets})}
