"""`ImageNetwork`: preprocessing inside, images checked at the door, rebuilt from its origin."""

import pytest
import torch
from torch import nn

from reverie.core.errors import RangeError, ReferenceNotFound, ShapeError
from reverie.core.network import ImageNetwork, Origin, as_network, build_origin
from traces import fingerprint


def test_normalization_by_hand() -> None:
    network = ImageNetwork(nn.Identity(), image_shape=(3, 1, 1), mean=[0.5, 0.25, 0.0], std=[0.5, 0.25, 2.0])
    images = torch.tensor([1.0, 0.0, 1.0]).view(1, 3, 1, 1)
    assert network(images).flatten().tolist() == [1.0, -1.0, 0.5]


def test_one_mean_serves_all_channels(small_net: nn.Module) -> None:
    one = ImageNetwork(small_net, image_shape=(3, 8, 8), mean=[0.4], std=[0.2])
    three = ImageNetwork(small_net, image_shape=(3, 8, 8), mean=[0.4] * 3, std=[0.2] * 3)
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(one.eval()(images), three.eval()(images))


def test_a_mean_in_other_units_than_images_is_refused() -> None:
    for mean in ([127.5], [123.7, 116.3, 103.5]):
        with pytest.raises(RangeError, match=r"lies far outside \[0, 1\].* divide it and std by 255"):
            ImageNetwork(nn.Identity(), image_shape=(3, 8, 8), mean=mean, std=[63.0])


def test_no_preprocessing_by_default(small_net: nn.Module) -> None:
    images = torch.rand(2, 3, 8, 8)
    small_net.eval()
    assert torch.equal(ImageNetwork(small_net, image_shape=(3, 8, 8))(images), small_net(images))


def test_weights_are_those_of_the_body(small_net: nn.Module) -> None:
    network = ImageNetwork(small_net, image_shape=(3, 8, 8), mean=[0.5])
    assert set(network.state_dict()) == {f"body.{name}" for name in small_net.state_dict()}


@pytest.mark.parametrize("which", ["mean", "std"])
def test_one_value_per_channel(which: str) -> None:
    with pytest.raises(ShapeError, match=f"{which} has 2 values for images of 3 channels; give one for all"):
        ImageNetwork(nn.Identity(), image_shape=(3, 8, 8), **{which: [0.5, 0.5]})


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf")])
def test_a_deviation_is_positive(std: float) -> None:
    with pytest.raises(RangeError, match=r"std must be positive and finite"):
        ImageNetwork(nn.Identity(), image_shape=(3, 8, 8), std=[0.5, 0.5, std])


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 8, 9), (3, 8, 8), (2, 3, 8, 8, 1)])
def test_other_images_are_refused(small_net: nn.Module, shape: tuple[int, ...]) -> None:
    network = ImageNetwork(small_net, image_shape=(3, 8, 8))
    with pytest.raises(ShapeError, match=r"images have shape \(n, .*\), the network takes \(n, 3, 8, 8\)\. Resize"):
        network.check_images(torch.zeros(shape))


def test_images_of_the_shape_are_accepted(small_net: nn.Module) -> None:
    ImageNetwork(small_net, image_shape=[3, 8, 8]).check_images(torch.zeros(5, 3, 8, 8))


def test_another_body_keeps_everything_else(small_net: nn.Module) -> None:
    origin = Origin("torch.nn:Identity", {})
    network = ImageNetwork(
        small_net, image_shape=(3, 8, 8), mean=[0.1, 0.2, 0.3], std=[0.7], class_names="abcd", origin=origin
    )
    network = network.double().eval()
    other = network.with_body(nn.Identity())
    assert (other.image_shape, other.class_names, other.origin) == ((3, 8, 8), ("a", "b", "c", "d"), origin)
    assert not other.training
    assert fingerprint([other.mean, other.std]) == fingerprint([network.mean, network.std])
    assert other.mean.data_ptr() != network.mean.data_ptr()
    assert isinstance(network.body, nn.Sequential)


def test_a_plain_module_must_say_its_images(small_net: nn.Module) -> None:
    with pytest.raises(ShapeError, match=r"Sequential does not say which images it takes\. Wrap it: reverie\.ImageNet"):
        as_network(small_net)
    network = as_network(small_net, (3, 8, 8))
    assert network.body is small_net
    assert as_network(network) is network


def test_an_origin_builds_the_architecture() -> None:
    built = build_origin(Origin("torch.nn:Linear", {"in_features": 3, "out_features": 2}))
    assert isinstance(built, nn.Linear)
    assert built.weight.shape == (2, 3)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("absent_package:make", "cannot import the factory absent_package:make"),
        ("torch.nn:Absent", "torch.nn has no such name: 'Absent'"),
        ("torch.nn", "torch.nn has no such name: ''"),
        ("math:pi", "math has a float of that name: 'pi'"),
        (":make", "cannot import the factory :make"),
        ("builtins:dict", "builtins:dict returned dict, not a torch.nn.Module"),
    ],
)
def test_an_origin_that_builds_nothing_is_named(factory: str, message: str) -> None:
    with pytest.raises(ReferenceNotFound, match=message):
        build_origin(Origin(factory, {}))


def test_preprocessing_lies_where_the_network_lies() -> None:
    with torch.device("meta"):
        elsewhere = nn.Linear(4, 2)
    wrapped = as_network(elsewhere, (1, 2, 2))
    assert {wrapped.mean.device.type, wrapped.std.device.type} == {"meta"}
    assert not wrapped.state_dict().keys() & {"mean", "std"}
