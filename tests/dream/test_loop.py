"""The loop: it minimizes, it is the textbook computation made fast, and it leaves no trace."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.errors import Diverged, RangeError
from reverie.core.events import Event
from reverie.core.rng import generator
from reverie.dream import (
    CodesCanvas,
    Part,
    PixelCanvas,
    ShiftAndFlip,
    Term,
    View,
    class_term,
    norm_term,
    optimize,
    statistics_term,
    total_variation_term,
)
from traces import changes, global_trace, model_trace

TARGETS = torch.tensor([0, 1, 2, 3, 0, 1])


def run(network: nn.Module, *, steps: int = 3, **changed: Any) -> Any:
    """Six images of 3 by 8 by 8 on `small_net`, from fixed noise."""
    canvas = PixelCanvas.noise(range(6), (3, 8, 8))
    arguments: dict[str, Any] = {
        "term": class_term() + 10.0 * statistics_term() + 0.05 * total_variation_term(),
        "targets": TARGETS,
        "steps": steps,
        "augment": ShiftAndFlip(1),
        "seed": 0,
        "precision": torch.float32,
    }
    return optimize(network, canvas, **(arguments | changed))


def textbook(network: nn.Module, *, steps: int) -> Tensor:
    """The same optimization as plain code would write it: hooks, roll and flip image by image."""
    network = copy.deepcopy(network).eval()
    inputs: list[Tensor] = []
    network[1].register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    pixels = PixelCanvas.noise(range(6), (3, 8, 8)).images().detach().clone().requires_grad_()
    adam = torch.optim.Adam([pixels], lr=0.1, betas=(0.5, 0.9))
    rng = generator(0, "augment")
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = 0.05 * (1 + math.cos(math.pi * step / steps))
        down, across = torch.randint(-1, 2, (2, 6, 1), generator=rng)
        flips = torch.rand(6, 1, generator=rng) < 0.5
        seen = [_shown(image, int(down[i]), int(across[i]), flip=bool(flips[i])) for i, image in enumerate(pixels)]
        images = torch.stack(seen)
        inputs.clear()
        loss = F.cross_entropy(network(images), TARGETS)
        mean, variance = inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3), correction=0)
        stored_mean, stored_variance = network[1].running_mean, network[1].running_var
        loss = loss + 10 * (mean - stored_mean).norm() / stored_variance.sum().sqrt()
        loss = loss + 10 * (variance - stored_variance).norm() / stored_variance.norm()
        steep = [(images[..., 1:, :] - images[..., :-1, :]), (images[..., 1:] - images[..., :-1])]
        loss = loss + 0.05 * sum(difference.square().mean() for difference in steep)
        adam.zero_grad()
        loss.backward()
        adam.step()
        pixels.data.clamp_(0, 1)
    return pixels.detach()


def _shown(image: Tensor, down: int, across: int, *, flip: bool) -> Tensor:
    """A mirrored image is mirrored about its own axis, then taken from `across` further on."""
    moved = torch.roll(image, -down, 1)
    if not flip:
        return torch.roll(moved, -across, 2)
    return torch.roll(moved, -across, 2).flip(2)


@pytest.fixture
def trained(small_net: nn.Module) -> nn.Module:
    """Stored statistics of images: smooth, bright on one side."""
    images = F.interpolate(torch.rand(64, 3, 3, 3), size=(8, 8), mode="bilinear") ** 2
    small_net[1].momentum = 1.0
    with torch.no_grad():
        small_net.train()(images)
    return small_net


def test_it_is_the_textbook_computation(trained: nn.Module) -> None:
    torch.testing.assert_close(run(trained, steps=4).images, textbook(trained, steps=4), rtol=0, atol=1e-4)


def test_the_last_iterate_is_better_than_the_first(trained: nn.Module) -> None:
    first, last = run(trained, steps=1).losses, run(trained, steps=40).losses
    assert sum(last.values()) < 0.7 * sum(first.values())


def test_half_precision_follows_single(trained: nn.Module) -> None:
    single, half = (run(trained, steps=20, precision=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert sum(half.losses.values()) == pytest.approx(sum(single.losses.values()), rel=0.2)
    assert half.images.dtype == torch.float32


def test_same_seed_same_bits(trained: nn.Module) -> None:
    assert torch.equal(run(trained).images, run(trained).images)
    assert not torch.equal(run(trained).images, run(trained, seed=1).images)


def test_images_stay_in_the_box(trained: nn.Module) -> None:
    images = run(trained, steps=5, learning_rate=2.0).images
    assert images.min() >= 0
    assert images.max() <= 1


@pytest.mark.parametrize("failing", [False, True])
def test_no_trace_is_left(trained: nn.Module, failing: bool) -> None:
    trained.train()
    trained[0].weight.grad = torch.ones_like(trained[0].weight)
    model, world = model_trace(trained), global_trace()

    def listener(event: Event) -> None:
        if failing and event.step == 2:
            raise LookupError("told to stop")

    if failing:
        with pytest.raises(LookupError, match="told to stop"):
            run(trained, on_event=listener)
    else:
        run(trained, on_event=listener)
    assert changes(model, model_trace(trained)) == []
    assert changes(world, global_trace()) == []


def test_every_step_is_told(trained: nn.Module, heard: tuple[list[Event], Callable[[Event], None]]) -> None:
    run(trained, steps=3, on_event=heard[1])
    assert [(event.stage, event.step, event.total) for event in heard[0]] == [("dreaming", i, 3) for i in (1, 2, 3)]


def test_terms_see_taps_and_progress(trained: nn.Module) -> None:
    progress: list[float] = []

    def after_pooling(view: View) -> Tensor:
        progress.append(view.progress)
        return view.taps["3"].output.square().mean()

    term = Term((Part("pooled", 1.0, after_pooling),))
    result = run(trained, steps=4, term=term, taps=nn.AdaptiveAvgPool2d)
    assert progress == [0.0, 0.25, 0.5, 0.75]
    assert set(result.losses) == {"pooled"}


def test_numbers_that_run_away_are_an_error(trained: nn.Module) -> None:
    with pytest.raises(Diverged, match=r"not finite after 3 steps at learning rate 0\.1\. Lower"):
        run(trained, term=float("nan") * norm_term())


@pytest.mark.parametrize("changed", [{"steps": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}])
def test_numbers_out_of_range(trained: nn.Module, changed: dict[str, float]) -> None:
    with pytest.raises(RangeError, match="must be"):
        run(trained, **changed)


def test_an_empty_term_is_refused(small_net: nn.Module) -> None:
    with pytest.raises(RangeError, match="the term is empty"):
        run(small_net, term=0.0 * class_term())


def test_the_normalization_of_a_generator_is_not_the_networks(small_net: nn.Module) -> None:
    layers = nn.Linear(2, 192), nn.BatchNorm1d(192), nn.Sigmoid(), nn.Unflatten(1, (3, 8, 8))
    canvas = CodesCanvas(nn.Sequential(*layers), torch.rand(6, 2))
    names: list[list[str]] = []

    def look(view: View) -> Tensor:
        names.append([one.name for one in view.moments])
        return view.images.mean()

    run_on = {"targets": TARGETS, "steps": 2, "augment": ShiftAndFlip(1), "seed": 0}
    optimize(small_net, canvas, term=Term((Part("look", 1.0, look),)), **run_on)  # type: ignore[arg-type]
    assert names == [["1"], ["1"]]
