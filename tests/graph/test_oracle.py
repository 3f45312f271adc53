"""The reference of a cut: hand-made small networks, and what it refuses to answer."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graph.networks import lively
from reverie.bench.kinds import OTHERS
from reverie.bench.portable import answers, difference
from reverie.core.edit import Bypass, Keep, Record
from reverie.core.errors import ReferenceNotFound, ShapeError, UnsupportedOp
from reverie.graph.oracle import surviving
from traces import global_trace, model_trace

KEPT = (0, 2, 3)
aten = torch.ops.aten


def keep(**kept: tuple[int, tuple[int, ...]]) -> Record:
    """Tensor -> (dimension, rows)."""
    return Record((Keep({name.replace("__", "."): {dim: rows} for name, (dim, rows) in kept.items()}),))


OWN = [one for one in OTHERS if "libraries" not in one.factory]


@pytest.mark.parametrize("subject", OWN, ids=lambda subject: subject.name)
def test_with_nothing_removed_it_is_the_network_itself(subject):
    net, inputs = lively(subject.build()), subject.example()
    before = model_trace(net), global_trace()
    found = surviving(net, Record(), *inputs)
    assert (model_trace(net), global_trace()) == before
    leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(found) if isinstance(leaf, Tensor)]
    assert difference(leaves, answers(net, inputs)) <= 1e-5


class Softened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def inner(self, x: Tensor) -> Tensor:
        return x.softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.first(x)))


class Scaled(Softened):
    def inner(self, x: Tensor) -> Tensor:
        return x / x.shape[-1] + x.mean(-1, keepdim=True) + x.std(-1, keepdim=True)


class Maxed(Softened):
    def inner(self, x: Tensor) -> Tensor:
        return x - x.amax(-1, keepdim=True) - x.logsumexp(-1, keepdim=True)


class Normed(Softened):
    def inner(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],)) + F.normalize(x, dim=-1)


CUT = keep(first__weight=(0, KEPT), first__bias=(0, KEPT), last__weight=(1, KEPT))


@pytest.mark.parametrize(
    ("net", "inner"),
    [
        (Softened(), lambda x: x.softmax(-1)),
        # What the code divides by, it read from the whole network: 4, not 3.
        (Scaled(), lambda x: x / 4 + x.mean(-1, keepdim=True) + x.std(-1, keepdim=True)),
        (Maxed(), lambda x: x - x.amax(-1, keepdim=True) - x.logsumexp(-1, keepdim=True)),
        (Normed(), lambda x: F.rms_norm(x, (3,)) + F.normalize(x, dim=-1)),
    ],
    ids=["softmax", "moments", "maximum", "norms"],
)
def test_statistics_are_those_of_the_survivors(net: Softened, inner):
    x = torch.randn(5, 3)
    small = inner(net.first(x)[:, list(KEPT)])
    wanted = small @ net.last.weight[:, list(KEPT)].T + net.last.bias
    torch.testing.assert_close(surviving(net, CUT, x), wanted)
    assert not torch.allclose(net(x), wanted, atol=1e-3)


def test_group_normalization_without_a_member_of_each_group():
    net = lively(nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 2, 1)))
    rows = [0, 1, 3, 4, 5, 7]
    record = keep(**{f"{i}__{leaf}": (0, tuple(rows)) for i in (0, 1) for leaf in ("weight", "bias")})
    record = record + keep(**{"2__weight": (1, tuple(rows))})
    x = torch.randn(2, 3, 4, 4)
    inner = F.group_norm(net[0](x)[:, rows], 2, net[1].weight[rows], net[1].bias[rows])
    torch.testing.assert_close(surviving(net, record, x), F.conv2d(inner, net[2].weight[:, rows], net[2].bias))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 8) for _ in range(3))
        self.out = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (one(x).view(*x.shape[:2], 2, 4).transpose(1, 2) for one in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_attention_keeps_the_scale_of_the_original_width():
    net, x = Attending(), torch.randn(2, 5, 6)
    rows = (0, 1, 3, 4, 5, 7)
    record = keep(
        **{f"{name}__{leaf}": (0, rows) for name in ("q", "k") for leaf in ("weight", "bias")},
    )
    q, k = (one(x)[..., list(rows)].view(2, 5, 2, 3).transpose(1, 2) for one in (net.q, net.k))
    v = net.v(x).view(2, 5, 2, 4).transpose(1, 2)
    mixed = (q @ k.transpose(-2, -1) / math.sqrt(4)).softmax(-1) @ v
    torch.testing.assert_close(surviving(net, record, x), net.out(mixed.transpose(1, 2).flatten(2)))


def test_cuts_follow_each_other_and_what_is_bypassed_is_gone():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)).eval()
    first = keep(**{"0__weight": (0, KEPT), "0__bias": (0, KEPT), "1__weight": (1, KEPT)})
    second = keep(**{"0__weight": (0, (0, 2)), "0__bias": (0, (0, 2)), "1__weight": (1, (0, 2))})
    x = torch.randn(5, 3)
    inner = net[0](x)[:, [0, 3]] @ net[1].weight[:, [0, 3]].T + net[1].bias
    torch.testing.assert_close(surviving(net, first + second, x), net[2](inner))
    torch.testing.assert_close(
        surviving(net, first + Record((Bypass(("1", "0")),)), torch.ones(1, 4)), net[2](torch.ones(1, 4))
    )


def test_a_cut_of_the_output_is_refused():
    with pytest.raises(ShapeError, match="removes elements of the network's output"):
        surviving(nn.Linear(3, 4), keep(weight=(0, KEPT), bias=(0, KEPT)), torch.randn(2, 3))


class Sorted(Softened):
    def inner(self, x: Tensor) -> Tensor:
        return x.sort(-1).values


class Odd(Softened):
    def inner(self, x: Tensor) -> Tensor:
        return x + torch.linalg.inv(x.T @ x + torch.eye(4))[0]


@pytest.mark.parametrize(("net", "name"), [(Sorted(), "aten.sort orders"), (Odd(), "aten.linalg_inv_ex has no masked")])
def test_an_operation_without_a_masked_form_is_named(net, name: str):
    with pytest.raises(UnsupportedOp, match=name):
        surviving(net, CUT, torch.randn(5, 3))
    torch.testing.assert_close(surviving(net, Record(), torch.ones(5, 3)), net(torch.ones(5, 3)))


def test_a_record_of_another_network_is_refused():
    with pytest.raises(ReferenceNotFound, match="the record names"):
        surviving(nn.Linear(3, 4), Record((Bypass(("body",)),)), torch.randn(2, 3))
