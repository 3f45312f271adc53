"""Code that states a width in its own way: all of it is cut, exactly, and what cannot be is said."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from graph.networks import lively, some_kept
from reverie.core.edit import replay
from reverie.graph import certify, cut, probe, record
from reverie.graph.oracle import surviving
from reverie.graph.shadow import META, copied_modules

IMAGES = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1))


class Stated(nn.Module):
    """A first and a last layer, and code between them that reads attributes."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.first, self.last, self.run = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.run(self, self.first(x))).mean((2, 3))


def halves(net: Any, x: Tensor) -> Tensor:
    left, right = x.split(net.dim, 1)
    return torch.cat([left * 2, right.relu()], 1)


def reshaped(net: Any, x: Tensor) -> Tensor:
    return x.flatten(1).view(-1, *net.shape)


def excited(net: Any, x: Tensor) -> Tensor:
    return x * net.expand(F.relu(net.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()


def selected(net: Any, x: Tensor) -> Tensor:
    """Selective kernels: two branches, weighed by a softmax between them."""
    both = torch.stack([net.small(x), net.large(x)], 1)
    weights = net.expand(F.relu(net.squeeze(both.sum(1).mean((2, 3), keepdim=True))))
    weights = weights.view(len(x), 2, both.shape[2], 1, 1).softmax(1)
    return (both * weights).sum(1)


def dropped(net: Any, x: Tensor) -> Tensor:
    """Stochastic depth, which evaluation passes by."""
    if net.training:
        x = x * torch.bernoulli(torch.full((len(x), 1, 1, 1), 0.5))
    return x + F.relu(net.inner(x))


def windowed(net: Any, x: Tensor) -> Tensor:
    return x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))


def remaining(net: Any, x: Tensor) -> Tensor:
    """A part is treated, and what is left of the width passes by."""
    part, rest = x.split([net.part, net.dim - net.part], 1)
    return torch.cat([net.inner(part), rest], 1)


def pooled_line(net: Any, x: Tensor) -> Tensor:
    """Pooling of sequences is pooling of images one pixel high, whose by-product is moved as well."""
    return F.max_pool1d(net.inner(x.flatten(2)), 2)[..., None]


def channels_last_pool(net: Any, x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(net.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), 1)


def aggregated(net: Any, x: Tensor) -> Tensor:
    """A kernel of one tap slides along the channels, which it does not mix."""
    both = torch.stack([x.mean((2, 3)), x.amax((2, 3))], 1)
    return net.weigh(both).transpose(1, 2)[..., None]


def left_to_pytorch(net: Any, x: Tensor) -> Tensor:
    """Stated heads and widths, and -1 for the positions, for which PyTorch then finds a wrong number."""
    n, _, h, w = x.shape
    x = x.flatten(2).transpose(1, 2).contiguous().view(n, -1, net.heads, net.width) * net.gain
    return x.flatten(2).transpose(1, 2).reshape(n, -1, h, w)


CODE: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "split(self.dim)": (lambda: Stated(halves, dim=4), 4),
    "view(self.shape)": (lambda: Stated(reshaped, shape=(8, 4, 4)), 8),
    "squeeze and excitation": (lambda: Stated(excited, squeeze=nn.Conv2d(8, 4, 1), expand=nn.Conv2d(4, 8, 1)), 12),
    "selective kernels": (
        lambda: Stated(
            selected,
            small=nn.Conv2d(8, 8, 1),
            large=nn.Conv2d(8, 8, 3, padding=1),
            squeeze=nn.Conv2d(8, 4, 1),
            expand=nn.Conv2d(4, 16, 1),
        ),
        20,
    ),
    "stochastic depth": (lambda: Stated(dropped, inner=nn.Conv2d(8, 8, 1)), 8),
    "windows by unfold": (lambda: Stated(windowed), 8),
    "split([self.part, self.dim - self.part])": (
        lambda: Stated(remaining, dim=8, part=3, inner=nn.Conv2d(3, 3, 1)), 8,
    ),
    "view(n, -1, self.heads, self.width)": (
        lambda: Stated(left_to_pytorch, heads=2, width=4, gain=nn.Parameter(torch.rand(4) + 0.5)), 6,
    ),
    "one tap along the channels": (lambda: Stated(aggregated, weigh=nn.Conv1d(2, 1, 1)), 8),
    "pooling of sequences": (lambda: Stated(pooled_line, inner=nn.Conv1d(8, 8, 1)), 16),
    "pool that lays out anew": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1)),
        8,
    ),
    "that pool behind channels that lie last": (lambda: Stated(channels_last_pool, norm=nn.LayerNorm(8)), 8),
}  # fmt: skip


def assert_exact(net: nn.Module, batch: Tensor, least: int) -> None:
    structure = certify(net, probe(net, batch), batch)
    assert sum(group.units for group in structure.free) >= least, structure.frozen
    assert not any("not certified" in reason for reason in structure.frozen.values()), structure.frozen
    kept = {group.name: some_kept(group.units, seed) for seed, group in enumerate(structure.free)}
    small, made = cut(net, structure, kept)
    with torch.no_grad():
        torch.testing.assert_close(small(batch), surviving(net, made, batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CODE)
def test_stated_widths_are_cut_exactly(name: str):
    build, least = CODE[name]
    assert_exact(lively(build()), IMAGES, least)


class Torch(nn.Module):
    """PyTorch's own multi-head attention between two linear layers."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(12, 12), nn.Linear(12, 4)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True, **options)
        self.context = nn.Linear(12, options["kdim"]) if "kdim" in options else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        given = x if self.context is None else self.context(x)
        return self.head(x + self.attention(x, given, given, need_weights=False)[0]).mean(1)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 6, "vdim": 6}], ids=["plain", "no bias", "context"])
def test_the_embedding_of_multi_head_attention_goes_with_its_heads(options: dict[str, Any]):
    net = lively(Torch(**options))
    structure = certify(net, probe(net, TOKENS), TOKENS)
    heads = next(group for group in structure.free if group.units == 3)
    width = next(group for group in structure.free if group.units == 4)
    assert {"embed.weight", "head.weight"} <= {part.tensor for part in heads.slices} & {
        part.tensor for part in width.slices
    }
    small, _ = cut(net, structure, {heads.name: [0, 2], width.name: [0, 1, 3]})
    assert (small.attention.embed_dim, small.attention.num_heads, small.attention.head_dim) == (6, 2, 3)
    assert_exact(net, TOKENS, 7)


class Parts(nn.Module):
    """Attention whose code takes a part of the width that it is given for the width of a head."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 3
        self.embed, self.qkv, self.proj, self.head = (
            nn.Linear(*size) for size in ((12, 12), (12, 36), (12, 12), (12, 4))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v
        return self.head(self.proj(mixed.transpose(1, 2).reshape(n, t, c))).mean(1)


def test_a_part_of_a_width_binds_it_to_the_heads():
    net = lively(Parts())
    structure = probe(net, TOKENS)
    assert sorted(group.units for group in structure.free) == [3, 4, 12]
    assert_exact(net, TOKENS, 19)


class Situated(nn.Module):
    """Attention that asks the queries where they are too, or scales their products, and registers before the tokens."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.num_heads, self.head_dim, self.prefix = kind, 2, 8, 3
        self.embed, self.qkv, self.proj, self.head = (
            nn.Linear(*size) for size in ((12, 12), (12, 48), (16, 12), (12, 4))
        )
        self.where, self.registers = nn.Parameter(torch.rand(8, 8)), nn.Parameter(torch.rand(1, 3, 12))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.registers.expand(len(x), -1, -1), self.embed(x)], 1)
        n, t, _ = x.shape
        # Heads first, and the number of positions left to PyTorch.
        q, k, v = self.qkv(x).view(n, -1, self.num_heads, 3 * self.head_dim).transpose(1, 2).chunk(3, -1)
        if self.kind == "products":
            mixed = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v
        else:
            bias = q @ self.where.t() if self.kind == "positions" else None
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = self.proj(mixed.transpose(1, 2).reshape(n, t, -1))
        return self.head(x[:, self.prefix :].mean(1))


@pytest.mark.parametrize("kind", ["positions", "products", "plain"])
def test_attention_that_reads_its_queries_twice_keeps_its_scale(kind: str):
    net = lively(Situated(kind))
    structure = certify(net, probe(net, TOKENS), TOKENS)
    assert [(group.name, group.units) for group in structure.free if "qkv" in group.name] == [
        ("qkv[0:48//24]", 2), ("qkv[0:48%8]", 8)
    ], structure.frozen  # fmt: skip
    (scaled,) = (group for group in structure.free if group.rescales)
    rows = {row // 8 % 3 for one in scaled.rescales for row in one.rows}
    # Of queries that something else reads, the keys are scaled in their place.
    assert rows == {"positions": {1}, "products": {0}, "plain": {0, 1}}[kind]
    assert_exact(net, TOKENS, 25)


class Joined(nn.Module):
    """As in a U-Net of diffusion: a normalization whose groups lie across the border of what was concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 32, 1), nn.Conv2d(3, 16, 1)
        self.norm, self.last = nn.GroupNorm(4, 48), nn.Conv2d(48, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.silu(self.norm(torch.cat([self.one(x), self.two(x)], 1)))).mean((2, 3))


def test_groups_of_a_normalization_lie_across_a_border():
    net = lively(Joined())
    structure = certify(net, probe(net, IMAGES), IMAGES)
    # Two whole groups, and of every group the members 0 to 7, or 8 to 11: channel 24 to 31 of one, 0 to 3 of two.
    assert sorted(group.units for group in structure.free) == [2, 4, 8], structure.frozen
    eight = next(group for group in structure.free if group.units == 8)
    small, made = cut(net, structure, {eight.name: range(1, 8)})
    assert small.one.out_channels == 32 - 3
    assert small.two.out_channels == 16 - 1
    with torch.no_grad():
        torch.testing.assert_close(small(IMAGES), surviving(net, made, IMAGES), rtol=1e-5, atol=1e-5)
    assert_exact(net, IMAGES, 14)


def test_a_running_average_of_the_weights_is_cut_by_the_same_record():
    net = lively(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)))
    average = torch.optim.swa_utils.AveragedModel(net)
    with torch.no_grad():
        for parameter in average.module.parameters():
            parameter.mul_(0.9)
    _, made = cut(net, probe(net, IMAGES), {"0": [1, 2, 6]})
    with torch.no_grad():
        torch.testing.assert_close(replay(made, average.module)(IMAGES), surviving(average.module, made, IMAGES))


class Held(nn.Module):
    """Holds modules and tensors in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = weight_norm(nn.Linear(4, 4))
        self.rnn, self.attention = nn.LSTM(4, 4), nn.MultiheadAttention(4, 2)
        self.same, self.table = self.norm, {"one": [torch.ones(3), self.norm]}
        self.register_buffer("positions", torch.arange(4), persistent=False)
        self.sizes, self.function = [1, (2, 3)], F.relu

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.rnn(self.norm(x) + self.positions)[0])


def test_a_copy_without_data_is_that_of_deepcopy():
    net = Held().eval()
    ours, theirs = META().copied(net), copy.deepcopy(net).to("meta")
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in theirs.named_modules()]
    for one, other in zip(ours.modules(), theirs.modules(), strict=True):
        assert type(one).__name__ == type(other).__name__
        assert vars(one).keys() == vars(other).keys()
    assert [(n, t.shape, t.requires_grad, t.is_meta) for n, t in ours.state_dict(keep_vars=True).items()] == [
        (n, t.shape, t.requires_grad, True) for n, t in theirs.state_dict(keep_vars=True).items()
    ]
    assert ours.same is ours.norm
    assert ours.table["one"][1] is ours.norm
    assert ours.table["one"][0].is_meta
    assert ours.sizes == net.sizes
    assert ours.sizes is not net.sizes
    ours.norm.in_features = 9
    assert net.norm.in_features == 4


def test_a_class_that_copies_itself_is_asked():
    class Own(nn.Module):
        def __deepcopy__(self, memo: dict[int, Any]) -> "Own":
            made = Own()
            made.copied = True
            return made

    made = copied_modules(nn.Sequential(Own(), nn.Linear(2, 2)), {})
    assert made[0].copied


def test_what_is_remembered_of_an_operation_is_what_it_would_return():
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            found = []
            for _ in range(2):
                normal, mean, _ = torch.native_layer_norm(x.transpose(1, 2), (3,), None, None, 1e-5)
                found += [normal, mean, x > 0, x.sum(1), x.transpose(1, 3) * 2, x.double() + 1, torch.ones(3)]
            return tuple(found)

    images = torch.randn(2, 5, 3, 3)
    real = Twice()(images)
    trace = record(Twice(), images)
    assert [value.shape for value in trace.outputs] == [tuple(one.shape) for one in real]
    copied = META()
    for _ in range(2):
        for one in (images, images.transpose(1, 3), images.double()):
            bare = copied.tensor(one)
            wanted = one > 0.5, one * one, one.softmax(1)
            calls = (
                (torch.ops.aten.gt.Scalar, (bare, 0.5)),
                (torch.ops.aten.mul.Tensor, (bare, bare)),
                (torch.ops.aten._softmax.default, (bare, 1, False)),
            )
            for (op, given), other in zip(calls, wanted, strict=True):
                made = copied.run(op, given, {})
                assert (made.shape, made.stride(), made.dtype) == (other.shape, other.stride(), other.dtype)
