"""`frozen` and `tap` give the model back as it was, however the body ends."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn

from reverie.core.errors import ReferenceNotFound, ShapeError
from reverie.core.modes import frozen
from reverie.core.tap import select_layers, tap
from traces import changes, model_trace

BORROW: dict[str, Callable[[nn.Module], AbstractContextManager[object]]] = {
    "frozen": frozen,
    "tap by type": lambda model: tap(model, nn.BatchNorm2d),
    "tap by types": lambda model: tap(model, (nn.Conv2d, nn.Linear)),
    "tap by predicate": lambda model: tap(model, lambda name, _: name == "2"),
}


def used(model: nn.Module) -> nn.Module:
    """As a user might hand it over: mixed modes, a frozen layer, a stored gradient, a hook of their own."""
    model.train()
    model.get_submodule("1").eval()
    model.get_submodule("0").requires_grad_(False)
    model.get_submodule("5").register_forward_hook(lambda *_: None)
    weight = next(iter(model.get_submodule("5").parameters()))
    weight.grad = torch.full_like(weight, 3.0)
    return model


@pytest.mark.parametrize("borrow", BORROW.values(), ids=BORROW.keys())
@pytest.mark.parametrize("failure", [None, RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_the_model_is_as_before(
    small_net: nn.Module,
    borrow: Callable[[nn.Module], AbstractContextManager[object]],
    failure: type[BaseException] | None,
) -> None:
    model = used(small_net)
    before = model_trace(model)
    with nullcontext() if failure is None else pytest.raises(failure), borrow(model):
        model.get_submodule("0")(torch.zeros(1, 3, 8, 8))
        if failure is not None:
            raise failure
    assert changes(before, model_trace(model)) == []


def test_an_error_inside_the_model_leaves_no_hook(small_net: nn.Module) -> None:
    before = model_trace(small_net)
    with pytest.raises(RuntimeError, match="channels"), tap(small_net, nn.Conv2d):
        small_net(torch.zeros(1, 5, 8, 8))
    assert changes(before, model_trace(small_net)) == []


def test_frozen_models_are_frozen(small_net: nn.Module) -> None:
    images = torch.rand(4, 3, 8, 8, requires_grad=True)
    statistics = small_net.get_submodule("1").state_dict()["running_mean"].clone()
    with frozen(small_net):
        assert not any(module.training for module in small_net.modules())
        small_net(images).sum().backward()
    assert images.grad is not None
    assert all(parameter.grad is None for parameter in small_net.parameters())
    assert torch.equal(small_net.get_submodule("1").state_dict()["running_mean"], statistics)


def test_frozen_nests(small_net: nn.Module) -> None:
    with frozen(small_net):
        with frozen(small_net):
            pass
        assert not small_net.training
        assert not any(parameter.requires_grad for parameter in small_net.parameters())
    assert small_net.training


def test_a_layer_with_two_parents_keeps_its_own_mode() -> None:
    shared = nn.Dropout()
    model = nn.ModuleList([nn.Sequential(shared), nn.Sequential(shared)]).train()
    shared.eval()
    with frozen(model):
        pass
    assert [module.training for module in model.modules()] == [True, True, False, True]


def test_tap_reads_what_flows_and_keeps_its_graph(small_net: nn.Module) -> None:
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    with tap(small_net, (nn.Conv2d, nn.Flatten)) as seen:
        small_net(images)
    assert list(seen) == ["0", "4"]
    assert torch.equal(seen["0"].input, images)
    assert torch.equal(seen["0"].output, small_net.get_submodule("0")(images))
    (gradient,) = torch.autograd.grad(seen["4"].output.sum(), images)
    assert gradient.abs().sum() > 0


def test_tap_reads_the_latest_call(small_net: nn.Module) -> None:
    with tap(small_net, nn.Conv2d) as seen:
        small_net(torch.zeros(1, 3, 8, 8))
        small_net(torch.ones(2, 3, 8, 8))
    assert torch.equal(seen["0"].input, torch.ones(2, 3, 8, 8))


class ByName(nn.Module):
    """Calls its layer with keywords, as transformers do."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(scale=2.0, images=images)


class Scaled(nn.Module):
    def forward(self, scale: float, images: Tensor) -> Tensor:
        return scale * images


class Constant(nn.Module):
    def forward(self) -> Tensor:
        return torch.ones(1)


def test_tap_reads_layers_called_by_keyword() -> None:
    model = ByName(Scaled())
    with tap(model, Scaled) as seen:
        model(torch.ones(1, 2))
    assert torch.equal(seen["layer"].input, torch.ones(1, 2))


def test_a_layer_without_input_is_named() -> None:
    model = nn.ModuleDict({"source": Constant()})
    with (
        pytest.raises(ShapeError, match="input of layer source: it was given no tensor but nothing"),
        tap(model, Constant),
    ):
        model["source"]()


def test_no_layer_matches(small_net: nn.Module) -> None:
    with pytest.raises(ReferenceNotFound, match=r"no layer matches LSTM; Sequential is made of AdaptiveAvgPool2d"):
        select_layers(small_net, nn.LSTM)
    with pytest.raises(ReferenceNotFound, match=r"no layer is named; .*made of AdaptiveAvgPool2d"):
        select_layers(small_net, [])
    with pytest.raises(ReferenceNotFound, match="no layer matches the predicate; Sequential is made of"):
        select_layers(small_net, lambda name, _: name == "99")


def test_kinds_and_names_come_in_any_collection_and_may_be_mixed(small_net: nn.Module) -> None:
    convolutions = list(select_layers(small_net, nn.Conv2d))
    assert list(select_layers(small_net, [nn.Conv2d])) == convolutions
    assert list(select_layers(small_net, (nn.Conv2d, "5"))) == [*convolutions, "5"]
    with pytest.raises(ReferenceNotFound, match="Sequential has no layer 'fc'"):
        select_layers(small_net, (nn.Conv2d, "fc"))


def test_a_module_of_two_names_is_found_by_both() -> None:
    shared = nn.Linear(2, 2)
    model = nn.ModuleDict({"first": shared, "second": shared})
    assert list(select_layers(model, ["second"])) == ["second"]
    assert list(select_layers(model, nn.Linear)) == ["first"]
