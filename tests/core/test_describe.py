"""Settings as text: the same text for the same setting in every process, another for another."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from reverie.core.describe import describe
from reverie.core.rng import derive_seed, generator


@dataclass(frozen=True)
class Scaled:
    """Something that is called."""

    by: float

    def __call__(self, x: float) -> float:
        return self.by * x


def test_functions_partials_and_dataclasses() -> None:
    assert describe(derive_seed) == "reverie.core.rng.derive_seed"
    assert describe(partial(generator, 1, device="cpu")) == "reverie.core.rng.generator(1, device='cpu')"
    assert describe(Scaled(2.0)) == "Scaled(by=2.0)"
    assert describe(partial(derive_seed, first=Scaled(1.0))) == "reverie.core.rng.derive_seed(first=Scaled(by=1.0))"


def test_the_order_of_named_arguments_does_not_count() -> None:
    assert describe(partial(derive_seed, a=1, b=2)) == describe(partial(derive_seed, b=2, a=1))
    assert describe(partial(derive_seed, a=1)) != describe(partial(derive_seed, a=2))


def scaled_by(by: float) -> Any:
    """Made by another function, so its name says nothing of what it does."""

    def scaled(x: float, plus: float = 0.0) -> float:
        return by * x + plus if x else scaled(plus)

    return scaled


class Plain:
    """Something that is called and does not say what it is."""

    def __init__(self, by: object) -> None:
        self.by = by

    def __call__(self, x: float) -> float:
        return x

    def other(self, x: float) -> float:
        return -x


@dataclass(frozen=True)
class Holding:
    """A dataclass that holds a function, whose text is an address."""

    function: Any


def test_functions_without_a_name_of_their_own_are_told_by_what_they_compute() -> None:
    assert describe(scaled_by(1.0)) == describe(scaled_by(1.0)) != describe(scaled_by(9.0))
    first, again, second = (lambda x: x + 1), (lambda x: x + 1), (lambda x: x + 2)
    assert describe(first) == describe(again) != describe(second)
    assert describe(lambda x, y=1: x) != describe(lambda x, y=2: x)
    assert describe(lambda x: x in {"a", "b"}) == describe(lambda x: x in {"b", "a"})


def test_objects_are_told_by_what_they_hold_and_not_where_they_lie() -> None:
    assert describe(Plain(3)) == describe(Plain(3)) != describe(Plain(8))
    assert describe(Plain(3).other) == describe(Plain(3).other) != describe(Plain(8).other)
    assert describe(Holding(scaled_by(1.0))) == describe(Holding(scaled_by(1.0))) != describe(Holding(scaled_by(2.0)))
    assert " at 0x" not in describe(Holding(derive_seed)) + describe(Plain(Plain(1)))
    around = Plain(0)
    around.by = around
    assert "itself" in describe(around)


def test_tensors_and_networks_are_told_by_their_values() -> None:
    ones = torch.ones(2000)
    other = ones.clone()
    other[1000] = 2
    assert describe(partial(derive_seed, w=ones)) != describe(partial(derive_seed, w=other))
    layer = nn.Linear(2, 2)
    before = describe(layer)
    with torch.no_grad():
        layer.weight[0, 0] += 1
    assert describe(layer) != before
    assert describe(nn.CrossEntropyLoss()) == "CrossEntropyLoss()"
    assert describe({"b", "a"}) == describe({"a", "b"}) == "{'a', 'b'}"
