"""An inverter of a network that can be inverted exactly finds the images; what it is made of, and what it refuses."""

import copy

import pytest
import torch
from torch import Tensor, nn

from reverie.core.errors import RangeError, ReferenceNotFound, ShapeError
from reverie.core.events import Event
from reverie.core.modes import frozen
from reverie.core.tap import tap
from reverie.dream.inverter import InverseBlock, Inverter, refine_inversion, train_inverter
from reverie.dream.leaves import leaves_source
from traces import changes, global_trace, model_trace


class Invertible(nn.Module):
    """Two maps that lose nothing: channels mixed by an orthogonal matrix, then pixels moved into channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1, bias=False)
        self.second = nn.PixelUnshuffle(2)
        self.head = nn.Linear(24, 4)
        nn.init.orthogonal_(self.first.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).mean((2, 3)))


def trained(network: nn.Module, **changed: object) -> Inverter:
    arguments: dict[str, object] = {"layers": ["first", "second"], "steps": 80, "batch_size": 16}
    source = leaves_source(count=64, image_shape=(3, 8, 8), seed=0)
    return train_inverter(network, source, **(arguments | changed))  # type: ignore[arg-type]


def features(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    with torch.no_grad(), frozen(network), tap(network, lambda name, _: name in ("first", "second")) as seen:
        network(images)
    return {name: reading.output for name, reading in seen.items()}


def test_unseen_images_come_back() -> None:
    network = Invertible()
    inverter = trained(network, steps=70)
    unseen = leaves_source(count=16, image_shape=(3, 8, 8), seed=9).floats()
    read = features(network, unseen)
    for layer in ("first", "second"):
        found = inverter(read[layer], layer)
        assert found.shape == unseen.shape
        error = float((found - unseen).square().mean() / unseen.var())
        assert error < 0.25, layer  # 1 is what the mean image would give
        other = inverter(read[layer].roll(1, 0), layer)
        assert float((other - unseen).square().mean() / unseen.var()) > 0.5
    again = features(network, inverter(read["second"], "second"))["second"]
    assert float((again - read["second"]).square().mean() / read["second"].var()) < 0.25


def test_the_chain_hands_on_features_in_their_own_units() -> None:
    def scale(mean: float, deviation: float) -> tuple[Tensor, Tensor]:
        return torch.full((1, 1, 1, 1), mean), torch.full((1, 1, 1, 1), deviation)

    blocks = nn.ModuleList([nn.Identity(), nn.Identity()])
    inverter = Inverter(("first", "second"), blocks, (scale(3.0, 2.0), scale(10.0, 5.0)))
    found = inverter.chain(torch.full((1, 1, 1, 1), 20.0), 1)
    # (20 - 10) / 5 = 2 deviations of the second layer are 3 + 2 * 2 in units of the first.
    assert [float(one) for one in found] == [7.0, 2.0]


def test_same_seed_same_inverter_and_no_trace() -> None:
    network = Invertible().train()
    model, world = model_trace(network), global_trace()
    told: list[Event] = []
    one, again, other = (
        trained(network, steps=4, on_event=told.append),
        trained(network, steps=4),
        trained(network, steps=4, seed=1),
    )
    assert changes(model, model_trace(network)) == []
    assert changes(world, global_trace()) == []
    assert [event.step for event in told] == [1, 2, 3, 4]
    ours, same, others = (list(copy.deepcopy(inverter.blocks).parameters()) for inverter in (one, again, other))
    assert all(map(torch.equal, ours, same))
    assert not all(map(torch.equal, ours, others))
    assert not any(parameter.requires_grad for parameter in ours)


def test_what_it_refuses() -> None:
    network = Invertible()
    inverter = trained(network, steps=2)
    with pytest.raises(ReferenceNotFound, match="knows the layers first, second, not 'head'"):
        inverter(torch.zeros(1, 4), "head")
    with pytest.raises(ShapeError, match="layer 'head' gives no feature maps"):
        trained(network, layers=["head"])
    with pytest.raises(ReferenceNotFound):
        trained(network, layers=["absent"])
    with pytest.raises(RangeError, match="these run in the order first, second"):
        trained(network, layers=["second", "first"])
    for wrong in ({"steps": 1}, {"layers": []}, {"batch_size": 0}):
        with pytest.raises(RangeError, match="an inverter needs a layer"):
            trained(network, **wrong)
    assert InverseBlock(5, (7, 9, 11), image=False)(torch.zeros(1, 5, 4, 5)).shape == (1, 7, 9, 11)


def test_refining_finds_what_has_the_features() -> None:
    network = Invertible()
    unseen = leaves_source(count=4, image_shape=(3, 8, 8), seed=9).floats()
    wanted = features(network, unseen)["second"]
    before, start = model_trace(network), torch.full_like(unseen, 0.5)
    found = refine_inversion(network, start, wanted, layer="second", steps=80)
    assert not changes(before, model_trace(network))
    assert float((found - unseen).square().mean()) < 0.05 * float((start - unseen).square().mean())
    other = refine_inversion(network, start, wanted.roll(1, 0), layer="second", steps=80)
    torch.testing.assert_close(other, found.roll(1, 0), atol=0.05, rtol=0)


def test_refining_refuses_other_features() -> None:
    images = torch.full((2, 3, 8, 8), 0.5)
    with pytest.raises(ShapeError):
        refine_inversion(Invertible(), images, torch.zeros(2, 5, 4, 4), layer="second")
    with pytest.raises(RangeError, match="finite"):
        refine_inversion(Invertible(), images, torch.full((2, 24, 4, 4), torch.nan), layer="second")
    with pytest.raises(ReferenceNotFound, match="third"):
        refine_inversion(Invertible(), images, torch.zeros(2, 24, 4, 4), layer="third")
