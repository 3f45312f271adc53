"""Scores and losses against what taking the units away really does."""

import pytest
import torch
from torch import nn

from reverie.compress.evidence import loss_change, option_losses, reference_logits, taylor_scores
from reverie.compress.sites import find_sites
from reverie.core.errors import RangeError
from reverie.core.network import ImageNetwork
from reverie.core.source import Source, noise_source
from reverie.graph import cut, masked, probe
from reverie.metrics.evaluate import predict


def linear_network() -> ImageNetwork:
    """Linear in its units, so first order is exact: the score is the squared change of the centered logits."""
    torch.manual_seed(3)
    body = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    return ImageNetwork(body, image_shape=(1, 8, 8)).eval()


def source(count: int = 64) -> Source:
    return noise_source(count=count, image_shape=(1, 8, 8), seed=1)


def exact_scores(network: ImageNetwork, images: Source) -> torch.Tensor:
    structure = probe(network.body, torch.zeros(1, 1, 8, 8))
    logits = predict(network, images)
    found = []
    for unit in range(6):
        kept = {"0": [other for other in range(6) if other != unit]}
        without = predict(network.with_body(masked(network.body, structure, kept)), images)
        moved = logits - without
        found.append((moved - moved.mean(1, keepdim=True)).square().sum(1).mean())
    return torch.stack(found)


def test_scores_are_the_squared_change_of_the_logits_where_the_network_is_linear():
    network, images = linear_network(), source()
    structure = probe(network.body, torch.zeros(1, 1, 8, 8))
    scores = taylor_scores(network, structure, images, probes=400, batch_size=4)["0"]
    torch.testing.assert_close(scores, exact_scores(network, images), rtol=0.08, atol=0.0)


def test_scores_do_not_depend_on_the_batch_size_but_for_chance():
    network, images = linear_network(), source()
    structure = probe(network.body, torch.zeros(1, 1, 8, 8))
    small = taylor_scores(network, structure, images, probes=150, batch_size=2)["0"]
    large = taylor_scores(network, structure, images, probes=2000, batch_size=32)["0"]
    torch.testing.assert_close(small, large, rtol=0.12, atol=0.0)


def test_a_unit_that_nothing_reads_scores_zero_and_is_the_first_to_go():
    network = linear_network()
    with torch.no_grad():
        network.body[3].weight[:, 2] = 0
    structure = probe(network.body, torch.zeros(1, 1, 8, 8))
    scores = taylor_scores(network, structure, source())["0"]
    assert scores[2] == 0
    assert scores.argmin() == 2


class Attention(nn.Module):
    """Two tokens per image: queries and keys are read by computed values only, and are linear in the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.reshape(len(x), 2, 4)
        return (self.query(tokens) @ self.key(tokens).transpose(1, 2) @ self.value(tokens)).mean(1)


def test_queries_and_keys_are_scored_by_the_layer_that_makes_them():
    torch.manual_seed(0)
    network = ImageNetwork(Attention(), image_shape=(1, 2, 4)).eval()
    structure = probe(network.body, torch.zeros(2, 1, 2, 4))
    images = noise_source(count=32, image_shape=(1, 2, 4), seed=1)
    group = next(one for one in structure.free if "query" in one.producers)
    found = taylor_scores(network, structure, images, probes=500, batch_size=4)[group.name]
    logits, exact = predict(network, images), []
    for unit in range(3):
        small, _ = cut(network.body, structure, {group.name: [one for one in range(3) if one != unit]})
        moved = logits - predict(network.with_body(small), images)
        exact.append((moved - moved.mean(1, keepdim=True)).square().sum(1).mean())
    torch.testing.assert_close(found, torch.stack(exact), rtol=0.08, atol=0.0)


def test_loss_change_is_the_mean_divergence_with_its_standard_error():
    teacher_logits = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.5, 0.5]])
    images = Source("three", torch.zeros(3, 1, 1, 1, dtype=torch.uint8))

    class Always(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.3, -0.2]]).expand(len(x), 2)

    change = loss_change(teacher_logits, Always(), images)
    p = teacher_logits.double().softmax(1)
    q = torch.tensor([0.3, -0.2]).double().softmax(0)
    each = (p * (p / q).log()).sum(1)
    assert change.nats == pytest.approx(float(each.mean()), rel=1e-6)
    assert change.standard_error == pytest.approx(float(each.std()) / 3**0.5, rel=1e-6)


def test_the_unchanged_network_has_no_loss():
    network, images = linear_network(), source()
    assert loss_change(predict(network, images), network, images).nats == pytest.approx(0, abs=1e-9)


def test_the_unchanged_network_has_no_loss_on_images_of_other_statistics():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    network = ImageNetwork(body, image_shape=(1, 8, 8)).eval()
    images = Source("bright", torch.randint(200, 256, (16, 1, 8, 8), dtype=torch.uint8))
    assert loss_change(predict(network, images), network, images).nats > 1e-3
    assert loss_change(reference_logits(network, images), network, images).nats == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("wrong", [{"images": 0}, {"batch_size": 0}, {"probes": 0}])
def test_a_score_of_nothing_is_refused(wrong):
    network = linear_network()
    with pytest.raises(RangeError, match=f"{next(iter(wrong))} must be at least 1"):
        taylor_scores(network, probe(network.body, torch.zeros(1, 1, 8, 8)), source(), **wrong)


class Root(nn.Module):
    """Answers are square roots, which negative numbers do not have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 6, 3), nn.Linear(6, 4, bias=False)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.bias.fill_(1.0)
            self.linear.weight.fill_(-1.0)[:, 5] = 10.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.conv(x).mean((2, 3))).sqrt()


def test_an_option_whose_answers_are_no_numbers_is_named():
    network = ImageNetwork(Root(), image_shape=(1, 8, 8)).eval()
    sites = find_sites(probe(network.body, torch.zeros(2, 1, 8, 8)), step=3)
    with pytest.raises(RangeError, match="with 3 left of conv, "):
        option_losses(network, sites, {"conv": -torch.arange(6.0)}, source(4))
