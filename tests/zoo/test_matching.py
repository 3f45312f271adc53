"""Weights find their place by name or by order, or nothing is copied."""

import copy
import re

import pytest
import torch
from torch import nn

from reverie.core.errors import WeightsMismatch
from reverie.zoo.matching import load_weights


def net(width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width, 2))


def random_state(width: int = 4) -> dict[str, torch.Tensor]:
    return {
        name: torch.rand_like(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in net(width).state_dict().items()
    }


def holds(module: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    mine = module.state_dict()
    return all(torch.equal(mine[name], tensor) for name, tensor in state.items())


def test_by_name_in_any_order() -> None:
    module, state = net(), random_state()
    load_weights(module, dict(reversed(state.items())))
    assert holds(module, state)


@pytest.mark.parametrize("prefix", ["model.", "net.backbone."])
def test_a_shared_prefix_is_no_difference(prefix: str) -> None:
    module, state = net(), random_state()
    load_weights(module, {prefix + name: tensor for name, tensor in state.items()})
    assert holds(module, state)


def test_batch_counters_may_be_missing_and_half_precision_is_widened() -> None:
    module, state = net(), random_state()
    del state["1.num_batches_tracked"]
    load_weights(module, {name: tensor.half() for name, tensor in state.items()})
    assert holds(module, {name: tensor.half().float() for name, tensor in state.items()})


def test_by_order_where_asked() -> None:
    module, state = net(), random_state()
    foreign = {f"layer{index}": tensor for index, tensor in enumerate(state.values())}
    with pytest.raises(WeightsMismatch, match="shapes agree in order: pair them by order with --positional"):
        load_weights(module, foreign)
    load_weights(module, foreign, positional=True)
    assert holds(module, state)
    without_counter = {name: tensor for name, tensor in foreign.items() if tensor.is_floating_point()}
    load_weights(net(), without_counter, positional=True)


@pytest.mark.parametrize("positional", [False, True])
def test_another_network_is_refused_and_nothing_is_copied(positional: bool) -> None:
    module = net()
    before = copy.deepcopy(module.state_dict())
    sentence = (
        "cat.pth does not fit Sequential: the file looks like a network of 9 tensors and 49 values, this network has 9 "
        "and 43; 7 of another shape: '0.weight' is (5, 3, 1, 1) in the file and (4, 3, 1, 1) in the network, "
    )
    wide = random_state(5)
    sizes = [sum(tensor.numel() for tensor in state.values()) for state in (wide, before)]
    sentence = sentence.replace("49", str(sizes[0])).replace("43", str(sizes[1]))
    with pytest.raises(WeightsMismatch, match=re.escape(sentence)):
        load_weights(module, wide, positional=positional, origin="cat.pth")
    assert holds(module, before)


def test_missing_and_unexpected_are_named_and_counted() -> None:
    state = random_state()
    del state["3.bias"], state["3.weight"]
    state |= {f"extra.{index}": torch.ones(1) for index in range(5)}
    sentence = (
        "2 missing: '3.weight', '3.bias'; 5 unexpected: 'extra.0', 'extra.1', 'extra.2', .... Name the architecture"
    )
    with pytest.raises(WeightsMismatch, match=re.escape(sentence)):
        load_weights(net(), state)


def test_quantized_weights_are_refused() -> None:
    state = random_state()
    state["3.weight"] = state["3.weight"].to(torch.uint8)
    with pytest.raises(WeightsMismatch, match=r"1 stored as integers: '3\.weight'"):
        load_weights(net(), state)
