"""Dreams of every kind of network, head and image: no batch norm, several labels, vectors, maps, one to three axes."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reverie.core.errors import FolderInUse, RangeError, ShapeError
from reverie.core.events import Event
from reverie.core.source import noise_source
from reverie.dream import (
    Bank,
    FourierCanvas,
    Head,
    PixelCanvas,
    ShiftAndFlip,
    Statistics,
    View,
    attention_layers,
    calibrate_statistics,
    capture_statistics,
    class_term,
    dense_map,
    dream,
    embedding,
    multi_label,
    optimize,
    patch_similarity_term,
    single_label,
    statistics_term,
    total_variation_term,
)


def vision_transformer() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=4)


def convnext() -> nn.Module:
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 12, 12), num_classes=4)


def normalizer_free() -> nn.Module:
    """Weight-standardized convolutions, and nothing that normalizes activations."""
    from timm.models.nfnet import NfCfg, NormFreeNet

    small = NfCfg(depths=(1, 1), channels=(16, 24), stem_chs=8, num_features=32, attn_layer=None, act_layer="gelu")
    return NormFreeNet(small, num_classes=4)


def big_transfer() -> nn.Module:
    from timm.models.resnetv2 import ResNetV2

    return ResNetV2(layers=(1, 1), channels=(128, 128), stem_chs=32, num_classes=4)


def mixer() -> nn.Module:
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(img_size=32, patch_size=8, embed_dim=24, num_blocks=2, num_classes=4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("build", [vision_transformer, convnext, normalizer_free, big_transfer, mixer])
def test_networks_without_batch_norm_dream(build: Callable[[], nn.Module]) -> None:
    pytest.importorskip("timm")
    network = build()
    told: list[Event] = []
    bank = dream(network, count=4, image_shape=(3, 32, 32), steps=2, on_event=told.append)
    assert bank.config["statistics"].startswith("self-calibrated on 256 dead leaves")
    assert set(told[-1].figures) > {"class", "statistics"}
    distances = []
    for steps in (1, 25):
        result = optimize(
            network,
            PixelCanvas.noise(range(16), (3, 32, 32)),
            term=statistics_term(),
            targets=torch.arange(16) % 4,
            steps=steps,
            augment=ShiftAndFlip(1),
            seed=0,
            learning_rate=0.02,
            statistics=calibrate_statistics(network, image_shape=(3, 32, 32), count=32),
        )
        distances.append(result.losses["statistics"])
    assert distances[1] < 0.95 * distances[0]


def test_a_transformer_dreams_with_unlike_patches() -> None:
    pytest.importorskip("timm")
    bank = dream(
        vision_transformer(),
        count=4,
        image_shape=(3, 32, 32),
        steps=3,
        term=class_term() + 0.1 * patch_similarity_term(),
        taps=attention_layers,
    )
    assert bank.config["taps"] == "reverie.dream.patches.attention_layers"
    assert "bandwidth" in bank.config["term"][1]["loss"]


def test_captured_statistics_are_met_and_named(small_net: nn.Module, tmp_path: Path) -> None:
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4))
    captured = capture_statistics(body, noise_source(count=32, image_shape=(3, 8, 8), seed=0))
    asked = {"count": 16, "image_shape": (3, 8, 8), "steps": 80, "term": class_term() + 10.0 * statistics_term()}
    bank = dream(body, **asked, statistics=captured, path=tmp_path)  # type: ignore[arg-type]
    assert bank.config["statistics"].startswith("captured from 32 images of noise (")
    shown = capture_statistics(body, bank.source()).layers["1"][1]
    without = dream(body, **(asked | {"term": class_term()}))  # type: ignore[arg-type]
    free = capture_statistics(body, without.source()).layers["1"][1]
    wanted = captured.layers["1"][1]
    assert float((shown - wanted).norm()) < 0.5 * float((free - wanted).norm())
    other = Statistics(captured.origin, {"1": (captured.layers["1"][0] + 1, wanted)})
    with pytest.raises(FolderInUse, match="made with statistics"):
        dream(body, **asked, statistics=other, path=tmp_path)  # type: ignore[arg-type]


def convolutional(channels: int, head: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), head)


def pooled(out: int) -> nn.Module:
    """A head whose answers differ clearly from image to image."""
    linear = nn.Linear(6 * 64, out)
    nn.init.normal_(linear.weight, std=0.5)
    return nn.Sequential(nn.Flatten(), linear)


def test_several_labels(tmp_path: Path) -> None:
    network = convolutional(3, pooled(5))
    targets = (torch.rand(6, 5) < 0.4).float()
    asked = {"count": 6, "image_shape": (3, 8, 8), "steps": 60, "targets": targets, "head": multi_label()}
    bank = dream(network, **asked, path=tmp_path)  # type: ignore[arg-type]
    assert bank.labels.dtype == torch.float32
    assert float(multi_label().agreement(bank.logits, bank.labels).mean()) > 0.9
    assert torch.equal(Bank.load(tmp_path).labels, targets)
    bank.verify()
    assert bank.config["head"] == "multi-label"
    assert [part["name"] for part in bank.config["term"]] == ["labels", "statistics", "total variation", "norm"]
    with pytest.raises(ShapeError, match="not one class for each dream"):
        _ = bank.agrees
    assert bank.source().labels is None


def test_a_vector_to_match() -> None:
    torch.manual_seed(1)
    network = convolutional(2, pooled(7))
    real = noise_source(count=4, image_shape=(2, 8, 8), seed=3).floats()
    wanted = network.eval()(real).detach()
    bank = dream(network, count=4, image_shape=(2, 8, 8), steps=80, targets=wanted, head=embedding())
    near = embedding().agreement(bank.logits, wanted).mean()
    far = embedding().agreement(bank.logits, wanted.roll(1, 0)).mean()
    assert float(near) > 0.97
    assert float(near) > float(far)


def test_a_map_of_classes() -> None:
    network = nn.Conv2d(3, 3, 1)  # the class of a pixel is its brightest channel
    nn.init.dirac_(network.weight)
    network.weight.data *= 10
    nn.init.zeros_(network.bias)
    targets = torch.zeros(4, 8, 8, dtype=torch.int64)
    targets[:, :4] = 1
    targets[:, :, 4:] += 1
    bank = dream(
        network,
        count=4,
        image_shape=(3, 8, 8),
        steps=80,
        targets=targets,
        head=dense_map(),
        augment=ShiftAndFlip(0, flip=False),
    )
    assert bank.logits.shape == (4, 3, 8, 8)
    assert float(dense_map().agreement(bank.logits, targets).mean()) > 0.95
    assert bank.config["head"] == "dense map"


LAYERS = {1: (nn.Conv1d, nn.BatchNorm1d), 2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}


@pytest.mark.parametrize("shape", [(2, 24), (5, 8, 9), (1, 4, 6, 5)])
def test_images_of_any_channels_and_axes(shape: tuple[int, ...], tmp_path: Path) -> None:
    convolution, norm = LAYERS[len(shape) - 1]
    sizes = math.prod(shape[1:])
    network = nn.Sequential(convolution(shape[0], 4, 3, padding=1), norm(4), nn.Flatten(), nn.Linear(4 * sizes, 3))
    nn.init.normal_(network[3].weight)
    bank = dream(network, count=5, image_shape=shape, steps=40, path=tmp_path)
    assert bank.images.shape == (5, *shape)
    assert float(bank.agrees.float().mean()) >= 0.8
    assert torch.equal(Bank.load(tmp_path).images, bank.images)
    assert FourierCanvas([0], shape).images().shape == (1, *shape)


@pytest.mark.parametrize("shape", [(2, 9), (1, 4, 5, 6)])
def test_shifts_move_whole_rows_around_the_edge(shape: tuple[int, ...]) -> None:
    images = torch.rand(6, *shape, requires_grad=True)
    seen = ShiftAndFlip(2)(images, torch.Generator().manual_seed(0))
    assert not torch.equal(seen, images)
    # Only places change: the sorted values of each image and channel are the same.
    assert torch.equal(seen.flatten(2).sort().values, images.flatten(2).sort().values)
    assert torch.equal(ShiftAndFlip(0, flip=False)(images, torch.Generator()), images)
    weights = torch.rand_like(images)
    (gradient,) = torch.autograd.grad((seen * weights).sum(), images)
    assert torch.equal(gradient.flatten(2).sort().values, weights.flatten(2).sort().values)


def view(images: Tensor) -> View:
    return View(images, torch.zeros(len(images), 2), torch.zeros(len(images), dtype=torch.int64))


def test_variation_along_every_axis_by_hand() -> None:
    line = torch.tensor([[[0.0, 1.0, 3.0]]])
    assert float(total_variation_term()(view(line))) == pytest.approx((1 + 4) / 2)
    cube = torch.zeros(1, 1, 2, 2, 2)
    cube[0, 0, 1] = 1.0  # differs along the first axis only
    assert float(total_variation_term(power=1.0)(view(cube))) == pytest.approx(1.0)
    assert float(total_variation_term(power=3.0)(view(cube.transpose(2, 4)))) == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(2, 64), (1, 16, 16, 16)])
def test_clouds_have_unit_variance_in_any_dimension(shape: tuple[int, ...]) -> None:
    pixels = PixelCanvas.noise(range(60), shape, deviation=0.05).images().detach()
    assert float(pixels.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(pixels.std()) == pytest.approx(0.05, rel=0.3)


@pytest.mark.parametrize(
    ("head", "targets", "error", "message"),
    [
        (single_label(), torch.zeros(3, 2), ShapeError, "must name one class for each of 3 images"),
        (multi_label(), torch.zeros(2, 5), ShapeError, r"hold one target for each of 3 images, got shape \(2, 5\)"),
        (single_label(), torch.tensor([0, 1, 9]), RangeError, r"must lie in 0\.\.4, got 0\.\.9"),
        (multi_label(), torch.zeros(3), ShapeError, r"labels \(n, k\) of 0 and 1; the network answers \(3, 5\)"),
        (multi_label(), torch.full((3, 5), 0.5), RangeError, "labels must be 0 or 1"),
        (embedding(), torch.zeros(3, 4), ShapeError, "a target for every answer"),
        (embedding(), torch.full((3, 5), float("nan")), RangeError, "not finite"),
        (dense_map(), torch.zeros(3, 5, dtype=torch.int64), ShapeError, "one class for every position"),
        (multi_label(), None, ShapeError, "head 'multi-label' need targets, one for each of 3 images"),
    ],
)
def test_targets_that_do_not_fit(head: Head, targets: Tensor | None, error: type[Exception], message: str) -> None:
    network = convolutional(3, pooled(5))
    with pytest.raises(error, match=message):
        dream(network, count=3, image_shape=(3, 8, 8), steps=1, targets=targets, head=head)


def test_answers_that_are_no_tensor() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(ShapeError, match=r"returned tuple for 2 images; dreams for the head .embedding. need one"):
        dream(Two(), count=1, image_shape=(3, 8, 8), targets=torch.zeros(1, 3), head=embedding())
