"""Half the measured latency of CIFAR-10's ResNet-56, by us and by Torch-Pruning, then equal fine-tuning.

Both prune to the same share of the latency, measured in ONNX Runtime beside the whole network; both then train for the
same steps on the same batches at the same rates. Torch-Pruning, used as its documentation shows, ranks all layers at
once by magnitude or by Taylor scores, and its ratio is found by bisection. Its better one counts. The units that padded
shortcuts pin are left alone, which it must be told.

What each side reached is kept in the benchmark's folder, where one is named, so it goes on where it was killed.
Needs `pip install torch-pruning`, and the folder `data`.
"""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.bench.dream_data import cifar_images, cifar_judge
from reverie.bench.figure import Measured
from reverie.compress.prune import prune
from reverie.core.errors import MissingExtra
from reverie.core.events import Event, Listener
from reverie.core.network import ImageNetwork
from reverie.core.rng import generator, preserved_rng
from reverie.core.run_folder import RunFolder
from reverie.core.source import Source
from reverie.cost.latency import measure_networks
from reverie.cost.onnx import export_onnx
from reverie.metrics.classify import paired_difference
from reverie.metrics.evaluate import predict

__all__ = ["Effort", "against_torch_pruning", "compared"]

SHARE = 0.5
ROUNDS_OF_BISECTION = 7
SCORED_IMAGES = 256

# Stage, latency of the pruned network as a share, and which test images it puts in the right class.
Found = dict[str, Any]


class Effort:
    """How much is done; the same for both.

    Args:
        steps: Of fine-tuning.
        batch_size: Images per step.
        learning_rate: Its peak; the schedule is a cosine.
        tested: Test images.
        depth: Of the residual network.
    """

    def __init__(
        self,
        *,
        steps: int = 120,
        batch_size: int = 128,
        learning_rate: float = 0.02,
        tested: int = 10_000,
        depth: int = 56,
    ) -> None:
        self.steps, self.batch_size, self.learning_rate = steps, batch_size, learning_rate
        self.tested, self.depth = tested, depth


def against_torch_pruning(on_event: Listener, folder: Path | None = None) -> Mapping[str, Measured]:
    """Accuracy of both sides, and what we have more, in points; sides that the folder has are not made again."""
    return compared(Effort(), folder=folder, on_event=on_event)


def compared(effort: Effort, *, folder: Path | None, on_event: Listener) -> Mapping[str, Measured]:
    """The figures, for any effort.

    Raises:
        MissingExtra: Torch-Pruning is not installed.
        ReferenceNotFound: The network or its images are not here.
    """
    try:
        import torch_pruning  # noqa: F401
    except ImportError as error:
        raise MissingExtra("Torch-Pruning is needed to be compared with; pip install torch-pruning") from error
    teacher, train = cifar_judge(effort.depth), cifar_images("train")
    every = cifar_images("test")
    test = Source(
        "real", every.images[: effort.tested], None if every.labels is None else every.labels[: effort.tested]
    )
    run = RunFolder(None if folder is None else folder)
    made: dict[str, Callable[[], ImageNetwork]] = {
        "reverie": lambda: prune(teacher, _few(train), latency=f"{SHARE:.0%}", on_event=on_event).network,
        "magnitude": lambda: _their_best(teacher, train, taylor=False, on_event=on_event),
        "taylor": lambda: _their_best(teacher, train, taylor=True, on_event=on_event),
    }
    settings = f"{effort.depth}-{effort.steps}-{effort.batch_size}-{len(train)}-{effort.tested}"
    found: dict[str, Found] = {}
    for name, make in made.items():

        def side(make: Callable[[], ImageNetwork] = make) -> Found:
            return _side(make(), teacher, train, test, effort, on_event)

        found[name] = run.stage(f"{name}-{settings}", side)
    right = {name: torch.tensor(one["right"]) for name, one in found.items()}
    best = max(("magnitude", "taylor"), key=lambda name: float(right[name].float().mean()))
    gap = paired_difference(right["reverie"], right[best])
    return {
        "torch-pruning-gain": Measured(
            100 * gap.difference, (100 * gap.low, 100 * gap.high), "95 % interval over test images, paired"
        ),
        **{f"torch-pruning-{name}-accuracy": Measured(float(one.float().mean())) for name, one in right.items()},
        **{f"torch-pruning-{name}-latency": Measured(float(one["latency"])) for name, one in found.items()},
        **{f"torch-pruning-{name}-before": Measured(float(one["before"])) for name, one in found.items()},
    }


def _few(train: Source) -> Source:
    return Source(train.name, train.images[:SCORED_IMAGES])


def _side(
    pruned: ImageNetwork, teacher: ImageNetwork, train: Source, test: Source, effort: Effort, on_event: Listener
) -> Found:
    """Measure, fine-tune and test what one side made."""
    before = _right(pruned, test)
    trained = _fine_tuned(pruned, train, effort, on_event)
    return {
        "latency": _latency(pruned, teacher, seconds=20.0),
        "before": float(before.float().mean()),
        "right": _right(trained, test).tolist(),
    }


def _right(network: ImageNetwork, test: Source) -> Tensor:
    if test.labels is None:
        raise TypeError("the test images of CIFAR-10 have labels")
    return predict(network, test).argmax(1) == test.labels


def _latency(network: ImageNetwork, teacher: ImageNetwork, *, seconds: float) -> float:
    models = {"teacher": export_onnx(teacher), "candidate": export_onnx(network)}
    return measure_networks(models, teacher.image_shape, tolerance=0.005, seconds=seconds)["candidate"].ratio_median


def _fine_tuned(network: ImageNetwork, train: Source, effort: Effort, on_event: Listener) -> ImageNetwork:
    """Cross-entropy on shifted and mirrored images, by SGD with momentum."""
    if train.labels is None:
        raise TypeError("the training images of CIFAR-10 have labels")
    student = copy.deepcopy(network).train().requires_grad_(True).to(memory_format=torch.channels_last)
    sgd = torch.optim.SGD(student.parameters(), lr=effort.learning_rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, effort.steps)
    with preserved_rng():
        for step in range(effort.steps):
            rng = generator(0, "fine-tuning", step)
            pick = torch.randint(len(train), (effort.batch_size,), generator=rng)
            images = _seen(train.images[pick], rng).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(student(images), train.labels[pick])
            sgd.zero_grad(set_to_none=True)
            loss.backward()
            sgd.step()
            schedule.step()
            on_event(Event("fine-tuning", step + 1, effort.steps, {"loss": float(loss.detach())}))
    return student.eval().to(memory_format=torch.contiguous_format)


def _seen(images: Tensor, rng: torch.Generator) -> Tensor:
    """Images in [0, 1], each shifted by up to four pixels and mirrored or not."""
    padded = F.pad(images.float() / 255, (4, 4, 4, 4))
    side = images.shape[-1]
    down, right = torch.randint(0, 9, (2, len(images)), generator=rng)
    rows = (down[:, None] + torch.arange(side))[:, None, :, None].expand(-1, images.shape[1], -1, padded.shape[-1])
    columns = (right[:, None] + torch.arange(side))[:, None, None, :].expand(-1, images.shape[1], side, -1)
    moved = padded.gather(2, rows).gather(3, columns)
    mirrored = torch.rand(len(images), generator=rng) < 0.5
    return torch.where(mirrored[:, None, None, None], moved.flip(3), moved)


def _their_best(teacher: ImageNetwork, train: Source, *, taylor: bool, on_event: Listener) -> ImageNetwork:
    """What Torch-Pruning leaves at the smallest ratio whose measured latency is within the share."""
    # Beyond this ratio it leaves whole layers as they are, and latency rises again.
    low, high = 0.0, 0.85
    best = _their_cut(teacher, train, high, taylor=taylor)
    for turn in range(ROUNDS_OF_BISECTION):
        ratio = (low + high) / 2
        candidate = _their_cut(teacher, train, ratio, taylor=taylor)
        latency = _latency(candidate, teacher, seconds=5.0)
        on_event(Event("Torch-Pruning", turn + 1, ROUNDS_OF_BISECTION, {"ratio": ratio, "latency_share": latency}))
        if latency <= SHARE:
            best, high = candidate, ratio
        else:
            low = ratio
    return best


def _their_cut(teacher: ImageNetwork, train: Source, ratio: float, *, taylor: bool) -> ImageNetwork:
    """One pruning by Torch-Pruning, as its documentation shows, over all layers at once."""
    import torch_pruning as tp

    network = copy.deepcopy(teacher).eval().requires_grad_(True)
    images = _few(train).floats()
    inputs = (images - network.mean) / network.std
    pinned = [
        module
        for name, module in network.body.named_modules()
        if isinstance(module, nn.Linear) or name == "conv1" or name.endswith("conv2")
    ]
    pruner = tp.pruner.BasePruner(
        network.body,
        inputs[:1],
        importance=tp.importance.GroupTaylorImportance() if taylor else tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        global_pruning=True,
        ignored_layers=pinned,
    )
    if taylor and train.labels is not None:
        F.cross_entropy(network.body(inputs), train.labels[: len(inputs)]).backward()
    pruner.step()
    network.zero_grad(set_to_none=True)
    return network.eval().requires_grad_(False)
