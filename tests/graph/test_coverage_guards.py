"""A second analysis that shares nothing with ours: PyTorch's own shape guards must couple the same axes.

Every dimension of every parameter gets a symbol of its own, the network is exported once, and which symbols PyTorch had
to make equal is read off. Widths are different everywhere, so no two symbols are equal by chance of size.
"""

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, export

from reverie.graph import Structure, certify, probe

Place = tuple[str, int]


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 7, 3), nn.Conv2d(7, 11, 3), nn.Linear(11, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.second(F.relu(self.first(x)))).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 13, 3, padding=1), nn.BatchNorm2d(13)
        self.inner, self.outer = nn.Conv2d(13, 17, 1), nn.Conv2d(17, 13, 1)
        self.head = nn.Linear(13, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        return self.head((x + self.outer(F.silu(self.inner(x)))).mean((2, 3)))


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.squeeze, self.excite = nn.Conv2d(3, 19, 1), nn.Conv2d(19, 7, 1), nn.Conv2d(7, 19, 1)
        self.head = nn.Conv2d(19, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x * self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid())


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.up, self.gate = nn.Linear(3, 23), nn.Linear(23, 29), nn.Linear(23, 29)
        self.down, self.head = nn.Linear(29, 23), nn.Linear(23, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.head(x + self.down(F.silu(self.gate(x)) * self.up(x)))


class Shared(nn.Module):
    """One layer is called twice, so its input and its output are one."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.same, self.head = nn.Linear(3, 31), nn.Linear(31, 31), nn.Linear(31, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.same(F.relu(self.same(self.enter(x)))))


class Called(nn.Module):
    """A network as a function of its parameters."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self._net = [net]

    def forward(self, tensors: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(self._net[0], tensors, (x,))


def by_guards(net: nn.Module, batch: Tensor) -> set[frozenset[Place]]:
    """Sets of (parameter, dimension) that PyTorch found to be of one size."""
    tensors = {name: one.detach() for name, one in [*net.named_parameters(), *net.named_buffers()] if one.ndim}
    shapes = {name: {dim: Dim.AUTO for dim in range(one.ndim) if one.shape[dim] > 3} for name, one in tensors.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = export(Called(net.eval()), (tensors, batch), dynamic_shapes=(shapes, None), strict=False)
    classes: dict[str, set[Place]] = {}
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"]
    # The last input is the batch; parameters of the wrapper there are none.
    for name, value in zip(tensors, values, strict=False):
        for dim, size in enumerate(value.shape):
            if isinstance(size, torch.SymInt):
                classes.setdefault(str(size), set()).add((name, dim))
    return {frozenset(places) for places in classes.values()}


def by_rules(structure: Structure) -> set[frozenset[Place]]:
    """The same of the groups, where their units are whole dimensions."""
    return {frozenset((part.tensor, part.dim) for part in group.slices) for group in structure.free}


@pytest.mark.parametrize("build", [Plain, Residual, Gate, Perceptron, Shared], ids=lambda build: build.__name__)
def test_rules_and_guards_couple_the_same_axes(build: Callable[[], nn.Module]):
    net = build()
    batch = torch.randn(2, 3) if build in (Perceptron, Shared) else torch.randn(2, 3, 8, 8)
    structure = certify(net, probe(net, batch), batch)
    guards = by_guards(net, batch)
    assert structure.free
    # What guards know beyond the free groups is the output's own width.
    extra = guards - by_rules(structure)
    assert by_rules(structure) <= guards
    assert all(any("head" in name for name, _ in places) for places in extra)
