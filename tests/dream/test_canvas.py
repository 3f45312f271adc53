"""Canvases and augmentations: in the box, each image on its own, and gradients that go back where they came from."""

import pytest
import torch

from reverie.core.rng import generator
from reverie.dream import PixelCanvas, ShiftAndFlip


def numbered(n: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Each pixel its own number, the same in every image."""
    one = torch.arange(float(channels * height * width)).view(1, channels, height, width)
    return one.expand(n, -1, -1, -1).clone()


@pytest.mark.parametrize("shape", [(64, 1, 5, 5), (64, 3, 4, 6)])
def test_each_image_is_one_of_the_allowed_views(shape: tuple[int, int, int, int]) -> None:
    images = numbered(*shape)
    shown = ShiftAndFlip(1)(images, generator(0))
    views = {
        (down, across, flip): torch.roll(images[0].flip(-1) if flip else images[0], (down, across), (-2, -1))
        for down in (-1, 0, 1)
        for across in (-1, 0, 1)
        for flip in (False, True)
    }
    found = [key for image in shown for key, allowed in views.items() if torch.equal(image, allowed)]
    assert len(found) == shape[0]
    # 64 draws of 18 views: every image has its own.
    assert len(set(found)) > 12


def test_no_flip_and_no_shift_show_the_images() -> None:
    images = numbered(8, 3, 4, 4)
    assert torch.equal(ShiftAndFlip(0, flip=False)(images, generator(0)), images)
    mirrored = ShiftAndFlip(0)(images, generator(0))
    flips = [torch.equal(image, images[0].flip(-1)) for image in mirrored]
    assert 0 < sum(flips) < 8


def test_the_gradient_returns_to_the_pixel_it_came_from() -> None:
    images = torch.randn(6, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ShiftAndFlip(2)(x, generator(3)), (images,))


def test_own_generator_only() -> None:
    before = torch.get_rng_state()
    images = numbered(4, 1, 5, 5)
    first, second, other = (ShiftAndFlip(2)(images, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_comes_from_each_seed_alone() -> None:
    both = PixelCanvas.noise([7, 8], (3, 4, 4)).images()
    alone = PixelCanvas.noise([8], (3, 4, 4)).images()
    assert torch.equal(both[1], alone[0])
    assert not torch.equal(both[0], both[1])
    assert both.min() >= 0
    assert both.max() <= 1


def test_noise_has_the_spectrum_and_the_deviation_it_says() -> None:
    images = PixelCanvas.noise(range(200), (3, 32, 32), deviation=0.05).images().detach() - 0.5
    assert images.std().item() == pytest.approx(0.05, rel=0.05)
    power = torch.fft.rfft2(images).abs().square().mean((0, 1))
    # Amplitude one over frequency: the power at 2 waves per side is 16 times that at 8.
    assert (power[0, 2] / power[0, 8]).item() == pytest.approx(16, rel=0.2)
    assert (power[2, 0] / power[8, 0]).item() == pytest.approx(16, rel=0.2)
    red, green = images[:, 0].flatten(), images[:, 1].flatten()
    assert torch.corrcoef(torch.stack([red, green]))[0, 1].item() == pytest.approx(0.7, abs=0.05)


def test_settle_clips_and_start_is_copied() -> None:
    start = torch.full((1, 1, 2, 2), 0.5)
    canvas = PixelCanvas(start)
    with torch.no_grad():
        canvas.pixels.add_(torch.tensor([[[[1.0, -1.0], [0.25, 0.0]]]]))
    canvas.settle()
    assert canvas.images().flatten().tolist() == [1.0, 0.0, 0.75, 0.5]
    assert start.unique().tolist() == [0.5]
