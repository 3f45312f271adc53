"""Images as spectra, and images seen under random affine maps."""

import pytest
import torch
from torch import Tensor

from reverie.core.errors import RangeError
from reverie.core.rng import generator
from reverie.dream import FourierCanvas, RandomAffine


@pytest.mark.parametrize("shape", [(2, 33), (3, 32, 32), (1, 12, 10, 9)])
def test_the_start_has_the_deviation_asked_for(shape: tuple[int, ...]) -> None:
    images = FourierCanvas(range(60), shape, deviation=0.03).images().detach()
    assert images.shape == (60, *shape)
    assert float(images.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(images.std()) == pytest.approx(0.03, rel=0.1)


def test_amplitude_falls_as_the_three_quarter_power_of_frequency() -> None:
    images = FourierCanvas(range(200), (1, 64, 64), deviation=0.01).images().detach() - 0.5
    power = torch.fft.rfft2(images).abs().square().mean((0, 1))
    # Along both axes: four times the frequency, a quarter of the amplitude to the power 3/4.
    for low, high in ((power[4, 0], power[16, 0]), (power[0, 4], power[0, 16])):
        assert float(low / high) == pytest.approx(4**1.5, rel=0.35)


def test_channels_share_light() -> None:
    images = FourierCanvas(range(100), (3, 32, 32), deviation=0.02).images().detach()
    correlation = torch.corrcoef(images.transpose(0, 1).flatten(1))
    torch.testing.assert_close(correlation, 0.7 + 0.3 * torch.eye(3), atol=0.03, rtol=0)


def test_an_image_depends_on_its_own_seed_only() -> None:
    both, alone = FourierCanvas([7, 8], (3, 9, 8)).images(), FourierCanvas([8], (3, 9, 8)).images()
    assert torch.equal(both[1], alone[0])
    assert not torch.equal(both[0], both[1])


def test_the_deviation_is_positive() -> None:
    with pytest.raises(RangeError, match="deviation must be positive"):
        FourierCanvas([0], (1, 4, 4), deviation=0)


def ramps(n: int, height: int, width: int) -> Tensor:
    """Two channels whose values are the pixel's own column and row: linear, so bilinear interpolation is exact."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns, rows]).float().expand(n, 2, height, width)


def maps(augment: RandomAffine, *, seed: int) -> Tensor:
    """(n, 2, 2): how far across and down one reads when going one pixel right, and one pixel down, at the center."""
    seen = augment(ramps(64, 40, 60), generator(seed))
    center = seen[:, :, 20, 30]
    return torch.stack([seen[:, :, 20, 31] - center, seen[:, :, 21, 30] - center], dim=-1)


def test_shapes_stay_similar_also_where_sides_differ() -> None:
    steps = maps(RandomAffine(4, zoom=0.3, turn=0.4), seed=1)
    right, down = steps.unbind(-1)
    torch.testing.assert_close((right * down).sum(1), torch.zeros(64), atol=1e-3, rtol=0)
    torch.testing.assert_close(right.norm(dim=1), down.norm(dim=1), atol=1e-3, rtol=0)
    assert 0.7 - 1e-3 <= float(down.norm(dim=1).min()) < 0.78
    assert 1.22 < float(down.norm(dim=1).max()) <= 1.3 + 1e-3
    angles = torch.atan2(down[:, 0], down[:, 1]).abs()
    assert 0.3 < float(angles.max()) <= 0.4 + 1e-3


def test_about_half_are_mirrored() -> None:
    mirrored = maps(RandomAffine(0), seed=2).det() < 0
    assert 0.3 < float(mirrored.float().mean()) < 0.7
    assert not bool((maps(RandomAffine(0, flip=False), seed=2).det() < 0).any())


def test_shifts_reach_as_far_as_asked() -> None:
    augment = RandomAffine(5, zoom=0, turn=0, flip=False)
    offsets = augment(ramps(200, 40, 60), generator(3))[:, :, 20, 30] - torch.tensor([30.0, 20.0])
    for along_one_axis in offsets.unbind(1):
        assert 4.5 < float(along_one_axis.max()) <= 5.001
        assert -5.001 <= float(along_one_axis.min()) < -4.5


def test_the_gradient_is_that_of_the_map() -> None:
    images = torch.rand(2, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: RandomAffine(1)(x, generator(3)), (images,))


@pytest.mark.parametrize("wrong", [{"zoom": 1.0}, {"turn": -0.1}, {"zoom": -0.1}])
def test_numbers_outside_their_range(wrong: dict[str, float]) -> None:
    with pytest.raises(RangeError, match="RandomAffine needs"):
        RandomAffine(2, **wrong)  # type: ignore[arg-type]
