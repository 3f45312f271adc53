"""The published raw sums against numbers worked by hand, and how they grow where the default recipe does not."""

import math

import pytest
import torch
from torch import Tensor, nn

from reverie.core.errors import RangeError, StatisticsMissing
from reverie.core.network import ImageNetwork
from reverie.dream import Moments, ShiftAndFlip, View, dream, statistics_term
from reverie.dream.published import CIFAR, IMAGENET, PublishedWeights, RawStatistics, published_term


def view(images: Tensor, *layers: tuple[float, float]) -> View:
    """Layers of two channels whose mean and variance are off by so much in the first."""
    moments = [
        Moments("", torch.tensor([mean, 0.0]), torch.tensor([1.0 + variance, 1.0]), torch.zeros(2), torch.ones(2))
        for mean, variance in layers
    ]
    count = len(images)
    return View(images, torch.zeros(count, 2), torch.zeros(count, dtype=torch.int64), moments)


def parts(images: Tensor, *layers: tuple[float, float], weights: PublishedWeights) -> dict[str, float]:
    network = ImageNetwork(nn.Identity(), image_shape=(1, 2, 2), mean=[0.5], std=[0.25])
    return {
        name: float(value)
        for name, value in published_term(network, weights=weights).report(view(images, *layers)).items()
    }


def test_the_sums_by_hand() -> None:
    weights = PublishedWeights(statistics=2.0, first_weight=10.0, variation=1.0, norm=1.0)
    image = torch.tensor([[[[0.5, 1.0], [0.5, 0.5]]]])
    found = parts(image, (3.0, 4.0), (1.0, 0.0), weights=weights)
    # Normalized: [[0, 2], [0, 0]].
    assert found["norm"] == pytest.approx(2.0)
    # Right: 2 and 0. Below: 0 and -2. Down right: 0. Down left: -2.
    assert found["total variation"] == pytest.approx(2 + 2 + 0 + 2)
    assert found["statistics"] == pytest.approx(2.0 * (10 * (4 + 3) + 1))
    assert found["class"] == pytest.approx(math.log(2))


def test_they_grow_with_batch_and_depth_and_the_recipe_does_not() -> None:
    weights = PublishedWeights(statistics=1.0, first_weight=1.0, variation=1.0, norm=1.0)
    image = torch.rand(1, 1, 4, 4)
    one, four = parts(image, (3.0, 4.0), weights=weights), parts(image.repeat(4, 1, 1, 1), (3.0, 4.0), weights=weights)
    assert four["total variation"] == pytest.approx(2 * one["total variation"])
    assert four["norm"] == pytest.approx(one["norm"])
    deep = parts(image, *[(3.0, 4.0)] * 5, weights=weights)
    assert deep["statistics"] == pytest.approx(5 * one["statistics"])
    ours = [float(statistics_term()(view(image, *[(3.0, 4.0)] * depth))) for depth in (1, 5)]
    assert ours[0] == pytest.approx(ours[1])


def test_dreams_by_the_published_terms(small_net: nn.Module) -> None:
    for weights in (CIFAR, IMAGENET):
        bank = dream(
            small_net,
            count=4,
            image_shape=(3, 8, 8),
            steps=2,
            term=published_term(small_net, weights=weights),
            augment=ShiftAndFlip(2),
        )
        assert "RawStatistics" in bank.config["term"][1]["loss"]


def test_what_is_refused() -> None:
    with pytest.raises(RangeError, match="weights must be at least 0"):
        published_term(nn.Identity(), weights=PublishedWeights(1.0, 1.0, -1.0, 0.0))
    with pytest.raises(StatisticsMissing, match="asks for statistics"):
        RawStatistics(1.0)(view(torch.zeros(1, 1, 2, 2)))
