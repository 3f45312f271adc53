"""From coarse to fine: what is seen stays, what is new begins as noise, and what is kept is the last iterate."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from reverie.core.augment import still
from reverie.core.errors import RangeError, ShapeError
from reverie.core.events import Event
from reverie.core.rng import derive_seed
from reverie.dream import (
    Canvas,
    FourierCanvas,
    Part,
    PixelCanvas,
    ShiftAndFlip,
    Stage,
    Term,
    View,
    class_term,
    deep_image_prior,
    dense_map,
    dream,
    finishing_stages,
    halving_stages,
    optimize,
    optimize_stages,
    white_noise,
)
from reverie.dream.stages import check_stages, grown

SHAPE = (3, 8, 8)


def unmixed(canvas: FourierCanvas) -> Tensor:
    """What the sigmoid is given: linear in the coefficients."""
    return torch.logit(canvas.images().detach().double())


@pytest.mark.parametrize(
    ("small", "large"),
    [((8, 8), (16, 16)), ((7, 10), (12, 15)), ((8,), (16,)), ((4, 5, 6), (8, 8, 8)), ((9, 9), (9, 9))],
)
def test_a_spectrum_keeps_its_waves(small: tuple[int, ...], large: tuple[int, ...]) -> None:
    canvas, fresh = FourierCanvas([3], (2, *small)), FourierCanvas([4], (2, *large))
    start = copy.deepcopy(unmixed(fresh))
    axes = tuple(range(2, 2 + len(small)))
    before = torch.fft.fftn(unmixed(canvas), dim=axes, norm="forward")
    result = grown(canvas, fresh)
    after = torch.fft.fftn(unmixed(result), dim=axes, norm="forward")  # type: ignore[arg-type]
    noise = torch.fft.fftn(start, dim=axes, norm="forward")
    assert result is fresh
    for place in torch.cartesian_prod(*[torch.arange(side) for side in large]).view(-1, len(large)).tolist():
        waves = [at - side if 2 * at > side else at for at, side in zip(place, large, strict=True)]
        at = (0, slice(None), *place)
        kept = all(2 * abs(wave) < side for wave, side in zip(waves, small, strict=True)) or small == large
        expected = before[(0, slice(None), *[wave % side for wave, side in zip(waves, small, strict=True)])]
        torch.testing.assert_close(after[at], expected if kept else noise[at], rtol=1e-3, atol=1e-5)


def test_pixels_are_enlarged() -> None:
    small = PixelCanvas(torch.tensor([[[[0.0, 1.0]]]]))
    large = grown(small, PixelCanvas(torch.zeros(1, 1, 1, 4))).images()
    torch.testing.assert_close(large.flatten(), torch.tensor([0.0, 0.25, 0.75, 1.0]))
    for shape in ((2, 8), (1, 4, 4, 4)):
        start = white_noise([0], (shape[0], *(side // 2 for side in shape[1:])))
        assert grown(start, white_noise([0], shape)).images().shape == (1, *shape)


def test_what_has_no_resolution_stays_where_it_is() -> None:
    with pytest.raises(ShapeError, match="a NetworkCanvas cannot go on at another resolution"):
        grown(deep_image_prior([0], (3, 4, 4)), deep_image_prior([0], SHAPE))
    same = deep_image_prior([0], SHAPE)
    assert grown(same, deep_image_prior([1], SHAPE)) is same


def test_halves_share_the_steps() -> None:
    stages = halving_stages(3, steps=100, learning_rate=0.2)
    assert [(stage.share, stage.steps, stage.learning_rate) for stage in stages] == [
        (0.25, 33, 0.2),
        (0.5, 33, 0.2),
        (1.0, 34, 0.2),
    ]
    assert [stage.image_shape((1, 30, 3)) for stage in stages] == [(1, 8, 1), (1, 15, 2), (1, 30, 3)]
    for wrong in ({"count": 0, "steps": 3}, {"count": 4, "steps": 3}):
        with pytest.raises(RangeError, match="at least 1 and a step for each"):
            halving_stages(**wrong)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "go from coarse to fine and end with share 1"),
        ([Stage(1, 0.5)], "end with share 1, the whole image; got shares"),
        ([Stage(1), Stage(1, 0.5)], "go from coarse to fine"),
        ([Stage(0)], "a stage needs steps >= 1"),
        ([Stage(1, 0.0), Stage(1)], "a stage needs steps >= 1, a share"),
        ([Stage(1, learning_rate=0.0)], "a learning_rate above 0"),
        ([Stage(1), Stage(1, unseen_only=True), Stage(1)], r"would change the images that Stage.* kept\. Put"),
    ],
)
def test_stages_that_cannot_be(stages: list[Stage], message: str) -> None:
    with pytest.raises(RangeError, match=message):
        check_stages(stages)


def test_every_stage_has_its_own_size_rate_and_views(small_net: nn.Module) -> None:
    seen: list[tuple[tuple[int, ...], float]] = []
    shown: list[str] = []

    def look(view: View) -> Tensor:
        seen.append((tuple(view.images.shape[2:]), view.progress))
        return view.images.square().mean()

    def views(name: str) -> Stage:
        def augment(images: Tensor, rng: torch.Generator) -> Tensor:
            shown.append(name)
            return images

        return Stage(2, 0.5 if name == "coarse" else 1.0, 0.1, augment)

    told: list[Event] = []
    dream(
        small_net,
        count=2,
        image_shape=SHAPE,
        stages=[views("coarse"), views("fine")],
        term=Term((Part("look", 1.0, look),)),
        on_event=told.append,
    )
    assert seen[1:] == [((4, 4), 0.0), ((4, 4), 0.5), ((8, 8), 0.0), ((8, 8), 0.5)]  # the first is the rehearsal
    assert shown == ["coarse", "coarse", "fine", "fine"]
    assert [(event.step, event.total) for event in told] == [(1, 4), (2, 4), (3, 4), (4, 4), (4, 4)]


def test_what_is_kept_is_the_last_iterate_of_the_last_stage(small_net: nn.Module) -> None:
    """Although the coarse stage ends with a far lower loss, as published code shows, which so kept its images."""

    def loss(view: View) -> Tensor:
        return view.images.mean() * (100.0 if view.images.shape[-1] == 8 else 1.0)

    term, stages = Term((Part("dark", 1.0, loss),)), (Stage(6, 0.5), Stage(3))
    still = ShiftAndFlip(0, flip=False)
    bank = dream(small_net, count=2, image_shape=SHAPE, stages=stages, term=term, augment=still)
    seeds = [derive_seed(0, "dream", "image", index) for index in range(2)]
    canvas: Canvas = FourierCanvas(seeds, (3, 4, 4))
    asked = {"term": term, "targets": bank.labels, "augment": still}
    coarse = optimize(small_net, canvas, steps=6, seed=0, learning_rate=0.05, **asked)  # type: ignore[arg-type]
    canvas = grown(canvas, FourierCanvas(seeds, SHAPE))
    fine = optimize(small_net, canvas, steps=3, seed=0, learning_rate=0.05, **asked)  # type: ignore[arg-type]
    assert coarse.losses["dark"] < fine.losses["dark"]
    assert torch.equal(bank.images, (fine.images * 255).round().to(torch.uint8))


def test_one_stage_is_the_plain_optimization(small_net: nn.Module) -> None:
    plain = dream(small_net, count=3, image_shape=SHAPE, steps=3, learning_rate=0.2)
    staged = dream(small_net, count=3, image_shape=SHAPE, stages=[Stage(3, learning_rate=0.2)])
    assert torch.equal(plain.images, staged.images)
    assert not torch.equal(plain.images, dream(small_net, count=3, image_shape=SHAPE, steps=3).images)
    for doubled in ({"steps": 3}, {"learning_rate": 0.1}):
        with pytest.raises(RangeError, match="stages have steps and learning rates of their own"):
            dream(small_net, count=3, image_shape=SHAPE, stages=[Stage(3)], **doubled)  # type: ignore[arg-type]


def test_sizes_that_the_network_does_not_take_are_found_first() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(ShapeError, match=r"cannot take images of 3 channels, 4 by 4 pixels"):
        dream(flat, count=1, image_shape=SHAPE, stages=halving_stages(2, steps=4))
    maps = torch.zeros(1, 8, 8, dtype=torch.int64)
    with pytest.raises(ShapeError, match="one class for every position"):
        dream(
            nn.Conv2d(3, 3, 1),
            count=1,
            image_shape=SHAPE,
            head=dense_map(),
            targets=maps,
            stages=halving_stages(2, steps=4),
        )


def test_stages_of_any_canvas(small_net: nn.Module) -> None:
    def run(make: object, stages: Sequence[Stage]) -> Tensor:
        return optimize_stages(
            small_net,
            make,  # type: ignore[arg-type]
            [0, 1],
            SHAPE,
            stages=stages,
            augment=lambda _: ShiftAndFlip(1),
            seed=0,
            term=class_term(),
            targets=torch.tensor([0, 1]),
        ).images

    for make in (FourierCanvas, PixelCanvas.noise, white_noise):
        found = run(make, halving_stages(3, steps=6))
        assert found.shape == (2, *SHAPE)
        assert torch.equal(found, run(make, halving_stages(3, steps=6)))
    assert run(deep_image_prior, halving_stages(1, steps=2)).shape == (2, *SHAPE)


def test_only_images_that_the_network_misses_are_finished_as_they_are(small_net: nn.Module) -> None:
    stages = finishing_stages(steps=8, learning_rate=0.1)
    assert [(stage.steps, stage.share, stage.augment) for stage in stages] == [(8, 1.0, None), (2, 1.0, still)]
    assert stages[1].learning_rate == pytest.approx(0.04)
    assert [stage.unseen_only for stage in stages] == [False, True]
    assert [stage.steps for stage in finishing_stages(steps=3)] == [3]

    steps: list[int] = []

    def run(seen: list[bool], stages: Sequence[Stage]) -> Tensor:
        steps.clear()
        return optimize_stages(
            small_net,
            FourierCanvas,
            [0, 1, 2],
            SHAPE,
            stages=stages,
            augment=lambda _: ShiftAndFlip(1),
            seen=lambda _: torch.tensor(seen),
            seed=0,
            on_event=lambda event: steps.append(event.step),
            term=class_term(),
            targets=torch.tensor([0, 1, 0]),
        ).images

    without, some = run([False] * 3, stages[:1]), run([True, False, True], stages)
    assert steps[-1] == 10
    assert torch.equal(run([True] * 3, stages), without)
    assert steps[-1] == 8
    assert [torch.equal(*pair) for pair in zip(some, without, strict=True)] == [True, False, True]
    assert torch.equal(some[1], run([False] * 3, stages)[1])
    for wrong in ([stages[1]], [Stage(2, 0.5), replace(stages[1], share=1.0)]):
        with pytest.raises(RangeError, match="a stage for unseen images follows another of the same share"):
            dream(small_net, count=1, image_shape=SHAPE, stages=wrong)


def test_the_usual_dream_asks_the_network_what_it_sees(small_net: nn.Module) -> None:
    usual = dream(small_net, count=8, image_shape=SHAPE, steps=10)
    views = dream(small_net, count=8, image_shape=SHAPE, stages=finishing_stages(steps=10)[:1])
    assert not views.agrees.all(), "a network that sees all after ten steps tests nothing"
    as_in_views = (usual.images == views.images).flatten(1).all(1)
    assert torch.equal(as_in_views, views.agrees)
    assert usual.agrees.sum() >= views.agrees.sum()

    marks: list[Tensor] = []

    class Mark:
        def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
            marks.append(images)
            return images

    dream(small_net, count=2, image_shape=SHAPE, steps=10, augment=Mark())
    assert len(marks) == 10
