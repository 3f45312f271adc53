"""What one step of dreaming costs, beside the floor: a bare pass of the same frozen network in fp32.

A bare pass is forward, cross-entropy and the gradient with respect to the images, and nothing else. Both are measured
in turn in one process, and the figure is the median of their ratios.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.bench.figure import Measured
from reverie.core.events import Event, Listener
from reverie.core.modes import frozen
from reverie.core.network import ImageNetwork
from reverie.dream import PixelCanvas, ShiftAndFlip, default_term, optimize
from reverie.zoo.load import load

__all__ = ["step_ratio"]

# Steps of one round; the first one is not counted, because it also sets up the optimization.
STEPS = 4
SHIFT_SHARE = 1 / 14


def step_ratio(model: str, *, batch: int, size: int | None = None, rounds: int = 9) -> Callable[[Listener], Measured]:
    """A measurement of seconds per dreaming step over seconds per bare pass.

    Args:
        model: Reference of the network.
        batch: Images at once.
        size: Height and width; the network's own where None.
        rounds: Rounds; each times a few steps and as many bare passes.
    """

    def run(on_event: Listener) -> Measured:
        network = load(model)
        channels, height, width = network.image_shape
        shape = (channels, height, width) if size is None else (channels, size, size)
        targets = torch.arange(batch) % 10
        ratios = []
        # The first round warms up caches and is not counted.
        for turn in range(rounds + 1):
            step = _step_seconds(network, shape, targets)
            bare = _bare_seconds(network, shape, targets)
            if turn:
                ratios.append(step / bare)
            on_event(Event(f"timing steps of {model}", turn, rounds))
        tenths = statistics.quantiles(ratios, n=10, method="inclusive")
        spread = (tenths[0], tenths[-1])
        return Measured(statistics.median(ratios), spread, "10th and 90th percentile of the rounds")

    return run


def _step_seconds(network: ImageNetwork, shape: tuple[int, int, int], targets: Tensor) -> float:
    """Seconds per step of the loop as `reverie.dream.dream` runs it."""
    stamps: list[float] = []
    optimize(
        network,
        PixelCanvas.noise(list(range(len(targets))), shape),
        term=default_term(),
        targets=targets,
        steps=STEPS,
        augment=ShiftAndFlip(round(SHIFT_SHARE * min(shape[-2:]))),
        seed=0,
        on_event=lambda _: stamps.append(time.perf_counter()),
    )
    return (stamps[-1] - stamps[0]) / (len(stamps) - 1)


def _bare_seconds(network: ImageNetwork, shape: tuple[int, int, int], targets: Tensor) -> float:
    """Seconds per forward and backward pass to the images."""
    images = torch.full((len(targets), *shape), 0.5, requires_grad=True)
    with frozen(network):
        began = time.perf_counter()
        for _ in range(STEPS - 1):
            torch.autograd.grad(F.cross_entropy(network(images), targets), images)
        return (time.perf_counter() - began) / (STEPS - 1)
