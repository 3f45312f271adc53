"""Distances, diversity and scores against numbers worked by hand and against other ways to compute them."""

import math

import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from reverie.core.errors import RangeError, ReferenceNotFound, ShapeError, StatisticsMissing
from reverie.core.source import Source, noise_source
from reverie.metrics import (
    coverage,
    features,
    frechet_distance,
    inception_score,
    kernel_distance,
    layer_features,
    moment_fit,
    relative_diversity,
    within_class_diversity,
)


def test_the_kernel_distance_by_hand() -> None:
    # d = 2. k(0, 0) = 1; k(e1, e1) = (1/2 + 1)^3 = 27/8; k(e1, e2) = 1; k(0, e) = 1.
    a = torch.zeros(2, 2)
    b = torch.eye(2)
    assert kernel_distance(a, b) == pytest.approx(1 + 1 - 2)
    c = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert kernel_distance(a, c) == pytest.approx(1 + 27 / 8 - 2)
    assert kernel_distance(c, a) == pytest.approx(1 + 27 / 8 - 2)


def test_the_kernel_distance_is_unbiased() -> None:
    rng = torch.Generator().manual_seed(0)
    values = torch.tensor([kernel_distance(*torch.randn(2, 10, 3, generator=rng)) for _ in range(400)])
    standard_error = float(values.std()) / 20
    assert abs(float(values.mean())) < 3 * standard_error
    assert float(values.min()) < 0
    far = kernel_distance(torch.randn(10, 3, generator=rng), torch.randn(10, 3, generator=rng) + 2)
    assert far > 10 * standard_error


def plain_frechet(a: Tensor, b: Tensor) -> float:
    """By the formula, with a matrix root."""
    cov_a, cov_b = (torch.cov(x.T.double()).numpy() for x in (a, b))
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    gap = (a.double().mean(0) - b.double().mean(0)).square().sum()
    return float(gap) + float((cov_a + cov_b - 2 * root).trace())


@pytest.mark.parametrize(("n", "m"), [(40, 30), (5, 40), (4, 5)])
def test_the_frechet_distance_is_the_formula(n: int, m: int) -> None:
    mixing = torch.randn(6, 6)
    a, b = torch.randn(n, 6) @ mixing, torch.randn(m, 6) * 2 + 1
    assert frechet_distance(a, b) == pytest.approx(plain_frechet(a, b), rel=1e-4)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    # One dimension: (m1 - m2)^2 + (s1 - s2)^2; deviations sqrt 2 and 2 sqrt 2, means 1 and 5.
    one, other = torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [7.0]])
    assert frechet_distance(one, other) == pytest.approx(16 + 2, rel=1e-9)


@pytest.mark.parametrize("distance", [kernel_distance, frechet_distance])
def test_distances_refuse_what_is_no_sample(distance: object) -> None:
    good = torch.randn(3, 2)
    with pytest.raises(ShapeError, match=r"got \(3, 2\) and \(3, 3\)"):
        distance(good, torch.randn(3, 3))  # type: ignore[operator]
    with pytest.raises(RangeError, match="at least 2 rows of each, got 3 and 1"):
        distance(good, good[:1])  # type: ignore[operator]
    with pytest.raises(RangeError, match="not finite"):
        distance(good, good / 0)  # type: ignore[operator]


def test_the_score_by_hand() -> None:
    assert inception_score(torch.zeros(5, 3)) == pytest.approx(1.0)
    assert inception_score(torch.eye(3) * 1e4) == pytest.approx(3.0)
    # Half (3/4, 1/4), half the reverse: the average is even, KL = 3/4 ln 3/2 + 1/4 ln 1/2.
    logits = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]])
    assert inception_score(logits) == pytest.approx(math.exp(0.75 * math.log(1.5) + 0.25 * math.log(0.5)), rel=1e-6)


class TwoLayers(nn.Module):
    """Two channels as they are, then as a linear layer sees them; writes into what the first layer read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Identity(), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x + 0.0)
        pooled = y.mean((2, 3)).clone()
        y.zero_()
        return self.last(pooled)


def test_features_are_what_the_last_layer_reads() -> None:
    images = torch.zeros(3, 2, 1, 2, dtype=torch.uint8)
    images[:, 0] = torch.tensor([0, 51, 255])[:, None, None]
    found = features(TwoLayers(), Source("x", images), batch_size=2)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0], [0.2, 0.0], [1.0, 0.0]]))
    read = layer_features(TwoLayers(), Source("x", images), ["first"])["first"]
    torch.testing.assert_close(read, images.float() / 255)  # before it was written into
    with pytest.raises(ReferenceNotFound, match="Flatten has no linear layer"):
        features(nn.Flatten(), Source("x", images))
    with pytest.raises(RangeError, match="batch_size must be at least 1, got 0"):
        features(TwoLayers(), Source("x", images), batch_size=0)


class Shared(nn.Module):
    """One activation that runs twice, one layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.flat, self.last = nn.ReLU(), nn.Flatten(), nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.flat(self.act(self.act(x)))


def test_features_are_one_row_for_every_image() -> None:
    source = Source("x", torch.zeros(3, 2, 1, 2, dtype=torch.uint8))
    with pytest.raises(ShapeError, match="layer 'act' of Shared read 6 rows for 3 images"):
        layer_features(Shared(), source, ["act"])
    with pytest.raises(ShapeError, match="layer 'last' of Shared read 0 rows for 3 images"):
        features(Shared(), source)


def points(*vectors: tuple[int, int]) -> Tensor:
    return torch.tensor(vectors, dtype=torch.uint8).view(len(vectors), 2, 1, 1)


def test_diversity_within_classes_by_hand() -> None:
    # Class 0: two right angles and one repeat: distances 2, 2, 0 -> 4/3. Class 1: one right angle -> 2. Class 2 alone.
    images = points((9, 0), (0, 9), (5, 0), (3, 0), (0, 200), (1, 1))
    source = Source("x", images, torch.tensor([0, 0, 0, 1, 1, 2]))
    network = TwoLayers()
    assert within_class_diversity(network, source, ["first"]) == pytest.approx((4 / 3 + 2) / 2, rel=1e-6)
    assert relative_diversity(network, source, source, ["first"]) == pytest.approx(1.0)
    same = Source("same", images[[0, 2, 3]], torch.tensor([0, 0, 0]))
    assert relative_diversity(network, same, source, ["first"]) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(RangeError, match="no yardstick"):
        relative_diversity(network, source, same, ["first"])
    with pytest.raises(ReferenceNotFound, match="needs labels"):
        within_class_diversity(network, Source("x", images), ["first"])
    with pytest.raises(ReferenceNotFound, match="no class of source"):
        within_class_diversity(network, Source("x", images, torch.arange(6)), ["first"])


def test_diversity_is_the_plain_double_sum() -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (7, 2, 3, 4), generator=rng, dtype=torch.uint8)
    unit = images.float() / images.float().norm(dim=1, keepdim=True)
    pairs = [(unit[i] - unit[j]).square().sum(0).mean() for i in range(7) for j in range(7) if i != j]
    source = Source("x", images, torch.zeros(7, dtype=torch.int64))
    found = within_class_diversity(TwoLayers(), source, ["first"])
    assert found == pytest.approx(float(torch.stack(pairs).mean()), rel=1e-5)
    # A vector is a map of one position.
    small = Source("x", images[..., :1, :1], source.labels)
    vectors = nn.Sequential(nn.Flatten(), nn.Identity())
    assert within_class_diversity(vectors, small, ["1"]) == within_class_diversity(nn.Identity(), small, [""])


def test_coverage_by_hand() -> None:
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    # With one neighbor the radii are 1, 1, 1, 8.
    assert coverage(torch.tensor([[1.5]]), real, neighbors=1) == 0.5
    assert coverage(torch.tensor([[4.0]]), real, neighbors=1) == 0.25
    assert coverage(real, real, neighbors=1) == 1.0
    with pytest.raises(RangeError, match="needs more real images, got 4"):
        coverage(real, real, neighbors=4)


def test_moments_fit_their_own_images_and_no_others() -> None:
    source = noise_source(count=64, image_shape=(2, 6, 6), seed=0)
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    x = source.floats()
    with torch.no_grad():
        for norm in (network[0], network[2]):
            inner = x if norm is network[0] else network[1](network[0].eval()(x))
            norm.running_mean.copy_(inner.mean((0, 2, 3)))
            norm.running_var.copy_(inner.var((0, 2, 3), correction=0))
    own = moment_fit(network, source)
    assert own.mean_error < 1e-4
    assert own.log_variance_error < 1e-4
    darker = Source("darker", source.images // 2)
    assert moment_fit(network, darker).mean_error > 0.5
    assert moment_fit(network, darker).log_variance_error > 1.0
    with pytest.raises(RangeError, match="batch_size must be at least 1, got 0"):
        moment_fit(network, source, batch_size=0)
    with pytest.raises(StatisticsMissing, match="no layer with stored moments"):
        moment_fit(nn.InstanceNorm2d(2, track_running_stats=True), source)
    with pytest.raises(StatisticsMissing, match="no layer with stored moments"):
        moment_fit(nn.Flatten(), source)
