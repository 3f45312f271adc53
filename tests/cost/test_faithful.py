"""What exporters and runtimes get wrong survives the export."""

import pytest
import torch
from torch import Tensor, nn

from reverie.core.network import ImageNetwork
from reverie.cost.faithful import Faithful
from reverie.cost.onnx import check_onnx, export_onnx


class Standardized(nn.Conv2d):
    """A convolution whose kernels have mean 0 and variance 1, as PyTorch code writes it."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = nn.functional.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-8)
        return nn.functional.conv2d(x, weight.reshape_as(self.weight), self.bias)


def test_standardized_weights_are_exported_as_they_are():
    torch.manual_seed(0)
    # Kernels of mean 3: an exporter that takes their statistics for 0 and 1 is off by more than all there is.
    body = nn.Sequential(Standardized(3, 8, 3), nn.ReLU(), Standardized(8, 4, 3), nn.Flatten())
    with torch.no_grad():
        body[0].weight.add_(3.0)
        body[2].weight.mul_(0.01)
    network = ImageNetwork(body, image_shape=(3, 6, 6), mean=[0.5] * 3, std=[0.25] * 3)
    images = torch.rand(3, 3, 6, 6)
    largest = float(network(images).detach().abs().max())
    assert check_onnx(export_onnx(network), network, images) < 1e-5 * largest


@pytest.mark.parametrize("affine", [True, False])
def test_arithmetic_equals_the_function(affine: bool):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, 4, 4, generator=rng, dtype=torch.float64) + 2
    vectors = [torch.rand(3, generator=rng, dtype=torch.float64) for _ in range(2)] if affine else [None, None]
    wanted = nn.functional.batch_norm(x, None, None, *vectors, training=True, eps=0.1)
    with Faithful():
        found = nn.functional.batch_norm(x, None, None, *vectors, training=True, eps=0.1)
        stored = nn.functional.batch_norm(x, torch.zeros(3).double(), torch.ones(3).double(), *vectors)
    torch.testing.assert_close(found, wanted)
    assert torch.equal(stored, nn.functional.batch_norm(x, torch.zeros(3).double(), torch.ones(3).double(), *vectors))


def test_a_maximum_over_padding_counts_the_padding():
    torch.manual_seed(0)
    # All that is given is negative, so only the padding's zeros stand out.
    pool = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConstantPad2d(1, 0.0), nn.MaxPool2d(3, 2), nn.Flatten())
    with torch.no_grad():
        pool[0].bias.sub_(9.0)
    network = ImageNetwork(pool, image_shape=(3, 6, 6), mean=[0.5] * 3, std=[0.25] * 3)
    assert check_onnx(export_onnx(network), network, torch.rand(3, 3, 6, 6)) < 1e-5
