"""Patch similarity against a direct computation; spectra and networks as canvases."""

import math

import pytest
import torch
from torch import Tensor, nn

from reverie.core.errors import RangeError, ShapeError, StatisticsMissing
from reverie.core.tap import Reading
from reverie.dream import ShiftAndFlip, View, class_term, optimize
from reverie.dream.fourier import FourierCanvas
from reverie.dream.network_canvas import NetworkCanvas
from reverie.dream.patches import patch_similarity_term, similarity_entropy


def direct_entropy(patches: Tensor, bandwidth: float) -> float:
    """By the definition, on a fine grid, without binning."""
    unit = patches / patches.norm(dim=-1, keepdim=True)
    grid = torch.linspace(-1.5, 1.5, 3001, dtype=torch.float64)
    values = []
    for image in unit.double():
        cosines = [float(image[i] @ image[j]) for i in range(len(image)) for j in range(i + 1, len(image))]
        density = torch.stack(
            [torch.exp(-0.5 * ((grid - t) / bandwidth) ** 2) / (bandwidth * math.sqrt(2 * math.pi)) for t in cosines]
        ).mean(0)
        values.append(float(-(density * density.clamp_min(1e-300).log()).sum() * 1e-3))
    return sum(values) / len(values)


def test_the_entropy_of_similarities() -> None:
    patches = torch.randn(3, 9, 4)
    # Bins are 0.04 wide, so a density of deviation 0.05 is read to a few hundredths of a nat.
    assert float(similarity_entropy(patches)) == pytest.approx(direct_entropy(patches, 0.05), abs=0.08)
    alike = torch.randn(1, 1, 4).expand(1, 9, 4)
    # All cosines are 1: the density is one normal, whose entropy is log(deviation sqrt(2 pi e)).
    assert float(similarity_entropy(alike)) == pytest.approx(math.log(0.05 * math.sqrt(2 * math.pi * math.e)), abs=0.1)


def test_the_entropy_has_a_gradient() -> None:
    patches = torch.randn(2, 16, 5, requires_grad=True)
    before = similarity_entropy(patches)
    (gradient,) = torch.autograd.grad(before, patches)
    risen = similarity_entropy(patches.detach() + 0.1 * gradient / gradient.norm())
    assert float(risen) > float(before.detach())


def test_the_term_reads_attention_and_drops_the_class_token() -> None:
    tokens = torch.randn(2, 10, 4)  # a class token and nine patches
    view = View(torch.zeros(2, 1, 4, 4), torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64))
    seen = View(view.images, view.logits, view.targets, taps={"attn": Reading(tokens, (tokens, None))})
    value = float(patch_similarity_term()(seen))
    assert value == pytest.approx(-float(similarity_entropy(tokens[:, 1:])))
    assert value != pytest.approx(-float(similarity_entropy(tokens)))
    with pytest.raises(StatisticsMissing, match="reads attention layers, and none is tapped"):
        patch_similarity_term()(view)
    with pytest.raises(ShapeError, match="a tapped layer gave shape"):
        patch_similarity_term()(View(view.images, view.logits, view.targets, taps={"a": Reading(tokens, tokens[0])}))
    with pytest.raises(RangeError, match="bandwidth must be positive"):
        patch_similarity_term(bandwidth=0)


def test_canvases_are_optimized_by_the_loop() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    targets = torch.tensor([0, 1, 0])
    maker = nn.Sequential(nn.Linear(5, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)))
    for canvas in (
        FourierCanvas([0, 1, 2], (1, 8, 8)),
        NetworkCanvas(maker, torch.randn(3, 5)),
        NetworkCanvas(maker, torch.randn(3, 5), optimize_codes=True),
    ):
        result = optimize(
            network, canvas, term=class_term(), targets=targets, steps=20, augment=ShiftAndFlip(0, flip=False), seed=0
        )
        assert torch.equal(network(result.images).argmax(1), targets)
