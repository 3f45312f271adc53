"""Every kind of reference, good and bad: the right exception, one sentence, the user's own names in it."""

import builtins
import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from reverie.core.errors import (
    CorruptFile,
    MissingExtra,
    RangeError,
    ReferenceNotFound,
    ReverieError,
    ShapeError,
    UntrustedFile,
    WeightsMismatch,
)
from reverie.core.network import ImageNetwork
from reverie.zoo.embedded import embedded_names
from reverie.zoo.load import load
from reverie.zoo.networks import CifarVGG

VGG = "reverie.zoo.networks:CifarVGG(stages=[[4],[6]])"
STATED: dict[str, Any] = {"image_shape": (3, 8, 8), "mean": (0.5,), "std": (0.25,)}


@pytest.fixture
def body() -> CifarVGG:
    return CifarVGG(stages=[[4], [6]]).eval()


@pytest.fixture
def weights(tmp_path: Path, body: CifarVGG) -> Path:
    path = tmp_path / "vgg.safetensors"
    safetensors.torch.save_file(body.state_dict(), path)
    return path


def test_a_factory_with_weights(weights: Path, body: CifarVGG) -> None:
    images = torch.rand(2, 3, 8, 8)
    network = load(f"{VGG}@{weights}", **STATED)
    assert torch.equal(network(images), body((images - 0.5) / 0.25))
    assert not network.training


def test_preprocessing_from_the_file_beside_the_weights(weights: Path) -> None:
    sidecar = {
        "image_shape": [3, 8, 8],
        "mean": [0.1, 0.2, 0.3],
        "std": [1],
        "class_names": list("abcdefghij"),
        "more": 0,
    }
    weights.with_suffix(".json").write_text(json.dumps(sidecar))
    network = load(f"{VGG}@{weights}", std=(2.0,))
    assert (network.image_shape, network.class_names) == ((3, 8, 8), tuple("abcdefghij"))
    torch.testing.assert_close(network.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    assert network.std.flatten().tolist() == [2.0]
    weights.with_suffix(".json").write_text('{"mean": 3}')
    with pytest.raises(CorruptFile, match=r"vgg\.json does not describe preprocessing"):
        load(f"{VGG}@{weights}", **STATED)


def test_by_order_where_asked(tmp_path: Path, weights: Path, body: CifarVGG) -> None:
    path = tmp_path / "foreign.pth"
    torch.save({f"t{index}": tensor for index, tensor in enumerate(body.state_dict().values())}, path)
    with pytest.raises(WeightsMismatch, match="--positional"):
        load(f"{VGG}@{path}", **STATED)
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(load(f"{VGG}@{path}", positional=True, **STATED)(images), body((images - 0.5) / 0.25))
    with pytest.raises(WeightsMismatch, match="safetensors files keep none"):
        load(f"{VGG}@{weights}", positional=True, **STATED)


def test_initial_weights_are_the_same_each_time_and_leave_no_trace() -> None:
    before = torch.get_rng_state()
    first, second = (load(f"{VGG}@initial", **STATED) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), before)


USER_MODULE = """
import reverie, torch
def wrapped():
    body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    return reverie.ImageNetwork(body, image_shape=(1, 2, 2), mean=[0.5])
def number():
    return 3
def fails(x):
    return torch.nn.Linear(2, 2)
class Noisy(torch.nn.Module):
    def forward(self, x):
        return (x + torch.rand_like(x)).flatten(1)
network = torch.nn.Linear(2, 2)
"""


def test_a_factory_that_brings_its_preprocessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrapping_module_of_a_user.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    network = load("wrapping_module_of_a_user:wrapped@initial")
    assert (network.image_shape, network.mean.item()) == ((1, 2, 2), 0.5)
    assert not isinstance(network.body, ImageNetwork)
    with pytest.raises(ReferenceNotFound, match=r"number returned int, not a torch\.nn\.Module"):
        load("wrapping_module_of_a_user:number@initial", **STATED)
    with pytest.raises(ReferenceNotFound, match=r"with arguments {} could not be built .*missing 1 required"):
        load("wrapping_module_of_a_user:fails@initial", **STATED)
    with pytest.raises(ReferenceNotFound, match="has a Linear of that name: 'network'"):
        load("wrapping_module_of_a_user:network@initial", **STATED)


def test_a_network_that_draws_numbers_is_loaded_without_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "noisy_module_of_a_user.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    before = torch.get_rng_state()
    load("noisy_module_of_a_user:Noisy@initial", **STATED)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("reference", "kind", "sentence"),
    [
        ("zoo:none", ReferenceNotFound, "the zoo has no network 'none'"),
        ("zoo:", ReferenceNotFound, "the zoo has no network ''"),
        ("no/such/run", ReferenceNotFound, "no model 'no/such/run': no such file or folder. Give one of: zoo:NAME"),
        ("model.pt2", ReferenceNotFound, "no model 'model.pt2'"),
        ("fashion-vgg", ReferenceNotFound, "no model 'fashion-vgg'"),
        (VGG, ReferenceNotFound, "names an architecture without weights. Add them"),
        ("no_such_package.x:make@initial", ReferenceNotFound, "cannot import the factory no_such_package.x:make"),
        ("reverie.zoo.networks:Nothing@initial", ReferenceNotFound, "has no such name: 'Nothing'"),
        (
            "reverie.zoo.networks:CifarVGG(depth=3)@initial",
            ReferenceNotFound,
            "unexpected keyword argument 'depth'). Check the arg",
        ),
        (f"{VGG}@none.safetensors", ReferenceNotFound, "no file of weights none.safetensors"),
        (f"{VGG}@none.pth", ReferenceNotFound, "no file of weights none.pth"),
        ("", ReferenceNotFound, "the model reference is empty"),
    ],
)
def test_what_is_not_there(reference: str, kind: type[ReverieError], sentence: str) -> None:
    with pytest.raises(kind, match=re.escape(sentence)) as error:
        load(reference, **STATED)
    assert "\n" not in str(error.value)


def test_weights_of_another_network(weights: Path) -> None:
    with pytest.raises(
        WeightsMismatch, match=r"vgg\.safetensors does not fit CifarResNet: the file looks like a network of 14 tensors"
    ):
        load(f"reverie.zoo.networks:CifarResNet@{weights}", **STATED)


def test_weights_alone_and_other_files(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(ReferenceNotFound, match="holds weights, which do not say their architecture"):
        load(weights)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ReferenceNotFound, match=r"notes\.txt is no model"):
        load(str(tmp_path / "notes.txt"))


@pytest.mark.parametrize(
    ("stated", "kind", "sentence"),
    [
        ({}, ShapeError, "does not say which images it takes: image_shape, mean, std unknown"),
        ({"image_shape": (3, 8, 8)}, ShapeError, "mean, std unknown"),
        (STATED | {"image_shape": (1, 8, 8)}, ShapeError, "cannot take two images of shape (1, 8, 8)"),
        (STATED | {"image_shape": (3, 1, 1)}, ShapeError, "cannot take two images of shape (3, 1, 1)"),
        (STATED | {"image_shape": (3, 8)}, ShapeError, "cannot take two images of shape (3, 8)"),
        (STATED | {"image_shape": (3,)}, ShapeError, "must be (channels, height, width)"),
        (STATED | {"image_shape": (3, 0, 8)}, ShapeError, "must be (channels, height, width)"),
        (STATED | {"mean": (1, 2)}, ShapeError, "normalized for images of 2 channels and cannot take images of shape"),
        (STATED | {"std": (0,)}, RangeError, "std must be positive"),
        (STATED | {"class_names": ["a"]}, ShapeError, "has 10 logits, but 1 class names were given"),
        (STATED | {"trust": "all"}, RangeError, "trust='all' names nothing that can be trusted"),
    ],
)
def test_preprocessing_that_does_not_suit(stated: dict[str, Any], kind: type[ReverieError], sentence: str) -> None:
    with pytest.raises(kind, match=re.escape(sentence)):
        load(f"{VGG}@initial", **stated)


class Hostile:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


def test_an_exported_program_needs_trust(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.zeros(4, 3, 8, 8),), dynamic_shapes=({0: batch},))
    path = tmp_path / "model.pt2"
    torch.export.save(program, path)
    with pytest.raises(UntrustedFile, match=r"model\.pt2 is a torch\.export archive, and reading one may run code"):
        load(path)
    network = load(path, trust="pt2", mean=(0.5,), std=(0.5,))
    assert network.image_shape == (3, 8, 8)
    images = torch.rand(3, 3, 8, 8)
    torch.testing.assert_close(network(images), model((images - 0.5) / 0.5))
    assert network.train().eval().training is False
    with pytest.raises(ShapeError, match="mean, std unknown"):
        load(path, trust="pt2")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CorruptFile, match=r"model\.pt2 is no torch\.export archive, or damaged"):
        load(path, trust="pt2", **STATED)


def test_a_hostile_program_is_not_even_opened(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save(Hostile(canary), tmp_path / "model.pt2")
    with pytest.raises(UntrustedFile):
        load(tmp_path / "model.pt2")
    assert not canary.exists()


@pytest.mark.parametrize("reference", ["timm:resnet18@initial", "zoo:imagenet-efficientnet-lite0"])
def test_a_missing_extra_says_how_to_install_it(reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_timm(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "timm":
            raise ImportError("No module named 'timm'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_timm)
    monkeypatch.setattr("reverie.zoo.timm_networks.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'reverie\[imagenet\]'"):
        load(reference)


def test_every_embedded_network_loads() -> None:
    for name in embedded_names():
        network = load(f"zoo:{name}")
        with torch.no_grad():
            assert network(torch.rand(1, *network.image_shape)).shape == (1, len(network.class_names))
