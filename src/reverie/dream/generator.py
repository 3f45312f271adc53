"""Dreams by the thousand: a small generator that learns, batch after batch, to start where dreams are found quickly.

Every batch begins from the generator as it is, adapts a copy to the batch's classes in a few steps of the one loop, and
moves the generator a part of the way towards that copy. Later batches so need few steps where pixels need hundreds.
Statistics are matched by a running average over batches, since no few images have the moments of a data set.

Cost: a few steps per batch. Variety is less than that of pixels: use it where volume counts, as in distillation.
Source: Fang et al. 2022, arXiv:2112.15278 (a shared generator, adapted in few steps); Nichol et al. 2018,
arXiv:1803.02999 (the update). Differs: class-conditional; group normalization, so that images do not depend on
their batch.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from reverie.core.counts import check_counts
from reverie.core.digest import sha256_network
from reverie.core.errors import CorruptFile, ReferenceNotFound, ShapeError
from reverie.core.events import Listener, part_of, renamed, silent
from reverie.core.modes import frozen
from reverie.core.network import ImageNetwork, as_network
from reverie.core.precision import choose_precision
from reverie.core.rng import derive_seed, generator, preserved_rng, seed_global
from reverie.core.store import write_bytes
from reverie.dream.bank import Bank, Folder, Shard
from reverie.dream.bank_folder import read_manifest
from reverie.dream.calibrate import choose_statistics
from reverie.dream.conditional import CODE, ConditionalGenerator
from reverie.dream.heads import single_label
from reverie.dream.layer_statistics import StatisticsSource
from reverie.dream.loop import optimize
from reverie.dream.network_canvas import NetworkCanvas
from reverie.dream.recipe import default_augment, usual_statistics_weight
from reverie.dream.rehearsal import asked_targets, checked_shape, first_answer, sees_statistics, try_term
from reverie.dream.running import memory_of, remember, running_statistics_term, with_fresh_memory
from reverie.dream.shard import eight_bits
from reverie.dream.terms import Term, class_term, total_variation_term

__all__ = ["ConditionalGenerator", "generate", "load_generator"]

# Against 64 noise values of variance 1: the class has to be heard.
CLASS_SCALE = 8.0
LEARNING_RATE = 0.005
# How far the shared generator follows the copy that a batch has adapted.
FOLLOW = 0.5


@dataclass(frozen=True)
class _Plan:
    image_shape: tuple[int, ...]
    classes: int
    targets: Tensor
    batch_size: int
    warm_up: int
    steps: int
    seed: int
    term: Term
    statistics: StatisticsSource
    precision: torch.dtype

    @property
    def batches(self) -> int:
        return -(-len(self.targets) // self.batch_size)

    def config(self) -> dict[str, Any]:
        return {
            "count": len(self.targets),
            "route": "generator",
            "image_shape": list(self.image_shape),
            "targets": self.targets.tolist(),
            "batch_size": self.batch_size,
            "warm_up": self.warm_up,
            "steps": self.steps,
            "seed": self.seed,
            "term": self.term.describe(),
            "statistics": self.statistics.describe(),
            "precision": str(self.precision).removeprefix("torch."),
        }


def generate(
    model: nn.Module,
    *,
    count: int,
    image_shape: Sequence[int] | None = None,
    targets: Sequence[int] | Tensor | None = None,
    warm_up: int = 100,
    steps: int = 5,
    batch_size: int = 128,
    seed: int = 0,
    term: Term | None = None,
    statistics: StatisticsSource | None = None,
    path: Path | str | None = None,
    on_event: Listener = silent,
) -> Bank:
    """Make many dreams in few steps each, by a generator that is shared between batches.

    Shapes: images (count, c, h, w) uint8, labels (count,), logits (count, k).

    Args:
        model: A classifier of images: an `ImageNetwork`, or a plain module together with `image_shape`.
        count: How many images, >= 1.
        image_shape: (c, h, w); the network's own where None.
        targets: The class of each image; None takes every class in turn.
        warm_up: Steps on the first batch, >= 1, which teach the generator to draw at all.
        steps: Steps on every later batch, >= 1.
        batch_size: Images made together, >= 1.
        seed: Same seed, same bytes, on one machine with one number of threads.
        term: What images should satisfy; None is class + 5 running statistics, where there are any, + total variation.
        statistics: Which moments the images should have; None as in `dream`.
        path: Folder of the bank, one shard per batch, for one process; a killed run goes on there. None: in memory.
        on_event: Told of every step.

    Raises:
        RangeError: A number lies outside its range.
        ShapeError: The network does not take such images, or returns no single-label logits; images are not (c, h, w).
        StatisticsMissing: Statistics were asked for that the network lacks.
        FolderInUse: `path` holds something else, or another process writes to it.
        CorruptFile: What is kept there is damaged.

    Example:
        >>> body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> generate(body, count=3, image_shape=(1, 8, 8), warm_up=2, steps=1).images.shape
        torch.Size([3, 1, 8, 8])

    Fails when: variety matters more than volume: images of one class resemble each other more than optimized pixels do.
    """
    check_counts(count=count, warm_up=warm_up, steps=steps, batch_size=batch_size)
    network = as_network(model, image_shape)
    shape = checked_shape(network, image_shape)
    if len(shape) != 3:
        raise ShapeError(f"the generator draws images (c, h, w), asked for {shape}")
    with preserved_rng():
        answer = first_answer(network, shape, single_label())
        asked = asked_targets(targets, count, [answer], single_label(), seed=seed)
        source, precision = statistics or choose_statistics(network, image_shape=shape), choose_precision(network)
        term = with_fresh_memory(term or _default_term(network, shape, source, demanded=statistics is not None))
        try_term(network, term, shape, asked, statistics=source, taps=None)
        plan = _Plan(shape, answer.shape[1], asked, batch_size, warm_up, steps, seed, term, source, precision)
        return _made(network, plan, None if path is None else Path(path), on_event)


def load_generator(folder: Path | str) -> ConditionalGenerator:
    """The generator that a bank's folder ends with, in evaluation mode.

    Args:
        folder: What `generate` wrote.

    Raises:
        ReferenceNotFound: It is no bank, or one that no generator made.
        CorruptFile: The generator is damaged.

    Example:
        >>> import tempfile
        >>> body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> with tempfile.TemporaryDirectory() as place:
        ...     bank = generate(body, count=2, image_shape=(1, 8, 8), warm_up=1, steps=1, path=place)
        ...     load_generator(place).training
        False
    """
    folder = Path(folder)
    config = read_manifest(folder)["config"]
    kept = sorted(folder.glob(_kept_name(0).replace("00000", "*")))
    if not kept:
        raise ReferenceNotFound(
            f"{folder} holds no generator. Make one with generate(..., path=...), or by reverie bank generate."
        )
    with _reading(kept[-1]) as tensors:
        classes = tensors["maker.map.weight"].shape[1] - CODE
        with preserved_rng():
            maker = ConditionalGenerator(classes=classes, image_shape=config["image_shape"])
        _take_up(tensors, maker, Term())
    return maker.eval()


def _made(network: ImageNetwork, plan: _Plan, path: Path | None, on_event: Listener) -> Bank:
    """All batches in turn; on disk, beside each shard stands the generator that the next batch begins with."""
    seed_global(derive_seed(plan.seed, "generator"))
    maker = ConditionalGenerator(classes=plan.classes, image_shape=plan.image_shape)
    if path is None:
        shards = [_batch(network, maker, plan, index, on_event) for index in range(plan.batches)]
        return Bank.from_shards(shards, plan.config())
    with Folder.open(path, plan.config(), sha256_network(network)) as folder:
        if len(folder.shards) < plan.batches:
            folder.claim_all(plan.batches)
        done = len(folder.shards)
        if done:
            kept = path / _kept_name(done)
            if not kept.exists():
                raise CorruptFile(f"{kept} is missing: the generator after {done} batches. Delete the folder.")
            with _reading(kept) as tensors:
                _take_up(tensors, maker, plan.term)
        for index in range(done, plan.batches):
            shard = _batch(network, maker, plan, index, on_event)
            # The generator first: with the shard in the manifest it must be there.
            write_bytes(path / _kept_name(index + 1), save(_state(maker, plan.term)))
            folder.add(shard, index)
            (path / _kept_name(index)).unlink(missing_ok=True)
        return Bank.from_shards(folder.shards, plan.config(), path, teacher_sha256=sha256_network(network))


def _batch(network: ImageNetwork, maker: nn.Module, plan: _Plan, index: int, on_event: Listener) -> Shard:
    start = index * plan.batch_size
    labels = plan.targets[start : start + plan.batch_size]
    seeds = [derive_seed(plan.seed, "generate", start + offset) for offset in range(len(labels))]
    noise = torch.stack([torch.randn(CODE, generator=generator(seed, "code")) for seed in seeds])
    codes = torch.cat([noise, CLASS_SCALE * F.one_hot(labels, plan.classes).float()], dim=1)
    adapted = copy.deepcopy(maker)
    total = plan.warm_up + (plan.batches - 1) * plan.steps
    before = 0 if index == 0 else plan.warm_up + (index - 1) * plan.steps
    device = network.mean.device
    result = optimize(
        network,
        NetworkCanvas(adapted.to(device), codes.to(device)),
        term=plan.term,
        targets=labels.to(device),
        steps=plan.steps if index else plan.warm_up,
        augment=default_augment(plan.image_shape),
        seed=derive_seed(plan.seed, "generate", "batch", index),
        learning_rate=LEARNING_RATE,
        precision=plan.precision,
        statistics=plan.statistics,
        on_event=part_of(renamed("generating", on_event), before=before, total=total),
    )
    _follow(maker, adapted.cpu(), share=FOLLOW if index else 1.0)
    images = eight_bits(result.images)
    with frozen(network), torch.no_grad():
        logits = network(images.float() / 255).float().cpu()
    return Shard(images.cpu(), labels, logits, torch.tensor(seeds))


def _state(maker: nn.Module, term: Term) -> dict[str, Tensor]:
    """All that the next batch depends on."""
    averages = {f"past.{name}": tensor.cpu().contiguous() for name, tensor in memory_of(term).items()}
    return {**{f"maker.{name}": tensor for name, tensor in maker.state_dict().items()}, **averages}


@contextmanager
def _reading(kept: Path) -> Iterator[dict[str, Tensor]]:
    """What `_state` gave, from its file; whatever is wrong with it is said of the file."""
    try:
        yield load(kept.read_bytes())
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise CorruptFile(f"{kept} is no generator ({str(error).splitlines()[0]}). Delete the folder.") from error


def _take_up(state: dict[str, Tensor], maker: nn.Module, term: Term) -> None:
    parts: dict[str, dict[str, Tensor]] = {"maker": {}, "past": {}}
    for name, tensor in state.items():
        kind, _, rest = name.partition(".")
        parts[kind][rest] = tensor
    maker.load_state_dict(parts["maker"])
    remember(term, parts["past"])


def _follow(maker: nn.Module, adapted: nn.Module, *, share: float) -> None:
    with torch.no_grad():
        for ours, theirs in zip(maker.parameters(), adapted.parameters(), strict=True):
            ours.lerp_(theirs, share)


def _default_term(network: ImageNetwork, shape: tuple[int, ...], source: StatisticsSource, *, demanded: bool) -> Term:
    seen = sees_statistics(network, shape, source, demanded=demanded)
    statistics = usual_statistics_weight(source) * running_statistics_term() if seen else Term()
    return class_term() + total_variation_term() + statistics


def _kept_name(done: int) -> str:
    return f".generator-{done:05d}.safetensors"
