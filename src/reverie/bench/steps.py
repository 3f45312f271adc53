"""What one step of dreaming costs, beside the floor: a bare pass of the same frozen network in fp32.

A bare pass is forward, cross-entropy and the gradient with respect to the images, and nothing else. The textbook step
is what plain code does. All are timed in turn in one process; a figure is the median of the ratios to the bare pass,
with the set-up of the loop included.
"""

import copy
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.bench.figure import Measured
from reverie.core.events import Event, Listener
from reverie.core.modes import frozen
from reverie.core.network import ImageNetwork
from reverie.cost.timing import interleave
from reverie.dream import FourierCanvas, default_augment, default_term, optimize
from reverie.zoo.load import load

__all__ = ["step_ratios"]

# Steps in a row, and bare passes in a row.
STEPS = 3


def step_ratios(
    model: str, *, batch: int, names: str, size: int | None = None, rounds: int = 15, seconds: float = 120.0
) -> Callable[[Listener], Mapping[str, Measured]]:
    """A measurement of seconds per dreaming step over seconds per bare pass: ours, and the textbook's.

    Args:
        model: Reference of the network.
        batch: Images at once.
        names: The figures are called `NAMES` and `NAMES-textbook`.
        size: Height and width; the network's own where None.
        rounds: Rounds at most, at least 9.
        seconds: Stop after this time; nine rounds are always run.
    """

    def run(on_event: Listener) -> Mapping[str, Measured]:
        stage = f"timing steps of {model}"
        on_event(Event(stage, 0, 1))
        network = load(model)
        channels, height, width = network.image_shape
        shape = (channels, height, width) if size is None else (channels, size, size)
        targets = torch.arange(batch) % 10
        images = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0))
        runs = {
            "bare": _bare(network, images, targets),
            names: _dreaming(network, images, targets),
            f"{names}-textbook": _textbook(copy.deepcopy(network), images, targets),
        }
        timings = interleave(runs, reference="bare", rounds=rounds, warmup=1, seconds=seconds)
        on_event(Event(stage, 1, 1))
        kind = "10th and 90th percentile of the rounds"
        return {
            name: Measured(timing.ratio_median, (timing.ratio_p10, timing.ratio_p90), kind)
            for name, timing in timings.items()
            if name != "bare"
        }

    return run


def _dreaming(network: ImageNetwork, images: Tensor, targets: Tensor) -> Callable[[], object]:
    """The loop as `reverie.dream.dream` runs it."""
    shape = tuple(images.shape[1:])
    augment, term = default_augment(shape), default_term()

    def run() -> object:
        canvas = FourierCanvas(range(len(images)), shape)
        return optimize(network, canvas, term=term, targets=targets, steps=STEPS, augment=augment, seed=0)

    return run


def _bare(network: ImageNetwork, images: Tensor, targets: Tensor) -> Callable[[], object]:
    """Forward and backward passes to the images."""

    def run() -> None:
        with frozen(network):
            for _ in range(STEPS):
                pixels = images.clone().requires_grad_()
                torch.autograd.grad(F.cross_entropy(network(pixels), targets), pixels)

    return run


def _textbook(network: ImageNetwork, images: Tensor, targets: Tensor) -> Callable[[], object]:
    """Parameters that want gradients, hooks that compute mean and variance, norms of whole tensors, clip, Adam."""
    distances: list[Tensor] = []

    def read(module: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        variance = x.permute(1, 0, 2, 3).contiguous().view(x.shape[1], -1).var(1, unbiased=False)
        if module.running_var is not None and module.running_mean is not None:
            distances.append((variance - module.running_var).norm() + (x.mean((0, 2, 3)) - module.running_mean).norm())

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(read)

    def run() -> None:
        pixels = images.clone().requires_grad_()
        adam = torch.optim.Adam([pixels], lr=0.1, betas=(0.5, 0.9))
        for step in range(STEPS):
            distances.clear()
            seen = torch.roll(pixels, (step % 3 - 1, step % 2), (2, 3))
            seen = seen.flip(3) if step % 2 else seen
            loss = F.cross_entropy(network(seen), targets) + 0.1 * torch.stack(distances).sum()
            across, down = seen[..., 1:] - seen[..., :-1], seen[..., 1:, :] - seen[..., :-1, :]
            loss = loss + 1e-4 * (across.norm() + down.norm()) + 1e-5 * seen.norm()
            adam.zero_grad()
            network.zero_grad()
            loss.backward()
            adam.step()
            pixels.data.clamp_(0, 1)

    return run
