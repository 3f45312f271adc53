"""What one step of dreaming costs, beside the floor: a bare pass of the same frozen network in fp32.

A bare pass is forward, cross-entropy and the gradient with respect to the images, and nothing else. Both are timed in
turn in one process; the figure is the median of their ratios, with the set-up of the loop included.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.bench.figure import Measured
from reverie.core.events import Event, Listener
from reverie.core.modes import frozen
from reverie.core.network import ImageNetwork
from reverie.cost.timing import interleave
from reverie.dream import PixelCanvas, ShiftAndFlip, default_term, optimize
from reverie.zoo.load import load

__all__ = ["step_ratio"]

# Steps in a row, and bare passes in a row.
STEPS = 3
SHIFT_SHARE = 1 / 14


def step_ratio(
    model: str, *, batch: int, size: int | None = None, rounds: int = 9, seconds: float = 240.0
) -> Callable[[Listener], Measured]:
    """A measurement of seconds per dreaming step over seconds per bare pass.

    Args:
        model: Reference of the network.
        batch: Images at once.
        size: Height and width; the network's own where None.
        rounds: Rounds at most, at least 9.
        seconds: Stop after this time; nine rounds are always run.
    """

    def run(on_event: Listener) -> Measured:
        stage = f"timing steps of {model}"
        on_event(Event(stage, 0, 1))
        network = load(model)
        channels, height, width = network.image_shape
        shape = (channels, height, width) if size is None else (channels, size, size)
        targets = torch.arange(batch) % 10
        runs = {"bare": _bare(network, shape, targets), "step": _dreaming(network, shape, targets)}
        timing = interleave(runs, reference="bare", rounds=rounds, warmup=1, seconds=seconds)["step"]
        on_event(Event(stage, 1, 1))
        spread = (timing.ratio_p10, timing.ratio_p90)
        return Measured(timing.ratio_median, spread, "10th and 90th percentile of the rounds")

    return run


def _dreaming(network: ImageNetwork, shape: tuple[int, int, int], targets: Tensor) -> Callable[[], object]:
    """The loop as `reverie.dream.dream` runs it."""
    augment, term = ShiftAndFlip(round(SHIFT_SHARE * min(shape[-2:]))), default_term()

    def run() -> object:
        canvas = PixelCanvas.noise(list(range(len(targets))), shape)
        return optimize(network, canvas, term=term, targets=targets, steps=STEPS, augment=augment, seed=0)

    return run


def _bare(network: ImageNetwork, shape: tuple[int, int, int], targets: Tensor) -> Callable[[], object]:
    """Forward and backward passes to the images."""
    images = torch.rand(len(targets), *shape, generator=torch.Generator().manual_seed(0))

    def run() -> None:
        with frozen(network):
            for _ in range(STEPS):
                pixels = images.clone().requires_grad_()
                torch.autograd.grad(F.cross_entropy(network(pixels), targets), pixels)

    return run
