"""One tiny network for each thing that goes wrong elsewhere: what must be free is free, and every cut is exact."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from graph.networks import lively, some_kept
from reverie.graph import certify, cut, probe
from reverie.graph.oracle import surviving

Run = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    """Layers, parameters and buffers by name, and a function that uses them."""

    def __init__(self, run: Run, **parts: nn.Module | nn.Parameter | Tensor) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            elif isinstance(part, nn.Parameter):
                self.register_parameter(name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def tokens(net: Any, x: Tensor) -> Tensor:
    return net.embed(x).flatten(2).transpose(1, 2)


def grouped_queries(net: Any, x: Tensor) -> Tensor:
    x = tokens(net, x)
    n, t, _ = x.shape
    q = net.q(x).view(n, t, 4, -1).transpose(1, 2)
    k, v = (one(x).view(n, t, 2, -1).transpose(1, 2).repeat_interleave(2, 1) for one in (net.k, net.v))
    return net.head(net.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)).mean(1))


def grouped_heads(net: Any, x: Tensor) -> Tensor:
    """Two queries to each key and value: both go with it."""
    x = tokens(net, x)
    n, t, _ = x.shape
    q = net.q(x).view(n, t, -1, 4).transpose(1, 2)
    k, v = (one(x).view(n, t, -1, 4).transpose(1, 2).repeat_interleave(2, 1) for one in (net.k, net.v))
    return net.head(net.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)).mean(1))


def fused(order: str) -> Run:
    def run(net: Any, x: Tensor) -> Tensor:
        x = tokens(net, x)
        n, t, _ = x.shape
        if order == "3 heads width":
            q, k, v = net.qkv(x).view(n, t, 3, 2, -1).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = net.qkv(x).view(n, t, 2, 3, -1).permute(3, 0, 2, 1, 4)
        mixed = (q @ k.transpose(-2, -1) * 4**-0.5).softmax(-1) @ v
        return net.head(net.out(mixed.transpose(1, 2).flatten(2)).mean(1))

    return run


def rotary(net: Any, x: Tensor) -> Tensor:
    x = tokens(net, x)
    n, t, _ = x.shape
    q, k = (one(x).view(n, t, 2, -1).transpose(1, 2) for one in (net.q, net.k))

    def turned(one: Tensor) -> Tensor:
        first, second = one.chunk(2, -1)
        return one * net.cos + torch.cat([-second, first], -1) * net.sin

    v = net.v(x).view(n, t, 2, -1).transpose(1, 2)
    mixed = (turned(q) @ turned(k).transpose(-2, -1) / 8**0.5).softmax(-1) @ v
    return net.head(net.out(mixed.transpose(1, 2).flatten(2)).mean(1))


def biased(net: Any, x: Tensor) -> Tensor:
    x = tokens(net, x)
    n, t, _ = x.shape
    q, k, v = (one(x).view(n, t, -1, 4).transpose(1, 2) for one in (net.q, net.k, net.v))
    bias = net.table[net.index.view(-1)].view(t, t, -1).permute(2, 0, 1)
    mixed = (q @ k.transpose(-2, -1) * 0.5 + bias).softmax(-1) @ v
    return net.head(net.out(mixed.transpose(1, 2).flatten(2)).mean(1))


def positioned(net: Any, x: Tensor) -> Tensor:
    x = tokens(net, x)
    x = torch.cat([net.cls.expand(x.shape[0], -1, -1), x], 1) + net.pos
    return net.head(net.down(F.gelu(net.up(net.norm(x)))).mean(1))


def resized(net: Any, x: Tensor) -> Tensor:
    x = net.embed(x)
    place = F.interpolate(net.pos.permute(0, 3, 1, 2), x.shape[2:], mode="bicubic", antialias=True)
    return net.head(F.gelu(x + place).mean((2, 3)))


def padded_windows(net: Any, x: Tensor) -> Tensor:
    x = F.pad(net.norm(net.embed(x).permute(0, 2, 3, 1)), (0, 0, 0, 2, 0, 2))
    n, h, w, c = x.shape
    x = net.mix(x.view(n, h // 3, 3, w // 3, 3, c).transpose(2, 3).reshape(-1, 9, c)).softmax(1)
    x = x.view(n, h // 3, w // 3, 3, 3, -1).transpose(2, 3).reshape(n, h, w, -1)
    return net.head(x[:, :-2, :-2].mean((1, 2)))


def windows(net: Any, x: Tensor) -> Tensor:
    x = net.embed(x).permute(0, 2, 3, 1).roll((-1, -1), (1, 2))
    n, h, w, c = x.shape
    x = x.view(n, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
    x = net.mix(x) * net.gamma
    x = x.view(n, h // 2, w // 2, 2, 2, -1).transpose(2, 3).reshape(n, h, w, -1).roll((1, 1), (1, 2))
    return net.head(x.mean((1, 2)))


def response(net: Any, x: Tensor) -> Tensor:
    x = F.gelu(net.first(x))
    norm = x.norm(dim=(2, 3), keepdim=True)
    return net.last(x * (norm / (norm.mean(1, keepdim=True) + 1e-6)) * net.scale + x).mean((2, 3))


def channel_conv(net: Any, x: Tensor) -> Tensor:
    x = net.first(x)
    gate = net.gate(x.mean((2, 3)).unsqueeze(1)).squeeze(1).sigmoid()
    return net.last(x * gate[:, :, None, None]).mean((2, 3))


def views_in_place(net: Any, x: Tensor) -> Tensor:
    x = net.first(x)
    half = x.shape[1] // 2
    x[:, :half].mul_(2.0)
    x.relu_()
    return net.last(x).mean((2, 3))


def anchors(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.first(x))
    n, _, h, w = x.shape
    return net.heads(x).view(n, 3, 5, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, 5)


def pyramid(net: Any, x: Tensor) -> Tensor:
    fine = net.stem(x)
    coarse = net.down(F.relu(fine))
    side = net.lateral(coarse)
    fine = net.side(fine) + F.interpolate(side, scale_factor=2.0)
    return torch.cat([net.shared(F.relu(level)).flatten(2) for level in (fine, side)], 2)


def wide(layers: dict[str, tuple[int, int]]) -> dict[str, nn.Module]:
    return {name: nn.Linear(*sizes) for name, sizes in layers.items()}


QKV = {"q": (8, 8), "k": (8, 8), "v": (8, 8), "out": (8, 8), "head": (8, 4)}


def conv(inp: int, out: int, kernel: int = 1, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(inp, out, kernel, padding=kernel // 2, **more)


def chain(middle: Callable[[Any, Tensor], Tensor]) -> Run:
    return lambda net, x: net.last(middle(net, net.first(x))).mean((2, 3))


PITFALLS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "grouped queries": (
        lambda: Net(grouped_queries, embed=conv(3, 8, stride=2), **wide(QKV | {"q": (8, 16), "out": (16, 8)})),
        8,
    ),
    "heads of grouped queries": (
        lambda: Net(grouped_heads, embed=conv(3, 8, stride=2), **wide(QKV | {"q": (8, 16), "out": (16, 8)})),
        18,
    ),
    "qkv: parts, heads, width": (
        lambda: Net(
            fused("3 heads width"), embed=conv(3, 8, stride=2), **wide({"qkv": (8, 24), "out": (8, 8), "head": (8, 4)})
        ),
        8,
    ),
    "qkv: heads, parts, width": (
        lambda: Net(
            fused("heads 3 width"), embed=conv(3, 8, stride=2), **wide({"qkv": (8, 24), "out": (8, 8), "head": (8, 4)})
        ),
        8,
    ),
    "rotary pairs": (
        lambda: Net(
            rotary,
            embed=conv(3, 8, stride=2),
            cos=torch.rand(4, 8),
            sin=torch.rand(4, 8),
            **wide({"q": (8, 16), "k": (8, 16), "v": (8, 8), "out": (8, 8), "head": (8, 4)}),
        ),
        24,
    ),
    "relative position table": (
        lambda: Net(
            biased,
            embed=conv(3, 8, stride=2),
            table=nn.Parameter(torch.randn(7, 2)),
            index=torch.arange(16).view(4, 4) % 7,
            **wide(QKV),
        ),
        18,
    ),
    "positions and class token": (
        lambda: Net(
            positioned,
            embed=conv(3, 8, stride=2),
            cls=nn.Parameter(torch.randn(1, 1, 8)),
            norm=nn.LayerNorm(8),
            pos=nn.Parameter(torch.randn(1, 5, 8)),
            **wide({"up": (8, 16), "down": (16, 8), "head": (8, 4)}),
        ),
        32,
    ),
    "windows, roll, layer scale": (
        lambda: Net(
            windows, embed=conv(3, 8), gamma=nn.Parameter(torch.rand(12)), **wide({"mix": (8, 12), "head": (12, 4)})
        ),
        20,
    ),
    "positions of another size": (
        lambda: Net(resized, embed=conv(3, 8), pos=nn.Parameter(torch.randn(1, 3, 3, 8)), head=nn.Linear(8, 4)),
        8,
    ),
    "windows that are padded": (
        lambda: Net(padded_windows, embed=conv(3, 8), norm=nn.LayerNorm(8), **wide({"mix": (8, 12), "head": (12, 4)})),
        20,
    ),
    "response normalization": (
        lambda: Net(response, first=conv(3, 8), last=conv(8, 4), scale=nn.Parameter(torch.rand(1, 8, 1, 1))),
        8,
    ),
    "convolution over channels": (
        lambda: Net(channel_conv, first=conv(3, 8), last=conv(8, 4), gate=nn.Conv1d(1, 1, 3, padding=1)),
        0,
    ),
    "batch norm after concatenation": (
        lambda: Net(
            lambda net, x: net.last(net.bn(torch.cat([net.one(x), net.two(x)], 1))).mean((2, 3)),
            one=conv(3, 6),
            two=conv(3, 4),
            bn=nn.BatchNorm2d(10),
            last=conv(10, 4),
        ),
        10,
    ),
    "weight norm": (
        lambda: Net(
            chain(lambda net, x: net.mid(x.relu())),
            first=weight_norm(conv(3, 8)),
            mid=weight_norm(conv(8, 6)),
            last=conv(6, 4),
        ),
        14,
    ),
    "spectral norm": (
        lambda: Net(chain(lambda net, x: x.relu()), first=spectral_norm(conv(3, 8)), last=conv(8, 4)),
        8,
    ),
    "in place on views": (lambda: Net(views_in_place, first=conv(3, 8), last=conv(8, 4)), 4),
    "batch norm of flat features": (
        lambda: Net(
            lambda net, x: net.last(net.bn(net.first(x).flatten(1))),
            first=conv(3, 6),
            bn=nn.BatchNorm1d(96),
            last=nn.Linear(96, 4),
        ),
        6,
    ),
    "pool to 2 x 2, then flat": (
        lambda: Net(
            lambda net, x: net.last(F.adaptive_avg_pool2d(net.first(x), 2).flatten(1)),
            first=conv(3, 6),
            last=nn.Linear(24, 4),
        ),
        6,
    ),
    "depthwise with a multiplier": (
        lambda: Net(
            chain(lambda net, x: net.deep(x)), first=conv(3, 6), deep=conv(6, 12, 3, groups=6), last=conv(12, 4)
        ),
        6,
    ),
    "one slope for all": (
        lambda: Net(chain(lambda net, x: net.act(x)), first=conv(3, 8), act=nn.PReLU(), last=conv(8, 4)),
        8,
    ),
    "group norm down to one": (
        lambda: Net(chain(lambda net, x: net.norm(x)), first=conv(3, 8), norm=nn.GroupNorm(4, 8), last=conv(8, 4)),
        4,
    ),
    "anchors and classes": (lambda: Net(anchors, first=conv(3, 8), heads=conv(8, 15)), 8),
    "one head for all levels": (
        lambda: Net(
            pyramid,
            stem=conv(3, 6),
            down=nn.Conv2d(6, 8, 2, 2),
            lateral=conv(8, 10),
            side=conv(6, 10),
            shared=conv(10, 4),
        ),
        24,
    ),
    "buffer as wide as a layer": (
        lambda: Net(
            chain(lambda net, x: x * net.gain[:, None, None]), first=conv(3, 8), last=conv(8, 4), gain=torch.rand(8)
        ),
        8,
    ),
}


@pytest.mark.parametrize("name", PITFALLS)
def test_a_pitfall_is_cut_exactly(name: str):
    build, least = PITFALLS[name]
    net = lively(build())
    batch = torch.randn(2, 3, 4, 4)
    structure = certify(net, probe(net, batch), batch)
    assert sum(group.units for group in structure.free) >= least, structure.frozen
    assert not any("not certified" in reason for reason in structure.frozen.values()), structure.frozen
    for seed in range(2):
        kept = {group.name: some_kept(group.units, seed + i) for i, group in enumerate(structure.free)}
        small, record = cut(net, structure, kept)
        with torch.no_grad():
            torch.testing.assert_close(small(batch), surviving(net, record, batch), rtol=1e-5, atol=1e-5)
        images = batch.to(memory_format=torch.channels_last)
        with torch.no_grad():
            torch.testing.assert_close(small(images), small(batch), rtol=1e-5, atol=1e-5)


def test_mixing_neighboring_channels_freezes_them():
    build, _ = PITFALLS["convolution over channels"]
    structure = probe(build(), torch.randn(2, 3, 4, 4))
    assert "first" in structure.frozen
