"""Prediction and evaluation: numbers by hand, no trace, clear refusals."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.errors import RangeError, ReferenceNotFound, ShapeError
from reverie.core.network import ImageNetwork
from reverie.core.source import Source, noise_source
from reverie.metrics import evaluate, predict


class Fragile(nn.Module):
    """Batch norm and dropout, and a failure on request."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, 3)
        self.broken = False

    def forward(self, images: Tensor) -> Tensor:
        if self.broken:
            raise RuntimeError("planted")
        return self.head(self.drop(self.norm(images)).flatten(1))


def labeled(count: int = 10) -> Source:
    images = noise_source(count=count, image_shape=(1, 4, 4), seed=0).images
    return Source("noise", images, torch.arange(count) % 3)


def network() -> ImageNetwork:
    body = Fragile()
    return ImageNetwork(body, image_shape=(1, 4, 4), mean=[0.5], std=[0.25])


def test_evaluation_equals_plain_code_in_any_batch_size() -> None:
    net, source = network(), labeled()
    assert source.labels is not None
    plain = copy.deepcopy(net).eval()(source.floats()).detach()
    for batch_size in (1, 3, 10, 99):
        assert torch.allclose(predict(net, source, batch_size=batch_size), plain, atol=1e-6)
    seen = evaluate(net, source, batch_size=4)
    assert seen.accuracy.count == 10
    assert seen.accuracy.value == pytest.approx((plain.argmax(1) == source.labels).double().mean().item())
    assert seen.cross_entropy_nats == pytest.approx(F.cross_entropy(plain, source.labels).item(), abs=1e-6)


@pytest.mark.parametrize("broken", [False, True])
def test_prediction_leaves_no_trace(broken: bool) -> None:
    net = network().train()
    net.body.norm.eval()
    net.body.head.bias.requires_grad_(False)
    net.body.broken = broken
    state = copy.deepcopy(net.state_dict())
    modes = [module.training for module in net.modules()]
    random_state = torch.get_rng_state()
    if broken:
        with pytest.raises(RuntimeError, match="planted"):
            predict(net, labeled())
    else:
        assert not predict(net, labeled()).requires_grad
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert net.body.head.weight.requires_grad
    assert not net.body.head.bias.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_prediction_stays_in_fp32_under_autocast() -> None:
    net, source = network(), labeled()
    plain = predict(net, source)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(predict(net, source), plain)


def test_what_cannot_be_evaluated_is_refused() -> None:
    net, source = network(), labeled()
    with pytest.raises(ReferenceNotFound, match="'noise' has 10 images and none"):
        evaluate(net, Source("noise", source.images))
    with pytest.raises(ShapeError, match=r"\(n, 1, 5, 4\).*\(n, 1, 4, 4\)"):
        evaluate(net, Source("odd", torch.zeros(2, 1, 5, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)))
    with pytest.raises(RangeError, match=r"0 to 7.*3 classes"):
        evaluate(net, Source("odd", source.images, torch.tensor([7] + [0] * 9)))
    with pytest.raises(RangeError, match="batch_size"):
        predict(net, source, batch_size=0)
    with pytest.raises(ShapeError, match=r"\(10, 1, 4, 4\).*classifier"):
        predict(nn.Identity(), source)
