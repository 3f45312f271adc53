"""Re-estimated statistics are the moments of the source, and nothing else changes."""

import copy

import pytest
import torch
from torch import Tensor, nn

from reverie.core.errors import RangeError, StatisticsMissing
from reverie.core.source import Source, noise_source
from reverie.distill import reestimate_batch_norm


def shaded(count: int) -> Source:
    """Noise that grows brighter from image to image, so batches differ in mean and in variance."""
    images = noise_source(count=count, image_shape=(2, 4, 4), seed=0).images.float()
    return Source("shaded", (images * torch.linspace(0.1, 1, count).view(-1, 1, 1, 1)).to(torch.uint8))


@pytest.mark.parametrize("batch_size", [2, 7, 16, 100])
def test_first_layer_gets_exact_moments_whatever_the_batches(batch_size: int) -> None:
    source = shaded(45)
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten())
    counted = reestimate_batch_norm(network, source, batch_size=batch_size)
    pixels = source.images.double() / 255
    norm = counted.get_submodule("0")
    assert torch.allclose(norm.running_mean.double(), pixels.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(norm.running_var.double(), pixels.transpose(0, 1).flatten(1).var(1), rtol=1e-5)


def test_deep_layers_in_one_batch_equal_float64_code() -> None:
    source = shaded(45)
    first, second = nn.BatchNorm2d(2, affine=False), nn.BatchNorm2d(3, affine=False)
    conv = nn.Conv2d(2, 3, 3)
    counted = reestimate_batch_norm(nn.Sequential(first, conv, second), source, batch_size=45)
    pixels = source.images.double() / 255
    mean, var = pixels.mean((0, 2, 3), keepdim=True), pixels.var((0, 2, 3), keepdim=True, correction=0)
    hidden = copy.deepcopy(conv).double()((pixels - mean) / (var + first.eps).sqrt()).detach()
    assert torch.allclose(counted.get_submodule("2").running_mean.double(), hidden.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(counted.get_submodule("2").running_var.double(), hidden.var((0, 2, 3)), rtol=1e-4)


class Dropping(nn.Module):
    """Dropout before batch norm: were it active, the statistics would change."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.norm = nn.Dropout(0.5), nn.BatchNorm2d(2, momentum=None)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.drop(images))


@pytest.mark.parametrize("training", [True, False])
def test_nothing_but_the_statistics_changes(training: bool) -> None:
    network, source = Dropping().train(training), shaded(20)
    before = copy.deepcopy(network.state_dict())
    random_state = torch.get_rng_state()
    counted = reestimate_batch_norm(network, source)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [module.training for module in counted.modules()] == [training] * 3
    assert not any(module._forward_pre_hooks for module in counted.modules())
    assert torch.equal(torch.get_rng_state(), random_state)
    after = counted.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "norm.running_mean",
        "norm.running_var",
    }
    assert torch.allclose(after["norm.running_mean"], source.floats().mean((0, 2, 3)))


def test_networks_without_statistics_and_tiny_batches_are_refused() -> None:
    with pytest.raises(StatisticsMissing, match="Sequential has no batch norm"):
        reestimate_batch_norm(nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False)), shaded(4))
    with pytest.raises(RangeError, match="batch_size 1"):
        reestimate_batch_norm(nn.BatchNorm2d(2), shaded(4), batch_size=1)
