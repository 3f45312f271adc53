import pytest
import torch
from torch import nn

from reverie.core.errors import ShapeError
from reverie.cost.count import count


def test_a_network_worked_by_hand():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),  # 4x4 outputs x 8 x 3 x 9 = 3456
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),  # 4x4 x 8 x 1 x 9 = 1152
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),  # 80
    )
    counted = count(model, torch.zeros(1, 3, 8, 8))
    assert counted.by_layer == {"0": 3456, "3": 1152, "6": 80}
    assert counted.macs == 3456 + 1152 + 80
    assert counted.parameters == 216 + 16 + 80 + 90
    assert counted.size_bytes == 4 * (counted.parameters + 16) + 8  # running statistics, and a counter of 8 bytes
    assert counted.uncounted == {}


def test_attention_and_matrix_products_count():
    class Attention(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x)

    # Scores and weighted sum: 2 x heads x tokens^2 x width.
    assert count(Attention(), torch.zeros(1, 3, 5, 8)).macs == 2 * 3 * 5 * 5 * 8


def test_the_batch_does_not_change_the_figure_per_image():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    assert count(model, torch.zeros(1, 3, 8, 8)).macs == count(model, torch.zeros(5, 3, 8, 8)).macs


def test_shared_weights_are_stored_once_and_work_twice():
    layer = nn.Linear(4, 4, bias=False)
    counted = count(nn.Sequential(layer, layer), torch.zeros(1, 4))
    assert (counted.parameters, counted.size_bytes, counted.macs) == (16, 64, 32)


def test_an_operator_without_a_rule_is_listed():
    class Spectrum(nn.Module):
        def forward(self, x):
            return torch.fft.rfft(x).abs()

    counted = count(Spectrum(), torch.zeros(1, 8))
    assert list(counted.uncounted) == ["aten._fft_r2c"]


@pytest.mark.parametrize("broken", [False, True])
def test_the_model_is_left_as_it_was(broken):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    if broken:
        with pytest.raises(RuntimeError):
            count(model, torch.zeros(1, 2, 8, 8))
    else:
        count(model, torch.zeros(1, 3, 8, 8))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert torch.equal(state, torch.random.get_rng_state())


class Caching(nn.Module):
    """Keeps its grid, as detectors keep their anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.grid = nn.Conv2d(3, 2, 1), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.grid is None:
            self.grid = torch.arange(x.shape[-1], dtype=x.dtype)
        return self.layer(x) + self.grid


def test_a_network_that_keeps_a_tensor_keeps_none_of_the_count():
    net = Caching()
    assert count(net, torch.zeros(1, 3, 4, 4)).macs == 96
    assert net.grid is None
    net(torch.zeros(1, 3, 4, 4))
    assert count(net, torch.zeros(1, 3, 4, 4)).macs == 96
    assert type(net.grid) is torch.Tensor


def test_an_empty_example_is_refused():
    with pytest.raises(ShapeError, match="at least one image"):
        count(nn.Linear(3, 1), torch.zeros(0, 3))


def test_activations_without_a_tag_of_pytorch_are_linear_as_well():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardswish(inplace=True), nn.Hardswish())
    counted = count(network, torch.zeros(1, 3, 8, 8))
    assert counted.uncounted == {}
    assert counted.macs == 6 * 6 * 8 * 27
