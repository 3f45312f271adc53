"""Random small convolutional graphs: whatever is free is exact."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from graph.networks import assert_exact, lively


class RandomNet(nn.Module):
    """A stack of steps, each of which continues from the latest features; all earlier ones of its width are at hand."""

    def __init__(self, steps: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.steps = steps
        self.layers = nn.ModuleList()
        widths = [4]
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        for kind, pick, width in steps:
            given_width, other = widths[-1], widths[pick % len(widths)]
            made, out = self._layer(kind, given_width, other, 2 * width)
            self.layers.append(made)
            widths.append(out)
        self.head = nn.Linear(widths[-1] * 4, 3)

    @staticmethod
    def _layer(kind: str, width: int, other: int, wanted: int) -> tuple[nn.Module, int]:
        if kind == "conv":
            return nn.Sequential(nn.Conv2d(width, wanted, 3, padding=1, bias=False), nn.BatchNorm2d(wanted)), wanted
        if kind == "depthwise":
            return nn.Conv2d(width, 2 * width, 3, padding=1, groups=width), 2 * width
        if kind == "grouped":
            return nn.Conv2d(width, wanted, 1, groups=2), wanted
        if kind == "add":
            return nn.Conv2d(width, other, 1), other
        if kind == "concat":
            return nn.BatchNorm2d(width + other), width + other
        if kind == "gate":
            return nn.Sequential(nn.Conv2d(width, 3, 1), nn.SiLU(), nn.Conv2d(3, width, 1), nn.Sigmoid()), width
        return nn.PReLU(width // 2), width // 2

    def forward(self, x: Tensor) -> Tensor:
        seen = [self.stem(x)]
        for (kind, pick, _), layer in zip(self.steps, self.layers, strict=True):
            now, other = seen[-1], seen[pick % len(seen)]
            if kind == "add":
                seen.append(F.elu(layer(now) + other))
            elif kind == "concat":
                seen.append(layer(torch.cat([other, now], 1)))
            elif kind == "gate":
                seen.append(now * layer(now.mean((2, 3), keepdim=True)))
            elif kind == "halve":
                first, second = now.chunk(2, 1)
                seen.append(layer(first * second))
            else:
                seen.append(F.elu(layer(now)))
        return self.head(F.adaptive_avg_pool2d(seen[-1], 2).flatten(1))


steps = st.tuples(
    st.sampled_from(["conv", "depthwise", "grouped", "add", "concat", "gate", "halve"]),
    st.integers(0, 4),
    st.integers(1, 3),
)


@settings(max_examples=12)
@given(plan=st.lists(steps, min_size=1, max_size=5))
def test_a_cut_of_a_random_network_is_a_mask(plan):
    torch.manual_seed(len(plan))
    assert_exact(lively(RandomNet(plan)), torch.randn(2, 3, 4, 4))
