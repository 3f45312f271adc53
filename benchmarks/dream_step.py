"""How long one dreaming step takes, beside a bare pass of the frozen network, interleaved in one process.

bare: forward and gradient with respect to the images, parameters frozen, float32, default memory layout.
textbook: what plain code does: parameters that want gradients, hooks that compute mean and variance, jitter by roll,
flip of the whole batch, norms of whole tensors, clip, Adam.
ours: `reverie.dream.optimize` with the default recipe, its set-up included.

Run: python benchmarks/dream_step.py
"""

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.modes import frozen
from reverie.cost.timing import Timing, interleave
from reverie.dream import PixelCanvas, ShiftAndFlip, default_term, optimize
from reverie.zoo.networks import CifarResNet

STEPS = 3
ROUNDS = 9


def resnet20_step() -> list[dict[str, Any]]:
    """The CIFAR-10 network of the zoo: widths 32, 64, 128, images of 32 by 32, batch 128; ask: 1.0."""
    network = CifarResNet(widths=(32, 64, 128))
    return dream_step("cifar10-resnet20", network, (128, 3, 32, 32), classes=10, ask=1.0)


def efficientnet_lite0_step() -> list[dict[str, Any]]:
    """EfficientNet-Lite0 at 224 by 224, batch 8; needs timm; ask: 0.9."""
    import timm

    network = timm.create_model("tf_efficientnet_lite0")
    return dream_step("efficientnet-lite0", network, (8, 3, 224, 224), classes=1000, ask=0.9)


def dream_step(
    name: str, network: nn.Module, shape: tuple[int, int, int, int], *, classes: int, ask: float
) -> list[dict[str, Any]]:
    """The ratios of one network, as plain figures: name, value, unit, ask, holds, spread (10th and 90th percentile).

    Weights do not decide how long a step takes, so the network need not be trained.
    """
    network.eval()
    targets = torch.arange(shape[0]) % classes
    timings = interleave(
        {
            "bare": bare(copy.deepcopy(network), shape, targets),
            "textbook": textbook(copy.deepcopy(network), shape, targets),
            "ours": ours(network, shape, targets),
        },
        reference="bare",
        rounds=ROUNDS,
        warmup=1,
        seconds=240.0,
    )
    return [
        _figure(f"dream step, {name}", timings["ours"], ask=ask),
        _figure(f"textbook dream step, {name}", timings["textbook"], ask=None),
    ]


def bare(network: nn.Module, shape: tuple[int, int, int, int], targets: Tensor) -> Callable[[], object]:
    """The floor: forward, and the gradient with respect to the images."""
    images = torch.rand(shape)

    def run() -> None:
        with frozen(network):
            for _ in range(STEPS):
                pixels = images.clone().requires_grad_()
                torch.autograd.grad(F.cross_entropy(network(pixels), targets), pixels)

    return run


def textbook(network: nn.Module, shape: tuple[int, int, int, int], targets: Tensor) -> Callable[[], object]:
    """The plain implementation."""
    inputs: list[tuple[Tensor, Tensor]] = []

    def read(module: nn.BatchNorm2d, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        by_channel = x.permute(1, 0, 2, 3).contiguous().view(x.shape[1], -1)
        mean = x.mean((0, 2, 3))
        variance = by_channel.var(1, unbiased=False)
        if module.running_var is not None and module.running_mean is not None:
            inputs.append((variance - module.running_var, mean - module.running_mean))

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(read)

    def run() -> None:
        pixels = torch.rand(shape).requires_grad_()
        adam = torch.optim.Adam([pixels], lr=0.1, betas=(0.5, 0.9))
        for step in range(STEPS):
            inputs.clear()
            seen = torch.roll(pixels, (step % 3 - 1, step % 2), (2, 3))
            seen = seen.flip(3) if step % 2 else seen
            loss = F.cross_entropy(network(seen), targets) + 0.1 * sum(a.norm() + b.norm() for a, b in inputs)
            across, down = seen[..., 1:] - seen[..., :-1], seen[..., 1:, :] - seen[..., :-1, :]
            loss = loss + 1e-4 * (across.norm() + down.norm()) + 1e-5 * seen.norm()
            adam.zero_grad()
            network.zero_grad()
            loss.backward()
            adam.step()
            pixels.data.clamp_(0, 1)

    return run


def ours(network: nn.Module, shape: tuple[int, int, int, int], targets: Tensor) -> Callable[[], object]:
    """The loop of the package with the default recipe."""
    images = torch.rand(shape)
    augment, term = ShiftAndFlip(round(shape[2] / 14)), default_term()

    def run() -> None:
        canvas = PixelCanvas(images)
        optimize(network, canvas, term=term, targets=targets, steps=STEPS, augment=augment, seed=0)

    return run


def _figure(name: str, timing: Timing, *, ask: float | None) -> dict[str, Any]:
    spread: Mapping[str, float] = {"p10": timing.ratio_p10, "p90": timing.ratio_p90}
    return {
        "name": name,
        "value": timing.ratio_median,
        "unit": "times the bare pass",
        "ask": ask,
        "holds": None if ask is None else timing.ratio_median <= ask,
        "spread": spread,
    }


def main() -> None:
    for measure in (resnet20_step, efficientnet_lite0_step):
        for figure in measure():
            print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main()
