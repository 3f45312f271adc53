"""Teach one block to stand in for another, by itself: what goes in and what comes out are the teacher's.

What for: cheap stand-ins for a network's operators, made independently of each other, many from the same passes of the
teacher. Cost: per step one forward pass of the teacher, and one forward and backward pass of every candidate.

Source: Molchanov et al., 2022, arXiv:2107.10624, section 3.2 ("LANA": layer-wise pretraining of candidates).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reverie.core.augment import Augment, still
from reverie.core.errors import Diverged, RangeError, ReferenceNotFound, ShapeError
from reverie.core.events import Event, Listener, silent
from reverie.core.network import ImageNetwork
from reverie.core.rng import derive_seed, generator, preserved_rng, seed_global
from reverie.core.source import Source
from reverie.core.tap import tap
from reverie.distill.feature_losses import feature_loss
from reverie.distill.features import feature_of
from reverie.distill.schedules import Schedule, cosine

__all__ = ["Candidate", "TaughtBlock", "distill_blocks"]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A block that shall stand in for a layer of the teacher.

    Attributes:
        layer: Qualified name of the teacher's layer.
        block: Takes what the layer takes, gives what it gives.

    Example:
        >>> Candidate("layer1.0", nn.Conv2d(16, 16, 1)).layer
        'layer1.0'
    """

    layer: str
    block: nn.Module


@dataclass(frozen=True, eq=False)
class TaughtBlock:
    """A block after its lessons.

    Attributes:
        layer: The teacher's layer that it stands in for.
        block: A copy of the candidate's, trained, in evaluation mode.
        error: |block - layer|^2 / |layer|^2 on held-out images, in evaluation mode: 0 is perfect, 1 is silence.
        error_before: The same before the first step.

    Example:
        >>> from reverie.core.source import noise_source
        >>> teacher = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
        >>> source = noise_source(count=16, image_shape=(1, 4, 4), seed=0)
        >>> (taught,) = distill_blocks(teacher, [Candidate("0", nn.Conv2d(1, 2, 3))], source, steps=4)
        >>> taught.layer, taught.block.training
        ('0', False)
    """

    layer: str
    block: nn.Module
    error: float
    error_before: float


def distill_blocks(
    teacher: nn.Module,
    candidates: Sequence[Candidate],
    source: Source,
    *,
    steps: int = 200,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    schedule: Schedule = cosine,
    views: Augment = still,
    held_out: float = 0.1,
    seed: int = 0,
    on_event: Listener = silent,
) -> tuple[TaughtBlock, ...]:
    """Train copies of blocks to compute, from a layer's input, what the teacher's layer computes.

    Each minimizes |block(input) - output|^2 / |output|^2 by Adam, alone: the input is the teacher's own, so errors of
    one block never reach another, and the order of candidates does not matter.

    Args:
        teacher: Takes images in [0, 1]; untouched.
        candidates: At least one; several may stand in for one layer. A block without parameters is only judged.
        source: The images; labels are not read.
        steps: At least 1.
        batch_size: At least 2.
        learning_rate: Its peak, above 0.
        schedule: Share of the peak at each step.
        views: How images are varied.
        held_out: Share of the source that only judges, in (0, 1).
        seed: Decides the split, the order and the views.
        on_event: Called with the stage "distilling blocks" at every step.

    Raises:
        RangeError: A number outside its range, or no candidate.
        ReferenceNotFound: The teacher lacks a layer.
        ShapeError: A block does not take what its layer takes, or gives another shape.
        Diverged: A block's error is not finite; the message names it.

    Example:
        >>> from reverie.core.source import noise_source
        >>> teacher = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> source = noise_source(count=64, image_shape=(1, 2, 2), seed=0)
        >>> (found,) = distill_blocks(teacher, [Candidate("1", nn.Linear(4, 4))], source, steps=50, batch_size=16)
        >>> found.error < found.error_before
        True

    Fails when: a layer is called more than once in a pass; the last call is the one that is learned.

    Reference: Molchanov et al., 2022, arXiv:2107.10624, section 3.2. Differs: relative errors, so one rate serves all.
    """
    _check(candidates, steps=steps, batch_size=batch_size, learning_rate=learning_rate)
    if isinstance(teacher, ImageNetwork):
        teacher.check_images(source.images)
    rest, held = source.split(held_out=held_out, seed=seed)
    with preserved_rng():
        lessons = _Lessons(teacher, candidates)
        before = lessons.errors(held, batch_size)
        optimizers = [
            torch.optim.Adam(block.parameters(), lr=learning_rate) if list(block.parameters()) else None
            for block in lessons.blocks
        ]
        batches = rest.batches(batch_size=batch_size, seed=seed)
        for step in range(steps):
            images = views(rest.floats(next(batches)), generator(seed, "views", step))
            rate = learning_rate * schedule(step, steps)
            lessons.step(images, optimizers, rate, seed=derive_seed(seed, "blocks", step))
            on_event(Event("distilling blocks", step + 1, steps))
        after = lessons.errors(held, batch_size)
    for candidate, error in zip(candidates, after, strict=True):
        if not error < float("inf"):
            raise Diverged(
                f"the block for {candidate.layer!r} ends with an error of {error} after {steps} steps at learning rate "
                f"{learning_rate:g}. Take a lower learning rate."
            )
    return tuple(
        TaughtBlock(candidate.layer, block, error, first)
        for candidate, block, error, first in zip(candidates, lessons.blocks, after, before, strict=True)
    )


class _Lessons:
    """The teacher and copies of the blocks."""

    def __init__(self, teacher: nn.Module, candidates: Sequence[Candidate]) -> None:
        self.teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
        self.candidates = candidates
        self.device = next((one.device for one in self.teacher.parameters()), torch.device("cpu"))
        self.blocks = [copy.deepcopy(one.block).to(self.device).requires_grad_(True).eval() for one in candidates]
        self.layers = {candidate.layer for candidate in candidates}
        known = dict(self.teacher.named_modules())
        for layer in sorted(self.layers - known.keys()):
            raise ReferenceNotFound(
                f"{layer!r} is no layer of the teacher; it has {', '.join(sorted(known)[1:6])}, ..."
            )

    def step(self, images: Tensor, optimizers: Sequence[torch.optim.Adam | None], rate: float, *, seed: int) -> None:
        lessons = self._read(images)
        for candidate, block, adam in zip(self.candidates, self.blocks, optimizers, strict=True):
            if adam is None:
                continue
            for group in adam.param_groups:
                group["lr"] = rate
            given, wanted = lessons[candidate.layer]
            block.train()
            # Every block draws as if it were alone.
            seed_global(seed)
            error = feature_loss(self._answer(candidate, block, given, wanted), wanted)
            adam.zero_grad(set_to_none=True)
            error.backward()
            adam.step()
            block.eval()

    def errors(self, held: Source, batch_size: int) -> list[float]:
        """Of every block over all held-out images."""
        wrong, size = ([0.0] * len(self.blocks) for _ in range(2))
        for start in range(0, len(held), batch_size):
            lessons = self._read(held.floats(slice(start, start + batch_size)))
            for index, (candidate, block) in enumerate(zip(self.candidates, self.blocks, strict=True)):
                given, wanted = lessons[candidate.layer]
                with torch.no_grad():
                    answer = self._answer(candidate, block, given, wanted)
                wrong[index] += float((answer - wanted).double().square().sum())
                size[index] += float(wanted.double().square().sum())
        return [part / max(whole, 1e-12) for part, whole in zip(wrong, size, strict=True)]

    def _read(self, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        with torch.no_grad(), tap(self.teacher, self.layers) as seen:
            self.teacher(images.to(self.device))
        wanted = {layer: feature_of(seen, layer) for layer in sorted(self.layers)}
        return {layer: (seen[layer].input.clone(), answer) for layer, answer in wanted.items()}

    @staticmethod
    def _answer(candidate: Candidate, block: nn.Module, given: Tensor, wanted: Tensor) -> Tensor:
        try:
            answer: Tensor = block(given)
        except RuntimeError as error:
            raise ShapeError(
                f"the block for {candidate.layer!r} cannot take its input {tuple(given.shape)} "
                f"({str(error).splitlines()[0]}). Build it for the widths of that layer."
            ) from error
        if answer.shape != wanted.shape:
            raise ShapeError(
                f"the block for {candidate.layer!r} gives {tuple(answer.shape)}, the layer {tuple(wanted.shape)}. "
                "Build it for the widths of that layer."
            )
        return answer


def _check(candidates: Sequence[Candidate], *, steps: int, batch_size: int, learning_rate: float) -> None:
    if not candidates:
        raise RangeError("there is no candidate to teach; give at least one")
    if steps < 1 or batch_size < 2 or not learning_rate > 0:
        raise RangeError(
            f"teaching blocks needs steps >= 1, batch_size >= 2 and learning_rate > 0, got {steps}, {batch_size} and "
            f"{learning_rate}"
        )
