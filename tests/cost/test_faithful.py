"""What exporters and runtimes get wrong survives the export."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reverie.core.network import ImageNetwork
from reverie.cost.faithful import _one_kernel_each
from reverie.cost.onnx import check_onnx, export_onnx


def test_a_maximum_over_padding_counts_the_padding():
    torch.manual_seed(0)
    # All that is given is negative, so only the padding's zeros stand out.
    pool = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConstantPad2d(1, 0.0), nn.MaxPool2d(3, 2), nn.Flatten())
    with torch.no_grad():
        pool[0].bias.sub_(9.0)
    network = ImageNetwork(pool, image_shape=(3, 6, 6), mean=[0.5] * 3, std=[0.25] * 3)
    assert check_onnx(export_onnx(network), network, torch.rand(3, 3, 6, 6)) < 1e-5


class OwnKernels(nn.Module):
    """Every example mixes its kernels from three, as conditional convolutions do."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 3)
        self.kernels = nn.Parameter(torch.randn(3, 4 * 3 * 9))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        kernels = (self.mix(x.mean((2, 3))).sigmoid() @ self.kernels).view(n * 4, c, 3, 3)
        return nn.functional.conv2d(x.reshape(1, n * c, h, w), kernels, padding=1, groups=n).view(n, 4, h, w).flatten(1)


def test_a_kernel_for_every_example_is_exported_with_a_free_batch():
    torch.manual_seed(0)
    network = ImageNetwork(OwnKernels(), image_shape=(3, 6, 6), mean=[0.5] * 3, std=[0.25] * 3)
    model = export_onnx(network)
    for count in (1, 5):
        assert check_onnx(model, network, torch.rand(count, 3, 6, 6)) < 1e-4


@pytest.mark.parametrize("more", [{}, {"stride": 2, "padding": 1}, {"dilation": (2, 1), "padding": (2, 0)}])
def test_patches_times_kernels_are_a_convolution(more: dict[str, Any]):
    rng = torch.Generator().manual_seed(0)
    shapes = (2, 6, 9, 8), (12, 2, 3, 3), (12,)
    data, weight, bias = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes)
    given = {"stride": 1, "padding": 0, "dilation": 1, "groups": 3} | more
    found = _one_kernel_each({"input": data, "weight": weight, "bias": bias, **given})
    torch.testing.assert_close(found, nn.functional.conv2d(data, weight, bias, **given))
