"""`dream`: what it refuses and how it says so, what it promises, and images that another network recognizes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reverie.core.errors import RangeError, ShapeError, StatisticsMissing
from reverie.core.events import Event
from reverie.core.network import ImageNetwork
from reverie.dream import (
    BatchNormStatistics,
    CurriculumCrop,
    Stage,
    balanced_targets,
    class_term,
    default_term,
    dream,
    total_variation_term,
)
from reverie.dream.running import running_statistics_term
from traces import changes, global_trace, model_trace

SHAPE = (3, 8, 8)
QUICK = {"count": 5, "image_shape": SHAPE, "steps": 2}


class Returns(nn.Module):
    """Batch normalization, then whatever a function makes of it."""

    def __init__(self, head: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.head = head

    def forward(self, x: Tensor) -> object:
        return self.head(self.norm(x))


def test_same_seed_same_bytes(small_net: nn.Module) -> None:
    first, again, other = (dream(small_net, **QUICK, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.logits, again.logits)
    assert not torch.equal(first.images, other.images)


def test_the_world_does_not_decide(small_net: nn.Module) -> None:
    first = dream(small_net, **QUICK)
    torch.manual_seed(99)
    small_net.train()
    assert torch.equal(dream(small_net, **QUICK).images, first.images)


def test_no_trace_is_left(small_net: nn.Module) -> None:
    small_net.train()
    model, world = model_trace(small_net), global_trace()
    dream(small_net, **QUICK)
    assert changes(model, model_trace(small_net)) == []
    assert changes(world, global_trace()) == []


def test_shapes_and_labels(small_net: nn.Module) -> None:
    bank = dream(small_net, count=10, image_shape=SHAPE, steps=1, batch_size=4)
    assert bank.images.shape == (10, *SHAPE)
    assert bank.images.dtype == torch.uint8
    assert bank.logits.shape == (10, 4)
    assert sorted(bank.labels.bincount(minlength=4).tolist()) == [2, 2, 3, 3]
    assert len(bank.seeds.unique()) == 10
    chosen = dream(small_net, **QUICK, targets=[3, 3, 0, 1, 3])
    assert chosen.labels.tolist() == [3, 3, 0, 1, 3]


def test_targets_take_turns_in_a_drawn_order() -> None:
    few = [balanced_targets(32, 1000, seed=seed) for seed in (0, 1)]
    assert all(len(targets.unique()) == 32 for targets in few)
    assert not torch.equal(few[0], few[1])
    # Not the first classes only, when there are fewer images than classes.
    assert few[0].max() > 500


def test_steps_are_told_across_batches(
    small_net: nn.Module, heard: tuple[list[Event], Callable[[Event], None]], tmp_path: Path
) -> None:
    dream(small_net, count=5, image_shape=SHAPE, steps=3, batch_size=4, path=tmp_path, on_event=heard[1])
    steps = [(event.step, event.total) for event in heard[0]]
    assert steps == [(1, 6), (2, 6), (3, 6), (3, 6), (4, 6), (5, 6), (6, 6), (6, 6)]
    assert 0.0 <= heard[0][-1].figures["teacher_agreement_share"] <= 1.0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"targets": [0, 1, 2, 3, 4]}, r"targets must lie in 0\.\.3, got 0\.\.4"),
        ({"targets": [-1, 1, 2, 3, 3]}, r"targets must lie in 0\.\.3, got -1\.\.3"),
    ],
)
def test_numbers_out_of_range(small_net: nn.Module, changed: dict[str, object], message: str) -> None:
    with pytest.raises(RangeError, match=message):
        dream(small_net, **(QUICK | changed))  # type: ignore[arg-type]


def test_shapes_that_do_not_fit(small_net: nn.Module) -> None:
    with pytest.raises(ShapeError, match=r"targets must name one class for each of 5 images"):
        dream(small_net, **QUICK, targets=[0, 1])
    with pytest.raises(ShapeError, match=r"image_shape must be \(channels, height, width\)"):
        dream(small_net, count=1, image_shape=(3,))
    with pytest.raises(ShapeError, match=r"cannot take images of 3 channels, 8 pixels \("):
        dream(small_net, count=1, image_shape=(3, 8))
    with pytest.raises(ShapeError, match=r"cannot take images of 1 channels, 8 by 8 pixels \(.*channels"):
        dream(small_net, count=1, image_shape=(1, 8, 8))
    network = ImageNetwork(small_net, image_shape=SHAPE)
    with pytest.raises(ShapeError, match=r"asked for images of 1 channels, the network takes 3\. Ask for"):
        dream(network, count=1, image_shape=(1, 8, 8))
    deep = nn.Sequential(nn.Conv2d(3, 4, 5), nn.BatchNorm2d(4), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ShapeError, match=r"cannot take images of 3 channels, 4 by 4 pixels .*Ask for larger images"):
        dream(deep, count=1, image_shape=(3, 4, 4))
    with pytest.raises(ShapeError, match=r"Sequential does not say which images it takes"):
        dream(small_net, count=1)


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (lambda x: x.mean((1, 2, 3)), r"shape \(2,\)"),
        (lambda x: x.mean((2, 3))[:, :1], r"shape \(2, 1\)"),
        (lambda x: x, r"shape \(2, 3, 8, 8\)"),
        (lambda x: (x, x), "tuple"),
    ],
)
def test_networks_that_are_no_classifiers(head: Callable[[Tensor], object], found: str) -> None:
    with pytest.raises(ShapeError, match=f"Returns returned {found} for 2 images; dreams by class need logits"):
        dream(Returns(head), count=1, image_shape=SHAPE)


def test_missing_statistics_say_what_was_found() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(144, 2))
    asked = {"count": 1, "image_shape": SHAPE, "term": default_term(), "statistics": BatchNormStatistics()}
    with pytest.raises(StatisticsMissing, match=r"Sequential stores none \(found: 1 GroupNorm\)\. Pass a term without"):
        dream(body, **asked)  # type: ignore[arg-type]
    bank = dream(body, count=3, image_shape=SHAPE, steps=2, term=class_term() + 0.5 * total_variation_term())
    assert len(bank) == 3


def stripes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy 8 by 8 images: lying stripes, standing stripes, both, none; strong or faint, two or four pixels apart."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=rng)
    images = torch.rand(count, 1, 8, 8, generator=rng) * 0.2
    for image, label in zip(images, labels.tolist(), strict=True):
        strength, period = (float(value) for value in torch.rand(2, generator=rng))
        ridges = (torch.arange(8) // (1 if period < 0.5 else 2) % 2) * (0.2 + 0.5 * strength)
        image[0] += ridges[:, None] * (label in (0, 2)) + ridges[None, :] * (label in (1, 2))
    return images, labels


def trained(width: int, seed: int) -> nn.Module:
    """A network that has learned the stripes."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 4),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for step in range(60):
        images, labels = stripes(64, 1000 * seed + step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net.eval()


def test_dreams_are_recognized_by_another_network() -> None:
    teacher, judge = trained(8, seed=1), trained(6, seed=2)
    real, labels = stripes(200, 7)
    assert (judge(real).argmax(1) == labels).float().mean() > 0.95
    bank = dream(teacher, count=64, image_shape=(1, 8, 8), steps=150)
    assert bank.agrees.float().mean() > 0.95
    # Stripes of one pixel are what the recipe's smoothness speaks against, so not every dream convinces the judge; an
    # image that has nothing to do with its label convinces it one time in k.
    recognized = (judge(bank.source().floats()).argmax(1) == bank.labels).float().mean()
    chance = (judge(bank.source().floats()).argmax(1) == bank.labels.roll(1)).float().mean()
    assert recognized > 0.8
    assert chance < 0.5
    assert len({image.numpy().tobytes() for image in bank.images}) == 64


@pytest.mark.parametrize(
    "one",
    [
        {"term": default_term() + 5.0 * running_statistics_term(), "steps": 4},
        {"augment": CurriculumCrop(4), "steps": 4},
        {"stages": [Stage(4, augment=CurriculumCrop(4))]},
    ],
    ids=["term", "augment", "stages"],
)
def test_what_remembers_begins_each_batch_anew(small_net: nn.Module, tmp_path: Path, one: dict[str, object]) -> None:
    """A batch becomes the same whoever dreamed the ones before: this process, another, or one that was killed."""
    asked = {"count": 6, "batch_size": 2, "image_shape": SHAPE, **one}
    whole = dream(small_net, **asked)

    def stop(event: Event) -> None:
        if event.figures:
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            dream(small_net, **asked, path=tmp_path, on_event=stop)
    assert torch.equal(dream(small_net, **asked, path=tmp_path).images, whole.images)
    assert torch.equal(dream(small_net, **asked).images, whole.images)


def test_taps_are_told_alike_in_every_process(small_net: nn.Module) -> None:
    asked = {**QUICK, "steps": 1, "count": 1}
    several = (["body.2", "body.1"], {"body.1", "body.2"}, ("body.1", nn.ReLU))
    told = [dream(small_net, **asked, taps=taps).config["taps"] for taps in several]
    assert told[:2] == ["{'body.1', 'body.2'}"] * 2
    assert told[2] == "{'body.1', torch.nn.modules.activation.ReLU}"
    assert dream(small_net, **asked, taps=nn.ReLU).config["taps"] == "torch.nn.modules.activation.ReLU"
