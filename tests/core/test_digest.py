"""One digest for equal tensors, another for all others."""

import hashlib

import pytest
import torch
from torch import nn

from reverie.core.digest import sha256_json, sha256_network, sha256_tensors
from reverie.core.network import ImageNetwork

BASE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}


def test_the_digest_by_hand() -> None:
    content = b"x torch.uint8 (2, 1);" + bytes([7, 9])
    tensors = {"x": torch.tensor([[7], [9]], dtype=torch.uint8)}
    assert sha256_tensors(tensors) == hashlib.sha256(content).hexdigest()


def test_order_layout_and_gradients_do_not_count() -> None:
    turned = {"b": BASE["b"].clone(), "a": BASE["a"].t().contiguous().t().requires_grad_()}
    assert turned["a"].stride() != BASE["a"].stride()
    assert sha256_tensors(turned) == sha256_tensors(BASE)


@pytest.mark.parametrize(
    "other",
    [
        {"a": BASE["a"]},
        {"a": BASE["a"], "c": BASE["b"]},
        {"a": BASE["a"].reshape(3, 2), "b": BASE["b"]},
        {"a": BASE["a"].double(), "b": BASE["b"]},
        {"a": BASE["a"] + torch.tensor([0.0, 0.0, 1e-6]), "b": BASE["b"]},
        {"a": -BASE["a"], "b": BASE["b"]},
        {"b": BASE["a"], "a": BASE["b"]},
    ],
)
def test_everything_else_counts(other: dict[str, torch.Tensor]) -> None:
    assert sha256_tensors(other) != sha256_tensors(BASE)


def test_scalars_and_empty_tensors() -> None:
    assert sha256_tensors({"a": torch.tensor(1.0)}) != sha256_tensors({"a": torch.ones(1)})
    assert sha256_tensors({"a": torch.ones(0)}) != sha256_tensors({"a": torch.ones(0, 2)})


def test_settings_have_a_digest_whatever_the_order_of_their_keys() -> None:
    assert sha256_json({"b": 2, "a": 1}) == hashlib.sha256(b'{"a": 1, "b": 2}').hexdigest()
    assert sha256_json({"a": 1, "b": 2}) != sha256_json({"a": 1, "b": 3})


def test_networks_of_other_preprocessing_or_statistics_are_other_networks() -> None:
    body = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    half, third = (ImageNetwork(body, image_shape=(1, 2, 2), mean=[mean]) for mean in (0.5, 0.3))
    assert sha256_network(half) == sha256_network(ImageNetwork(body, image_shape=(1, 2, 2), mean=[0.5]))
    assert sha256_network(half) != sha256_network(third)
    before = sha256_network(half)
    body[1].get_buffer("running_mean").add_(1)
    assert sha256_network(half) != before
