"""Codes are found again, the generator is left alone, and canvases of networks move what they should."""

import pytest
import torch
from torch import nn

from reverie.core.errors import RangeError, ShapeError
from reverie.dream import CodesCanvas, NetworkCanvas, recover_codes
from traces import changes, model_trace


def maker() -> nn.Module:
    """Codes of 3 values -> images that tell them apart."""
    return nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.Sigmoid(), nn.Unflatten(1, (1, 4, 4)))


def test_codes_come_back() -> None:
    generator = maker().eval()
    codes = torch.randn(5, 3)
    made = generator(codes).detach()
    before = model_trace(generator)
    found = recover_codes(generator, made, codes=torch.zeros(5, 3), steps=300)
    torch.testing.assert_close(found, codes, rtol=0.0, atol=0.05)
    assert changes(before, model_trace(generator)) == []
    assert float((recover_codes(generator, made, codes=torch.zeros(5, 3), steps=1) - codes).abs().max()) > 0.3


def test_what_is_optimized() -> None:
    generator = maker()
    canvas = CodesCanvas(generator, torch.zeros(2, 3))
    assert [tuple(one.shape) for one in canvas.parameters()] == [(2, 3)]
    assert not any(parameter.requires_grad for parameter in canvas.generator.parameters())
    assert all(parameter.requires_grad for parameter in generator.parameters())
    assert generator.training
    assert len(NetworkCanvas(generator, torch.zeros(2, 3)).parameters()) == 4
    assert len(NetworkCanvas(generator, torch.zeros(2, 3), optimize_codes=True).parameters()) == 5


def test_what_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"makes images \(2, 1, 4, 4\) of these codes, asked for \(1, 1, 4, 4\)"):
        recover_codes(maker(), torch.zeros(1, 1, 4, 4), codes=torch.zeros(2, 3))
    with pytest.raises(RangeError, match="steps must be"):
        recover_codes(maker(), torch.zeros(2, 1, 4, 4), codes=torch.zeros(2, 3), steps=0)
