"""Small networks with a known structure, for the tests of `reverie.graph`, and the law that all of them obey."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.edit import replay
from reverie.graph import Structure, certify, cut, masked, probe, surviving
from reverie.zoo.networks import CifarResNet, CifarVGG


class Gated(nn.Module):
    """Inverted residual: expand, depthwise, squeeze-and-excite gate, project, add."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.depth = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.squeeze = nn.Conv2d(hidden, 4, 1)
        self.excite = nn.Conv2d(4, hidden, 1)
        self.project = nn.Conv2d(hidden, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.silu(self.bn1(self.expand(x)))
        inner = F.silu(self.bn2(self.depth(inner)))
        gate = self.excite(F.relu(self.squeeze(inner.mean((2, 3), keepdim=True))))
        return x + self.bn3(self.project(inner * gate.sigmoid()))


class MobileLike(nn.Module):
    """Stem, one gated block, head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.block = Gated(6, 12)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)).mean((2, 3)))


class Dense(nn.Module):
    """Concatenation of all earlier features, normalized together, then flattened into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(10)
        self.third = nn.Conv2d(10, 8, 3, padding=1, bias=False)
        self.head = nn.Linear(18 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        one = self.first(x)
        two = torch.cat([one, torch.tanh(self.second(one))], 1)
        three = torch.cat([two, self.third(F.relu(self.norm(two)))], 1)
        return self.head(F.max_pool2d(three, 2).flatten(1))


class Grouped(nn.Module):
    """A grouped convolution between two dense ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1)
        self.middle = nn.Conv2d(12, 8, 3, padding=1, groups=4)
        self.last = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.middle(F.relu(self.first(x))))).mean((2, 3))


class Shuffled(nn.Module):
    """Channel split in halves, one half convolved, concatenation, channel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1)
        self.pointwise = nn.Conv2d(6, 6, 1)
        self.last = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).chunk(2, 1)
        joined = torch.cat([left, F.relu(self.pointwise(right))], 1)
        n, c, h, w = joined.shape
        return self.last(F.relu(joined.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))).mean((2, 3))


class Normed(nn.Module):
    """Group normalization, parametric rectifier, transposed convolution, pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(4, 8)
        self.rectify = nn.PReLU(8)
        self.up = nn.ConvTranspose2d(8, 12, 2, stride=2)
        self.last = nn.Conv2d(3, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.pixel_shuffle(F.elu(self.up(self.rectify(self.norm(self.first(x))))), 2)).mean((2, 3))


class Transformer(nn.Module):
    """One block of attention by hand over 16 tokens that states its heads and their width: those freeze."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 2, stride=2)
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).reshape(x.shape[0], -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return self.head((x + self.down(F.gelu(self.up(x)))).mean(1))


@dataclass(frozen=True)
class Case:
    """A network, its example's side, and the groups that must be free."""

    name: str
    build: Callable[[], nn.Module]
    size: int
    free: int


CASES = [
    Case("resnet project", lambda: CifarResNet(blocks=2, widths=(6, 8, 10)), 8, 9),
    Case("resnet pad", lambda: CifarResNet(blocks=2, widths=(6, 8, 12), shortcut="pad"), 8, 7),
    Case("vgg", lambda: CifarVGG(stages=((6, 7), (8,))), 8, 3),
    Case("inverted residual", MobileLike, 6, 3),
    Case("concatenation", Dense, 8, 3),
    Case("grouped", Grouped, 6, 3),
    Case("shuffle", Shuffled, 6, 1),
    Case("group norm", Normed, 4, 3),
    Case("transformer", Transformer, 8, 2),
]


def example(case: Case) -> Tensor:
    return torch.randn(2, 3, case.size, case.size, generator=torch.Generator().manual_seed(7))


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """In evaluation mode, with statistics and affine parameters that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.ndim == 1 and tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(noise - 0.5 if name.endswith(("bias", "mean")) else noise + 0.5)
    return model.eval()


def some_kept(units: int, seed: int) -> list[int]:
    """At most 70 % of the units, at random, at least one."""
    order = torch.randperm(units, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[: max(1, int(units * 0.7))])


def assert_masked(net: nn.Module, structure: Structure, kept: Mapping[str, Sequence[int]], batch: Tensor) -> None:
    """Where no operation runs across the units, zeroing what reads them is a second reference."""
    with torch.no_grad():
        found, wanted = cut(net, structure, kept)[0](batch), masked(net, structure, kept)(batch)
    assert (found - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max()))


def assert_exact(net: nn.Module, batch: Tensor) -> Structure:
    """Probe, certify, remove at least 30 % of every free group, compare with the references, replay the record."""
    probed = probe(net, batch)
    structure = certify(net, probed, batch)
    assert structure.frozen == probed.frozen
    kept = {group.name: some_kept(group.units, index) for index, group in enumerate(structure.free)}
    small, record = cut(net, structure, kept)
    with torch.no_grad():
        found, wanted, whole = small(batch), surviving(net, record, batch), net(batch)
    assert (found - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max()))
    assert_masked(
        net, structure, {name: units for name, units in kept.items() if not structure.group(name).crossed}, batch
    )
    if kept:
        assert not torch.equal(wanted, whole)
    again = replay(record, net)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in small.state_dict().items())
    return structure
