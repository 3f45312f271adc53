"""A network to be tried: how it is built, in any process, and what it takes."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.rng import derive_seed, generator, preserved_rng

__all__ = ["Input", "Subject"]


@dataclass(frozen=True)
class Input:
    """One input of a network.

    Attributes:
        shape: Without the batch.
        below: Integers from 0 up to here; None for real numbers.
        positive: Real numbers in [0, 1) and not of the normal distribution.
    """

    shape: tuple[int, ...]
    below: int | None = None
    positive: bool = False

    def batch(self, count: int, rng: torch.Generator) -> Tensor:
        """Random values, (count, *shape)."""
        size = (count, *self.shape)
        if self.below is not None:
            return torch.randint(self.below, size, generator=rng)
        return torch.rand(size, generator=rng) if self.positive else torch.randn(size, generator=rng)


@dataclass(frozen=True)
class Subject:
    """A network to be tried.

    Attributes:
        name: Unique.
        kind: What it exercises.
        factory: An importable "package.module:factory" that needs no Reverie.
        arguments: Its keyword arguments, JSON values.
        inputs: What the network takes, as positional arguments.
        full: The arguments of the same architecture in its own size, where `arguments` make it smaller.
        full_inputs: The inputs for that.
        full_factory: Its factory, where that is another.
    """

    name: str
    kind: str
    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[Input, ...] = (Input((3, 32, 32)),)
    full: Mapping[str, Any] | None = None
    full_inputs: tuple[Input, ...] | None = None
    full_factory: str | None = None

    def build(self, *, full: bool = False) -> nn.Module:
        """The network, untrained, in evaluation mode; the same weights every time."""
        whole = full and self.full is not None
        module, _, attribute = ((self.full_factory if whole else None) or self.factory).partition(":")
        factory = getattr(importlib.import_module(module), attribute)
        arguments = self.full if whole and self.full is not None else self.arguments
        with preserved_rng():
            torch.manual_seed(derive_seed(0, self.name) % 2**31)
            built: nn.Module = factory(**arguments)
        return built.eval()

    def example(self, count: int = 2, *, full: bool = False, seed: int = 0) -> tuple[Tensor, ...]:
        """A batch of random inputs."""
        inputs = self.full_inputs if full and self.full_inputs is not None else self.inputs
        rng = generator(seed, "example", self.name)
        return tuple(one.batch(count, rng) for one in inputs)
