"""The one optimization loop: change a canvas until what the network reports satisfies a term.

Cost: one forward pass and one gradient with respect to the images per step; nothing else is of that size. Parameters
are frozen, no value is read back inside a step, memory is channels-last, and arithmetic is bfloat16 where that pays.

Source: Adam with betas (0.5, 0.9) and a cosine schedule for images, Yin et al. 2020, arXiv:1912.08795.
"""

import copy
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reverie.core.augment import Augment
from reverie.core.counts import check_counts
from reverie.core.errors import Diverged, RangeError
from reverie.core.events import Event, Listener, silent
from reverie.core.modes import frozen
from reverie.core.precision import choose_precision
from reverie.core.rng import generator
from reverie.core.tap import Reading, Selector, tap
from reverie.dream.canvas import Canvas
from reverie.dream.layer_statistics import BatchNormStatistics, StatisticsSource
from reverie.dream.statistics import Moments
from reverie.dream.terms import Term, View

__all__ = ["Optimized", "optimize"]

BETAS = (0.5, 0.9)


@dataclass(frozen=True, eq=False)
class Optimized:
    """Where an optimization ended.

    Attributes:
        images: (n, c, h, w) float32 in [0, 1]: the last iterate.
        losses: Weighted value of each part of the term in the last step, by name.

    Example:
        >>> found = Optimized(torch.zeros(1, 1, 2, 2), {"class": 0.5, "norm": 0.25})
        >>> sum(found.losses.values())
        0.75
    """

    images: Tensor
    losses: Mapping[str, float]


def optimize(
    network: nn.Module,
    canvas: Canvas,
    *,
    term: Term,
    targets: Tensor,
    steps: int,
    augment: Augment,
    seed: int,
    learning_rate: float = 0.1,
    precision: torch.dtype | None = None,
    taps: Selector | None = None,
    statistics: StatisticsSource | None = None,
    on_event: Listener = silent,
) -> Optimized:
    """Optimize a canvas in place for a term, and return what it shows in the end.

    Args:
        network: Takes the canvas's images and returns one tensor; it works on a private copy, in evaluation mode.
        canvas: What is optimized.
        term: What is made small.
        targets: What is asked for, as the term reads it: (n,) int64 classes for `class_term`.
        steps: Number of Adam steps, >= 1.
        augment: What the network is shown of the images in each step.
        seed: Seed of the augmentation.
        learning_rate: Of the first step, in units of the pixel range; a cosine takes it to zero.
        precision: `torch.float32` or `torch.bfloat16`; None decides by `choose_precision`.
        taps: Layers whose inputs and outputs the term reads.
        statistics: Which moments the term sees beside which; None is `BatchNormStatistics`.
        on_event: Told of every step.

    Raises:
        RangeError: `steps` or `learning_rate` is not positive, or the term is empty.
        Diverged: The images are not finite in the end.

    Example:
        >>> from reverie.dream import PixelCanvas, ShiftAndFlip, class_term
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> canvas = PixelCanvas(torch.full((1, 1, 2, 2), 0.5))
        >>> result = optimize(network, canvas, term=class_term(), targets=torch.tensor([1]), steps=2,
        ...                   augment=ShiftAndFlip(0), seed=0)
        >>> sorted(result.losses)
        ['class']
    """
    check_counts(steps=steps)
    if not learning_rate > 0:
        raise RangeError(f"learning_rate must be positive, got {learning_rate}")
    if not term.parts:
        raise RangeError("the term is empty: it asks for nothing. Give it a part of weight above 0, as class_term() is")
    precision = precision or choose_precision(network)
    parameters = list(canvas.parameters())
    adam = torch.optim.Adam(parameters, lr=learning_rate, betas=BETAS, fused=True)
    rng = generator(seed, "augment")
    losses: dict[str, Tensor] = {}
    with ExitStack() as stack:
        network = _private(network)
        stack.enter_context(frozen(network))
        seen: Mapping[str, Reading] = stack.enter_context(tap(network, taps)) if taps is not None else {}
        noted: list[Moments] = stack.enter_context((statistics or BatchNormStatistics())(network))
        for step in range(steps):
            for group in adam.param_groups:
                group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            images = augment(canvas.images(), rng)
            # A generator's own normalization, noted while it drew them, is none of the network's.
            noted.clear()
            with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
                logits = network(images)
            view = View(images, logits.float(), targets, tuple(noted), seen, step / steps)
            losses = term.report(view)
            gradients = torch.autograd.grad(torch.stack(list(losses.values())).sum(), parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                # Fused Adam walks both through memory: it would silently mix up pixels of two layouts.
                same = gradient.stride() == parameter.stride()
                parameter.grad = gradient if same else torch.empty_like(parameter).copy_(gradient)
            adam.step()
            canvas.settle()
            on_event(Event("dreaming", step + 1, steps))
    images = canvas.images().detach().float()
    if not bool(torch.isfinite(images).all()):
        raise Diverged(
            f"the images are not finite after {steps} steps at learning rate {learning_rate}. "
            "Lower the learning rate, or the weights of the term."
        )
    return Optimized(images, {name: float(value.detach()) for name, value in losses.items()})


def _private(network: nn.Module) -> nn.Module:
    """A copy with channels-last weights: the caller's network is not touched, so nothing has to be put back."""
    private = copy.deepcopy(network)
    for parameter in private.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return private
