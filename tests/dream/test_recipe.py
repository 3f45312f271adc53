"""The published preset, drawn targets, layers as answers, canvases of every kind, and statistics asked for by name."""

from pathlib import Path

import pytest
import torch
from torch import nn

from reverie.core.describe import describe
from reverie.core.digest import sha256_network
from reverie.core.errors import RangeError, ReferenceNotFound, ShapeError, StatisticsMissing
from reverie.core.network import ImageNetwork
from reverie.dream import (
    BatchNormStatistics,
    NoStatistics,
    PixelCanvas,
    RandomCrop,
    ShiftAndFlip,
    Stage,
    answering,
    calibrate_statistics,
    capture_statistics,
    deep_image_prior,
    dream,
    embedding,
    published_recipe,
    random_targets,
    white_noise,
)
from reverie.dream.layer_statistics import Statistics
from reverie.dream.leaves import leaves_source
from reverie.dream.recipe import usual_statistics_weight
from traces import changes, model_trace

SHAPE = (3, 8, 8)


def test_the_published_preset_of_small_images(small_net: nn.Module) -> None:
    recipe = published_recipe(small_net, image_shape=(3, 32, 32))
    assert [(part.name, part.weight) for part in recipe.term.parts] == [
        ("class", 1.0),
        ("statistics", 10.0),
        ("total variation", 2.5e-5),
        ("norm", 3e-8),
    ]
    assert recipe.stages == (Stage(2000, 1.0, 0.05, ShiftAndFlip(2, flip=False)),)
    assert recipe.canvas is white_noise


def test_the_published_preset_of_large_images(small_net: nn.Module) -> None:
    recipe = published_recipe(small_net, image_shape=(3, 224, 224))
    assert [part.weight for part in recipe.term.parts] == [1.0, 0.01, 1e-4, 1e-5]
    assert "first_weight=10.0" in recipe.term.describe()[1]["loss"]
    assert [(stage.steps, stage.image_shape((3, 224, 224))[1], stage.augment) for stage in recipe.stages] == [
        (2000, 112, ShiftAndFlip(15)),
        (1000, 224, ShiftAndFlip(30)),
    ]


def test_dreams_by_the_published_preset(small_net: nn.Module) -> None:
    recipe = published_recipe(small_net, image_shape=SHAPE)
    stages = [Stage(3, stage.share, stage.learning_rate, stage.augment) for stage in recipe.stages]
    bank = dream(small_net, count=4, image_shape=SHAPE, term=recipe.term, canvas=recipe.canvas, stages=stages)
    assert bank.config["canvas"] == "reverie.dream.recipe.white_noise"
    assert "RawStatistics" in bank.config["term"][1]["loss"]
    assert "shift=2" in bank.config["stages"][0]["augment"]


def test_white_noise_is_white() -> None:
    pixels = white_noise(range(50), (1, 16, 16)).images().detach() - 0.5
    assert float(pixels.std()) == pytest.approx(0.25, abs=0.02)
    power = torch.fft.rfft2(pixels).abs().square().mean((0, 1))
    assert float(power[:, 1:3].mean() / power[:, 6:8].mean()) == pytest.approx(1, rel=0.2)
    assert torch.equal(white_noise([7, 8], SHAPE).images()[1], white_noise([8], SHAPE).images()[0])


def test_targets_are_drawn_by_a_function(small_net: nn.Module) -> None:
    asked = {"count": 40, "image_shape": SHAPE, "steps": 1}
    drawn = dream(small_net, **asked, targets=random_targets, seed=3)  # type: ignore[arg-type]
    assert torch.equal(drawn.labels, random_targets(40, 4, seed=3))
    assert drawn.labels.bincount(minlength=4).tolist() != [10, 10, 10, 10]
    assert not torch.equal(random_targets(40, 4, seed=4), drawn.labels)
    assert dream(small_net, **asked).labels.bincount().tolist() == [10, 10, 10, 10]  # type: ignore[arg-type]


def test_random_crops_show_every_image_on_its_own(small_net: nn.Module) -> None:
    images = torch.arange(8.0).expand(6, 3, 8, 8).clone()
    seen = RandomCrop(0.3)(images, torch.Generator().manual_seed(0))
    assert len({tuple(image.flatten().tolist()) for image in seen}) == 6
    bank = dream(small_net, count=4, image_shape=SHAPE, steps=2, augment=RandomCrop(0.3))
    assert bank.config["augment"] == describe(RandomCrop(0.3)) == "RandomCrop(smallest=0.3)"


def test_a_deep_image_prior_dreams(small_net: nn.Module) -> None:
    asked = {"count": 4, "image_shape": SHAPE, "steps": 3, "canvas": deep_image_prior}
    bank = dream(small_net, **asked)  # type: ignore[arg-type]
    assert torch.equal(bank.images, dream(small_net, **asked).images)  # type: ignore[arg-type]
    assert bank.config["stages"][0]["learning_rate"] == 0.01
    assert dream(small_net, count=2, image_shape=SHAPE, steps=1, canvas=PixelCanvas.noise).config["stages"][0][
        "learning_rate"
    ] == pytest.approx(0.1)
    with pytest.raises(ShapeError, match=r"draws images \(c, h, w\), asked for \(2, 9\)"):
        deep_image_prior([0], (2, 9))


def test_the_answer_of_a_layer_is_matched(small_net: nn.Module) -> None:
    network = ImageNetwork(small_net, image_shape=SHAPE, mean=[0.5], std=[0.25]).eval()
    real = torch.rand(4, *SHAPE)
    before = model_trace(network)
    wanted = answering(network, "body.2")(real).detach()
    assert torch.equal(wanted, network.body[:3]((real - 0.5) / 0.25))
    asked = {"targets": wanted, "head": embedding(), "layer": "body.2"}
    # White noise is what the priors speak against.
    bank = dream(network, count=4, steps=80, term=embedding().term, **asked)  # type: ignore[arg-type]
    # What is where counts, so the default shows images as they are.
    assert bank.config["augment"] == "reverie.core.augment.still"
    assert changes(before, model_trace(network)) == []
    near, far = (embedding().agreement(bank.logits, one).mean() for one in (wanted, wanted.roll(1, 0)))
    assert float(near) > 0.95 > float(far)
    assert bank.config["layer"] == "body.2"
    assert bank.config["targets"]["shape"] == [4, 6, 8, 8]
    assert sha256_network(answering(network, "body.2")) == sha256_network(network)
    with pytest.raises(ReferenceNotFound, match=r"has no layer 'body\.9'\. Did you mean body\.\d"):
        dream(network, count=1, layer="body.9")


def test_statistics_asked_for_by_name_have_to_be_there(small_net: nn.Module) -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    asked = {"count": 1, "image_shape": SHAPE, "steps": 1}
    with pytest.raises(StatisticsMissing, match="statistics from batch normalization were asked for, and Sequential"):
        dream(plain, **asked, statistics=BatchNormStatistics())  # type: ignore[arg-type]
    bank = dream(small_net, **asked, statistics=NoStatistics())  # type: ignore[arg-type]
    assert bank.config["statistics"] == "none: image priors alone"
    assert [part["name"] for part in bank.config["term"]] == ["class", "total variation", "norm"]
    with pytest.raises(RangeError, match="learning_rate above 0"):
        dream(small_net, **asked, learning_rate=0.0)  # type: ignore[arg-type]


def test_moments_that_are_a_guess_weigh_less_than_known_ones(tmp_path: Path) -> None:
    body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))
    guessed = calibrate_statistics(body, image_shape=(1, 8, 8), count=8)
    measured = capture_statistics(body, leaves_source(count=8, image_shape=(1, 8, 8), seed=0))
    assert usual_statistics_weight(guessed) < usual_statistics_weight(measured)
    assert usual_statistics_weight(measured) == usual_statistics_weight(BatchNormStatistics())
    guessed.save(tmp_path / "guessed")
    assert not Statistics.load(tmp_path / "guessed").known
    banks = [dream(body, count=2, image_shape=(1, 8, 8), steps=1, statistics=source) for source in (guessed, measured)]
    weights = [
        {part["name"]: part["weight"] for part in bank.config["term"]}["statistics"]  # type: ignore[index, union-attr]
        for bank in banks
    ]
    assert weights == [0.2, 5.0]
