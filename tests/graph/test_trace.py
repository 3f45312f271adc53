import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reverie.core.errors import ShapeError, UnsupportedOp
from reverie.graph.trace import attempt, record
from reverie.zoo.networks import CifarResNet
from traces import global_trace, model_trace


class Careless(nn.Module):
    """Counts its calls in a buffer, keeps what it saw, and draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.cache = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.cache = self.conv(x)
        return self.cache + torch.rand_like(self.cache)


class Stops(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        raise RuntimeError("the reactor is too hot")


class Decides(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.relu().sum().item() > 0 else -x


def test_a_pass_is_recorded_in_order_with_its_modules():
    trace = record(CifarResNet(blocks=1, widths=(4, 4, 4)), torch.zeros(2, 3, 8, 8))
    ops = [(call.op.overloadpacket.__name__, call.module) for call in trace.calls if call.inputs]
    assert ops[:3] == [("convolution", "conv1"), ("native_batch_norm", "bn1"), ("relu", "")]
    assert ops[-1] == ("addmm", "linear")
    assert trace.outputs[0].shape == (2, 10)
    block = next(one for one in trace.module_calls if one.module == "layer1.0")
    assert block.inputs[0] in trace.calls[block.first].inputs
    assert block.outputs[0] in trace.calls[block.last - 1].outputs


def test_in_place_operations_make_new_values():
    trace = record(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)), torch.zeros(1, 3, 8, 8))
    convolution, relu = trace.calls
    assert relu.inputs == convolution.outputs
    assert relu.outputs != convolution.outputs


def test_arguments_carry_their_names_and_defaults():
    trace = record(nn.Conv2d(4, 8, 3, stride=2, groups=2), torch.zeros(1, 4, 8, 8))
    arguments = trace.calls[0].arguments
    assert (arguments["stride"], arguments["groups"], arguments["transposed"]) == ([2, 2], 2, False)
    assert arguments["weight"] == trace.tensors["weight"]


def test_tied_weights_have_one_value_and_an_alias():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    assert record(net, torch.zeros(1, 4)).aliases == {"0.weight": ("2.weight",)}


@pytest.mark.parametrize("net", [Careless(), nn.Sequential(nn.Conv2d(3, 4, 3), Stops())], ids=["careless", "raises"])
def test_nothing_is_left_behind(net):
    net.train()
    example = torch.randn(2, 3, 8, 8)
    before = model_trace(net), global_trace(), example.clone()
    attempt(net, example)
    assert (model_trace(net), global_trace()) == before[:2]
    assert torch.equal(example, before[2])
    assert getattr(net, "cache", None) is None


def test_random_state_of_python_and_numpy_is_not_touched():
    python, numpy = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    record(Careless(), torch.zeros(1, 3, 8, 8))
    assert random.getstate() == python
    assert np.random.get_state()[1].tolist() == numpy  # noqa: NPY002


def test_a_batch_that_does_not_fit_says_where_it_stopped():
    with pytest.raises(ShapeError, match=r"Sequential cannot run on a batch of shape \(1, 3\).*after aten.t in 1"):
        record(nn.Sequential(nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 3))


def test_an_error_of_the_network_is_told():
    with pytest.raises(ShapeError, match="the reactor is too hot"):
        record(Stops(), torch.zeros(1, 3))


def test_control_flow_on_values_is_refused():
    with pytest.raises(UnsupportedOp, match=r"Decides.*aten.sum"):
        record(Decides(), torch.zeros(1, 3))


def test_a_network_in_training_mode_is_recorded_in_evaluation_mode():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    trace = record(net, torch.zeros(2, 3, 8, 8))
    assert [call.arguments["training"] for call in trace.calls if "training" in call.arguments] == [False]
    assert not any("dropout" in str(call) for call in trace.calls)
