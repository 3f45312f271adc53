import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reverie.compress.layer_reading import drawn_rows, rows_read


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(3, 4, (3, 2), stride=(2, 3), padding=(1, 0), dilation=(2, 1)),
        nn.Conv2d(3, 4, 1, stride=2, bias=False),
        nn.Conv2d(3, 4, 5, padding=4, dilation=2),
    ],
)
def test_what_a_convolution_reads_is_its_unfolded_input_and_gives_its_output(layer):
    x = torch.randn(2, 3, 9, 8)
    output = layer(x).flatten(2).transpose(1, 2)
    at = torch.randperm(output.shape[1])[:5]
    found = rows_read(layer, x, at)
    unfolded = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride).transpose(1, 2)
    assert torch.equal(found[..., : unfolded.shape[-1]], unfolded[:, at])
    weight = layer.weight.flatten(1)
    if layer.bias is not None:
        weight = torch.cat([weight, layer.bias[:, None]], 1)
    assert torch.allclose(found @ weight.T, output[:, at], atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Conv2d(3, 4, 3), (2, 3, 9, 8)), (nn.Linear(3, 4), (2, 5, 6, 3)), (nn.Linear(3, 4, bias=False), (2, 3))],
)
def test_rows_that_are_drawn_belong_together(layer, shape):
    x = torch.randn(shape)
    inputs, given = drawn_rows(layer, x, layer(x), most=7, seed=0, name="a", index=0)
    assert len(inputs) == len(given) <= 14
    weight = layer.weight.flatten(1)
    if layer.bias is not None:
        weight = torch.cat([weight, layer.bias[:, None]], 1)
    assert torch.allclose(inputs @ weight.T, given, atol=1e-5)
    other, _ = drawn_rows(layer, x, layer(x), most=7, seed=1, name="a", index=0)
    assert len(shape) == 2 or not torch.equal(inputs, other)
