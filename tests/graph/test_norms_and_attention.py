"""Cuts through norms, attention and recurrence against references worked out by hand from the kept units alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graph.networks import assert_exact, lively
from reverie.core.edit import Scale
from reverie.core.errors import RangeError
from reverie.graph import certify, cut, masked, probe, surviving

TOKENS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(3))


class Attention(nn.Module):
    """One block of attention over tokens of width 6, as transformers of the wild write it."""

    def __init__(self, heads: int = 3, width: int = 4, tied: bool = False) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = heads, width, heads * width
        self.tied = tied
        self.embed = nn.Linear(6, heads * width)
        self.norm = nn.LayerNorm(heads * width)
        self.qkv = nn.Linear(heads * width, 3 * heads * width)
        self.proj = nn.Linear(heads * width, heads * width)
        self.head = nn.Linear(heads * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, n, c = x.shape
        q, k, v = (
            self.qkv(self.norm(x)).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        x = x + self.proj(mixed.reshape(b, n, c if self.tied else self.attn_dim))
        return self.head(x.mean(1))


def test_heads_width_and_embedding_of_attention_go_each_by_itself():
    found = certify(*((net := lively(Attention())), probe(net, TOKENS)), TOKENS)
    assert {group.name: group.units for group in found.free} == {"embed": 12, "qkv[0:36%12//4]": 3, "qkv[0:36%4]": 4}
    assert_exact(net, TOKENS)


def test_a_narrower_head_keeps_the_original_scale():
    """softmax(q k / sqrt(4)) over the two kept dimensions of every head, by hand."""
    net = lively(Attention())
    small, record = cut(net, probe(net, TOKENS), {"qkv[0:36%4]": [0, 3]})
    with torch.no_grad():
        x = net.embed(TOKENS)
        q, k, v = net.qkv(net.norm(x)).view(2, 5, 3, 3, 4)[..., [0, 3]].permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-2, -1) / 4**0.5).softmax(-1) @ v
        rows = [head * 4 + unit for head in range(3) for unit in (0, 3)]
        x = x + F.linear(mixed.transpose(1, 2).flatten(2), net.proj.weight[:, rows], net.proj.bias)
        torch.testing.assert_close(small(TOKENS), net.head(x.mean(1)))
    assert small.head_dim == 2
    assert {name for edit in record.edits if isinstance(edit, Scale) for name in edit.rows} == {
        "qkv.weight",
        "qkv.bias",
    }


def test_a_whole_head_goes_by_hand():
    net = lively(Attention())
    small, record = cut(net, probe(net, TOKENS), {"qkv[0:36%12//4]": [0, 2]})
    with torch.no_grad():
        x = net.embed(TOKENS)
        q, k, v = net.qkv(net.norm(x)).view(2, 5, 3, 3, 4)[:, :, :, [0, 2]].permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + F.linear(mixed, net.proj.weight[:, [0, 1, 2, 3, 8, 9, 10, 11]], net.proj.bias)
        torch.testing.assert_close(small(TOKENS), net.head(x.mean(1)))
    assert (small.num_heads, small.head_dim, small.attn_dim) == (2, 4, 8)
    assert not any(isinstance(edit, Scale) for edit in record.edits)


def test_code_that_takes_the_width_of_its_input_for_that_of_its_heads_binds_the_two():
    net = lively(Attention(tied=True))
    found = assert_exact(net, TOKENS)
    assert {group.units for group in found.free} == {3, 4}
    both = next(group for group in found.free if group.units == 4)
    assert {"embed.weight", "qkv.weight", "norm.weight", "head.weight"} <= {part.tensor for part in both.slices}


def test_a_layer_norm_is_computed_over_what_stays():
    net = lively(nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)))
    structure = probe(net, TOKENS)
    kept = [0, 3, 4, 7]
    small, _ = cut(net, structure, {"0": kept})
    with torch.no_grad():
        inner = F.linear(TOKENS, net[0].weight[kept], net[0].bias[kept])
        inner = F.gelu(F.layer_norm(inner, (4,), net[1].weight[kept], net[1].bias[kept], net[1].eps))
        torch.testing.assert_close(small(TOKENS), F.linear(inner, net[3].weight[:, kept], net[3].bias))
    assert small[1].normalized_shape == (4,)
    assert "normalizes across these units" in structure.group("0").crossed
    with pytest.raises(RangeError, match=r"no mask removes units of 0: aten\.native_layer_norm in 1"):
        masked(net, structure, {"0": kept})


def test_a_group_norm_loses_as_many_channels_in_every_group():
    images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(4))
    net = lively(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 5, 1)))
    structure = probe(net, images)
    assert {group.name: (group.units, group.crossed is None) for group in structure.free} == {
        "0[0:8//4]": (2, True),
        "0[0:8%4]": (4, False),
    }
    small, _ = cut(net, structure, {"0[0:8%4]": [1, 2]})
    kept = [1, 2, 5, 6]
    with torch.no_grad():
        inner = F.conv2d(images, net[0].weight[kept], net[0].bias[kept])
        inner = F.group_norm(inner, 2, net[1].weight[kept], net[1].bias[kept], net[1].eps).relu()
        torch.testing.assert_close(small(images), F.conv2d(inner, net[3].weight[:, kept], net[3].bias))
    assert (small[1].num_channels, small[1].num_groups) == (4, 2)


class Standardized(nn.Conv2d):
    """A convolution whose kernels are brought to mean 0 and variance 1."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias)


def test_weight_standardization_is_computed_over_what_stays():
    images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    net = lively(nn.Sequential(Standardized(3, 6, 1), nn.ReLU(), Standardized(6, 4, 1)))
    small, _ = cut(net, probe(net, images), {"0": [0, 2, 5]})
    with torch.no_grad():
        first = net[0].weight
        first = (first - first.mean((1, 2, 3), keepdim=True)) / (
            first.var((1, 2, 3), False, keepdim=True) + 1e-5
        ).sqrt()
        second = net[2].weight[:, [0, 2, 5]]
        second = (second - second.mean((1, 2, 3), keepdim=True)) / (
            second.var((1, 2, 3), False, keepdim=True) + 1e-5
        ).sqrt()
        inner = F.conv2d(images, first[[0, 2, 5]], net[0].bias[[0, 2, 5]]).relu()
        torch.testing.assert_close(small(images), F.conv2d(inner, second, net[2].bias), rtol=1e-4, atol=1e-5)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], both: bool) -> None:
        super().__init__()
        self.rnn = kind(6, 4, batch_first=True, bidirectional=both)
        self.head = nn.Linear(8 if both else 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("both", [False, True], ids=["forward", "both ways"])
def test_recurrent_units_go_from_every_gate(kind: type[nn.RNNBase], both: bool):
    net = lively(Recurrent(kind, both))
    structure = certify(net, probe(net, TOKENS), TOKENS)
    (group,) = structure.free
    small, _ = cut(net, structure, {group.name: [0, 2, 3]})
    reference = Recurrent(kind, both)
    reference.rnn = kind(6, 3, batch_first=True, bidirectional=both)
    gates = net.rnn.weight_ih_l0.shape[0] // 4
    rows = [4 * gate + unit for gate in range(gates) for unit in (0, 2, 3)]
    with torch.no_grad():
        for name, parameter in net.rnn.named_parameters():
            cut_rows = parameter[rows]
            getattr(reference.rnn, name).copy_(cut_rows[:, [0, 2, 3]] if "weight_hh" in name else cut_rows)
        columns = [0, 2, 3, 4, 6, 7] if both else [0, 2, 3]
        reference.head.weight = nn.Parameter(net.head.weight[:, columns])
        reference.head.bias = net.head.bias
        torch.testing.assert_close(small(TOKENS), reference(TOKENS))
    assert small.rnn.hidden_size == 3


class Rotary(nn.Module):
    """Query and key rotated in neighboring pairs; gated perceptron packed in one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 6**-0.5
        self.q, self.k, self.v = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 8)
        self.packed = nn.Linear(8, 20)
        self.head = nn.Linear(10, 3)
        angle = torch.rand(5, 3).repeat_interleave(2, 1)
        self.register_buffer("sin", angle.sin())
        self.register_buffer("cos", angle.cos())

    def rotate(self, x: Tensor) -> Tensor:
        turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
        return x * self.cos + turned * self.sin

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.rotate(self.q(x)), self.rotate(self.k(x))
        mixed = (q * self.scale @ k.transpose(-2, -1)).softmax(-1) @ self.v(x)
        gate, value = self.packed(mixed).chunk(2, -1)
        return self.head(F.silu(gate) * value)


def test_rotated_pairs_go_together_and_both_halves_of_a_gate():
    net = lively(Rotary())
    found = assert_exact(net, TOKENS)
    units = {group.name: group.units for group in found.free}
    assert units == {"q[0:6//2]": 3, "v": 8, "packed[0:20%10]": 10}
    assert found.group("q[0:6//2]").constraints == ("a unit is 2 rows of q.weight: 2 adjacent ones",)


class Experts(nn.Module):
    """Two experts as one tensor, mixed by a router: the hidden units of all experts go together."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 2)
        self.up = nn.Parameter(torch.randn(2, 6, 7))
        self.down = nn.Parameter(torch.randn(2, 7, 3))

    def forward(self, x: Tensor) -> Tensor:
        each = torch.einsum("bnd,edh->benh", x, self.up).relu() @ self.down
        return (each * self.router(x).softmax(-1).permute(0, 2, 1)[..., None]).sum(1)


def test_hidden_units_of_experts_go():
    assert {group.units for group in assert_exact(lively(Experts()), TOKENS).free} >= {7}


def test_limits_are_data_and_cut_obeys_them():
    net = lively(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    structure = probe(net, TOKENS).constraining(minimum=3, multiple=2)
    assert structure.group("0").counts == (8, 6, 4)
    assert structure.group("0").constraints == ("at least 3 units stay", "a multiple of 2 units stays")
    assert cut(net, structure, {"0": range(4)})[0][0].out_features == 4
    with pytest.raises(RangeError, match=r"cannot keep 5 units of 0: .*a multiple of 2.* Keep one of 8, 6, 4\."):
        cut(net, structure, {"0": range(5)})
    assert certify(net, structure, TOKENS).free
    with pytest.raises(RangeError, match="minimum and multiple are at least 1"):
        structure.constraining(multiple=0)


def test_a_limit_adds_to_those_that_are_there():
    structure = probe(lively(nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 3))), TOKENS)
    assert structure.constraining(multiple=6).constraining(minimum=8, multiple=4).group("0").counts == (24, 12)
    assert structure.constraining(minimum=8, multiple=6).constraining(multiple=4).group("0").counts == (24, 12)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 6)
        self.images = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, words: Tensor, images: Tensor) -> Tensor:
        return self.head(torch.tanh(self.words(words) + self.images(images)[:, None]))


def test_several_inputs_of_which_some_are_numbers_of_classes():
    net = lively(TwoInputs())
    example = (torch.tensor([[1, 2, 8], [0, 4, 3]]), torch.randn(2, 4))
    structure = certify(net, probe(net, example), example)
    assert [group.units for group in structure.free] == [6]
    small, record = cut(net, structure, {structure.free[0].name: [0, 1, 5]})
    with torch.no_grad():
        torch.testing.assert_close(small(*example), surviving(net, record, *example))
    assert small.words.embedding_dim == 3
