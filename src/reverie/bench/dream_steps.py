"""What dreaming costs beside the floor: steps of networks without batch norm, memory, waits for the device, GPUs."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from reverie.bench.figure import Measured
from reverie.core.errors import ReferenceNotFound, VerificationFailed
from reverie.core.events import Event, Listener
from reverie.core.modes import frozen
from reverie.core.rng import preserved_rng
from reverie.cost.timing import interleave
from reverie.dream import FourierCanvas, calibrate_statistics, default_augment, default_term, optimize
from reverie.zoo.load import load

__all__ = ["gpu_figures", "host_waits", "memory_ratio", "transformer_step"]

# Steps of a finished dream.
STEPS = 250
# The fewest images whose statistics say something; enough steps that setting up hardly counts.
TRANSFORMER_BATCH, TRANSFORMER_STEPS = 16, 5
# Operators that hand a value of the device to Python.
WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal")
# One image first: libraries, loaded at their first use, are not what a step needs. Then the mark of the highest memory
# is set back.
MEMORY = """
import sys, torch
import torch.nn.functional as F
from itertools import accumulate
from pathlib import Path
from reverie.core.modes import frozen
from reverie.dream import FourierCanvas, default_augment, default_term, optimize
from reverie.zoo.load import load

what, name, size = sys.argv[1], sys.argv[2], int(sys.argv[4])
network = load(name)

def passes(batch):
    targets, shape = torch.arange(batch) % 10, (3, size, size)
    if what == "bare":
        images = torch.rand(batch, *shape)
        with frozen(network):
            for _ in range(3):
                pixels = images.clone().requires_grad_()
                torch.autograd.grad(F.cross_entropy(network(pixels), targets), pixels)
    else:
        optimize(network, FourierCanvas(range(batch), shape), term=default_term(), targets=targets, steps=3,
                 augment=default_augment(shape), seed=0, precision=torch.float32)

def kilobytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name)))

passes(1)
Path("/proc/self/clear_refs").write_text("5")
before = kilobytes("VmRSS:")
passes(int(sys.argv[3]))
resident = kilobytes("VmHWM:") - before

with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiled:
    passes(int(sys.argv[3]))
events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
peak = max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))
print("measured", peak, resident)
"""


def transformer_step(on_event: Listener) -> Mapping[str, Measured]:
    """A step on a vision transformer of DeiT-tiny's size, self-calibrated statistics included, over its bare fp32 pass.

    Twice: in the precision that the recipe chooses on this machine, and in fp32 like the pass beside it.
    """
    from timm.models.vision_transformer import VisionTransformer

    with preserved_rng():
        torch.manual_seed(0)
        network = VisionTransformer(img_size=224, patch_size=16, embed_dim=192, depth=12, num_heads=3, num_classes=10)
    statistics = calibrate_statistics(network, image_shape=(3, 224, 224), count=8)
    rng = torch.Generator().manual_seed(0)
    images, targets = torch.rand(TRANSFORMER_BATCH, 3, 224, 224, generator=rng), torch.arange(TRANSFORMER_BATCH) % 10

    def bare() -> None:
        with frozen(network):
            for _ in range(TRANSFORMER_STEPS):
                pixels = images.clone().requires_grad_()
                torch.autograd.grad(F.cross_entropy(network(pixels), targets), pixels)

    def dreaming(precision: torch.dtype | None) -> None:
        optimize(
            network,
            FourierCanvas(range(len(images)), images.shape[1:]),
            term=default_term(),
            targets=targets,
            steps=TRANSFORMER_STEPS,
            augment=default_augment(images.shape[1:]),
            seed=0,
            precision=precision,
            statistics=statistics,
        )

    runs: dict[str, Callable[[], object]] = {
        "bare": bare,
        "vit-step": partial(dreaming, None),
        "vit-step-float32": partial(dreaming, torch.float32),
    }
    timings = interleave(runs, reference="bare", rounds=11, warmup=1, seconds=180)
    on_event(Event("timing steps of a transformer", 1, 1))
    kind = "10th and 90th percentile of the rounds"
    return {
        name: Measured(timing.ratio_median, (timing.ratio_p10, timing.ratio_p90), kind)
        for name, timing in timings.items()
        if name != "bare"
    }


def memory_ratio(model: str, *, batch: int, size: int, name: str) -> Callable[[Listener], Mapping[str, Measured]]:
    """Peak memory of three steps over that of three bare passes, both in float32: `NAME-memory`, `NAME-resident`.

    The first counts the bytes of tensors, as `torch.cuda.max_memory_allocated` does; the second is what the process
    occupies, scratch of libraries and gaps between blocks included.
    """

    def run(on_event: Listener) -> Mapping[str, Measured]:
        found = {what: _peaks(what, model, batch, size) for what in ("bare", "dream")}
        on_event(Event(f"memory of {model}", 1, 1))
        return {
            f"{name}-{kind}": Measured(found["dream"][kind] / found["bare"][kind]) for kind in ("memory", "resident")
        }

    return run


def host_waits(on_event: Listener) -> Mapping[str, Measured]:
    """Operators inside a step that hand a value to Python: the difference of a run of 6 steps and one of 3."""
    network = load("zoo:fashion-resnet20")
    counts = []
    for steps in (3, 6):
        with _Waits() as seen:
            optimize(
                network,
                FourierCanvas(range(4), network.image_shape),
                term=default_term(),
                targets=torch.arange(4),
                steps=steps,
                augment=default_augment(network.image_shape),
                seed=0,
            )
        counts.append(seen.count)
    on_event(Event("counting waits", 1, 1))
    return {"host-waits": Measured((counts[1] - counts[0]) / 3)}


def gpu_figures(on_event: Listener) -> Mapping[str, Measured]:
    """Images per second and step ratio of EfficientNet-Lite2-size dreams in bfloat16, on a GPU."""
    if not torch.cuda.is_available():
        raise ReferenceNotFound("needs a GPU with CUDA, and this machine has none")
    network = load("zoo:imagenet-efficientnet-lite2").to("cuda")
    images, targets = torch.rand(64, *network.image_shape, device="cuda"), torch.arange(64, device="cuda")

    def bare() -> None:
        with frozen(network), torch.autocast("cuda", torch.bfloat16):
            for _ in range(10):
                pixels = images.clone().requires_grad_()
                torch.autograd.grad(F.cross_entropy(network(pixels).float(), targets), pixels)
        torch.cuda.synchronize()

    def dreaming() -> None:
        shape = network.image_shape
        canvas, augment = FourierCanvas(range(64), shape, device=images.device), default_augment(shape)
        optimize(network, canvas, term=default_term(), targets=targets, steps=10, augment=augment, seed=0)
        torch.cuda.synchronize()

    timings = interleave({"bare": bare, "gpu-step": dreaming}, reference="bare", rounds=11, warmup=2, seconds=120)
    on_event(Event("timing steps on the GPU", 1, 1))
    timing = timings["gpu-step"]
    per_second = 64 / (timing.median_ms / 1000 / 10 * STEPS)
    return {"gpu-step": Measured(timing.ratio_median), "gpu-images": Measured(per_second)}


class _Waits(TorchDispatchMode):
    """Counts operators that hand a value to Python."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  torch's protocol
        self.count += func.name().partition(".")[0] in WAITS
        return func(*args, **(kwargs or {}))


def _peaks(what: str, model: str, batch: int, size: int) -> dict[str, float]:
    words = [sys.executable, "-c", MEMORY, what, model, str(batch), str(size)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603  fixed words
    if done.returncode:
        raise VerificationFailed(f"the memory of {model} could not be measured: {done.stderr[-300:]}")
    answer = next(line for line in done.stdout.splitlines() if line.startswith("measured"))
    return dict(zip(("memory", "resident"), map(float, answer.split()[1:]), strict=True))
