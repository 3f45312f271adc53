"""What probing finds on networks whose structure can be worked out by hand."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graph.networks import CASES, Case, Dense, Gated, Grouped, MobileLike, Transformer, example, lively
from reverie.core.errors import ReferenceNotFound
from reverie.core.network import ImageNetwork
from reverie.graph import RULES, Step, Structure, probe, register_rule
from reverie.graph.aten import elementwise
from reverie.zoo.networks import CifarResNet
from traces import global_trace, model_trace


def images(size: int = 8, count: int = 2) -> Tensor:
    return torch.randn(count, 3, size, size)


def members(structure: Structure, group: str) -> dict[str, str]:
    return {f"{part.tensor}:{part.dim}": part.role for part in structure.group(group).slices}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_expected_number_of_groups_is_free(case: Case):
    found = probe(lively(case.build()), example(case))
    assert len(found.free) == case.free
    assert found.unknown == ()


def test_an_inner_group_holds_its_layers_and_their_normalization():
    found = probe(CifarResNet(blocks=1, widths=(6, 8, 10)), images())
    assert members(found, "layer1.0.conv1") == {
        "layer1.0.conv1.weight:0": "produce",
        "layer1.0.bn1.weight:0": "follow",
        "layer1.0.bn1.bias:0": "follow",
        "layer1.0.bn1.running_mean:0": "follow",
        "layer1.0.bn1.running_var:0": "follow",
        "layer1.0.conv2.weight:1": "consume",
    }
    assert {part.tensor for part in found.group("layer1.0.conv1").attributes} == {
        "layer1.0.conv1.out_channels",
        "layer1.0.bn1.num_features",
        "layer1.0.conv2.in_channels",
    }


def test_a_residual_stream_is_one_group():
    group = probe(CifarResNet(blocks=2, widths=(6, 8, 10)), images()).group("layer2.0.conv2")
    assert group.units == 8
    assert group.producers == ("layer2.0.conv2", "layer2.0.shortcut.0", "layer2.1.conv2")
    assert group.consumers == ("layer2.1.conv1", "layer3.0.conv1", "layer3.0.shortcut.0")


def test_images_and_logits_are_frozen_with_their_reason():
    found = probe(CifarResNet(blocks=1, widths=(6, 8, 10)), images())
    assert found.frozen == {"conv1.weight:1": "the network's input", "linear": "the network's output"}


def test_a_padding_shortcut_couples_at_an_offset():
    found = probe(CifarResNet(blocks=1, widths=(6, 8, 8), shortcut="pad"), images())
    offsets = {part.tensor: part.offset for part in found.group("conv1").slices}
    assert offsets["conv1.weight"] == 0
    assert offsets["layer2.0.conv2.weight"] == 1
    assert offsets["linear.weight"] == 1


def test_units_added_by_padding_are_frozen():
    found = probe(CifarResNet(blocks=1, widths=(6, 10, 10), shortcut="pad"), images())
    assert "layer2.0.shortcut pads" in found.group("layer2.0.conv2[0:2]").frozen
    assert "layer2.0.conv2[8:10]" in found.frozen


def test_depthwise_gate_and_normalization_are_one_group():
    found = probe(MobileLike(), images(6))
    group = found.group("block.expand")
    assert group.producers == ("block.expand", "block.excite")
    assert group.consumers == ("block.squeeze", "block.project")
    assert "block.depth.groups" in {part.tensor for part in group.attributes}
    assert members(found, "block.expand")["block.depth.weight:0"] == "follow"


def test_concatenation_gives_offsets_and_flattening_gives_blocks():
    found = probe(Dense(), images())
    places = {part.tensor: (part.offset, part.block) for part in found.group("second").slices}
    assert places["norm.weight"] == (4, 1)
    assert places["third.weight"] == (4, 1)
    assert places["head.weight"] == (4 * 16, 16)


def test_groups_of_a_convolution_go_whole_or_evenly():
    found = probe(Grouped(), images(6))
    assert [(group.name, group.units) for group in found.free] == [
        ("first[0:12//3]", 4),
        ("first[0:12%3]", 3),
        ("middle[0:8%2]", 2),
    ]
    whole = found.group("first[0:12//3]")
    assert [part.rows([1]) for part in whole.slices if part.tensor == "middle.weight"] == [[2, 3]]
    even = found.group("first[0:12%3]")
    assert [part.rows([1]) for part in even.slices if part.tensor == "first.weight"] == [[1, 4, 7, 10]]


def test_names_are_unique_everywhere():
    for case in CASES:
        names = [group.name for group in probe(case.build(), example(case)).groups]
        assert len(set(names)) == len(names)


def test_layers_of_a_resnet_are_described():
    layers = probe(CifarResNet(blocks=1, widths=(6, 8, 10)), images(count=3)).layers
    by_name = {layer.name: layer for layer in layers}
    assert [layer.name for layer in layers][:3] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]
    first = by_name["layer2.0.conv1"]
    assert (first.kind, first.incoming.group, first.out_group) == ("conv", "conv1", "layer2.0.conv1")
    assert (first.in_channels, first.out_channels, first.groups) == (6, 8, 1)
    assert (first.kernel, first.stride, first.padding, first.dilation) == ((3, 3), (2, 2), (1, 1), (1, 1))
    assert (first.input_size, first.output_size) == ((8, 8), (4, 4))
    assert first.macs == 6 * 8 * 9 * 4 * 4
    assert (first.adds, first.activation) == (False, "relu")
    assert (by_name["layer2.0.conv2"].adds, by_name["layer2.0.conv2"].activation) == (True, None)
    head = by_name["linear"]
    assert (head.kind, head.macs, head.kernel, head.input_size) == ("linear", 100, (), ())


def test_widths_follow_the_groups_that_decide_them():
    by_name = {layer.name: layer for layer in probe(Dense(), images()).layers}
    assert by_name["third"].incoming.group is None
    assert by_name["third"].incoming.groups == ("first", "second")
    assert by_name["third"].widths({"first": 3, "second": 1}) == (4, 8, 1)
    assert by_name["head"].widths({"third": 2}) == ((4 + 6 + 2) * 16, 5, 1)
    grouped = {layer.name: layer for layer in probe(Grouped(), images(6)).layers}["middle"]
    assert grouped.widths({"first[0:12//3]": 2, "middle[0:8%2]": 1}) == (6, 2, 2)


def test_a_depthwise_layer_is_called_so():
    by_name = {layer.name: layer for layer in probe(MobileLike(), images(6)).layers}
    depth = by_name["block.depth"]
    assert (depth.kind, depth.activation, depth.macs) == ("depthwise", "silu", 12 * 9 * 36)
    assert depth.widths({"block.expand": 5}) == (5, 5, 5)


def test_macs_of_a_transposed_convolution():
    layer = probe(nn.ConvTranspose2d(3, 4, 2, stride=2), images(5)).layers[0]
    assert (layer.kind, layer.macs) == ("transposed", 3 * 4 * 2 * 2 * 5 * 5)


def test_blocks_that_keep_their_shape_may_be_bypassed():
    found = probe(CifarResNet(blocks=2, widths=(6, 8, 10)), images())
    assert [branch.module for branch in found.branches] == ["layer1.0", "layer1.1", "layer2.1", "layer3.1"]
    inner = found.branch("layer2.1")
    assert inner.layers == ("layer2.1.conv1", "layer2.1.conv2")
    assert inner.groups == ("layer2.1.conv1",)
    assert inner.silencers == ("layer2.1.bn2.weight", "layer2.1.bn2.bias")


class Moved(Gated):
    """A block that adds, and then does more than the identity."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(super().forward(x))


class ReluAfterAnything(nn.Module):
    """relu(x + branch) behind a convolution: x may be negative, so the block is no identity."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.inner(x))


@pytest.mark.parametrize("block", [Moved(6, 8), ReluAfterAnything()], ids=["tanh", "relu of a signed input"])
def test_a_block_that_changes_its_input_is_no_branch(block):
    net = nn.Sequential(nn.Conv2d(3, 6, 1), block, nn.Conv2d(6, 4, 1))
    assert probe(net, images()).branches == ()


class _Inner(nn.Module):
    """x + branch, which takes and returns what real blocks do."""

    def __init__(self, wrapped: bool):
        super().__init__()
        self.conv, self.wrapped = nn.Conv2d(4, 4, 1), wrapped

    def forward(self, x: Tensor | tuple[Tensor], mask: Tensor | None = None) -> Tensor | tuple[Tensor]:
        x = x[0] if isinstance(x, tuple) else x
        y = x + self.conv(x)
        return (y,) if self.wrapped else y


class _Calling(nn.Module):
    def __init__(self, call: Callable[[nn.Module, Tensor], Tensor], wrapped: bool = False):
        super().__init__()
        self.first, self.block, self.last, self.call = nn.Conv2d(3, 4, 1), _Inner(wrapped), nn.Conv2d(4, 2, 1), call

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.call(self.block, self.first(x)))


@pytest.mark.parametrize(
    ("call", "wrapped"),
    [
        (lambda block, h: block(x=h), False),
        (lambda block, h: block(h, None), False),
        (lambda block, h: block(h, mask=None), False),
        (lambda block, h: block((h,)), False),
        (lambda block, h: block(h)[0], True),
    ],
    ids=["by name", "two arguments", "an option", "a tuple given", "a tuple returned"],
)
def test_a_block_that_the_identity_cannot_stand_in_for_is_no_branch(call, wrapped):
    assert probe(_Calling(call, wrapped), images()).branches == ()


def test_the_same_block_called_with_one_tensor_is_a_branch():
    assert [branch.module for branch in probe(_Calling(lambda block, h: block(h)), images()).branches] == ["block"]


def test_the_same_block_behind_a_relu_is_a_branch():
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), ReluAfterAnything(), nn.Conv2d(6, 4, 1))
    assert [branch.module for branch in probe(net, images()).branches] == ["2"]


class Sorting(nn.Module):
    """An operation that no rule describes."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.polygamma(1, x).renorm(2, 1, 1.0)


def test_an_unknown_operation_freezes_and_is_named():
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), Sorting(), nn.Conv2d(6, 4, 1))
    found = probe(net, images())
    assert found.free == ()
    assert found.unknown == ("aten.renorm in 2",)
    assert found.group("0").frozen == "aten.renorm in 2 has no rule"


def test_a_rule_of_the_user_opens_it():
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Hardshrink(), nn.Conv2d(6, 4, 1))
    packet = torch.ops.aten.renorm
    try:

        @register_rule(packet)
        def rule(step: Step) -> None:
            elementwise(step)

        assert RULES[packet] is rule
        assert [group.name for group in probe(nn.Sequential(net[0], Sorting(), net[3]), images()).free] == ["0"]
    finally:
        RULES.pop(packet, None)


class States(nn.Module):
    """Its forward pass states a width as a number."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.last = nn.Conv2d(8 if kind == "view" else 3, 4, 1)
        self.other = nn.Conv2d(3, 6, 1)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        wide = F.relu(self.first(x))
        if self.kind == "view":
            return self.last(wide.view(x.shape[0], 8, -1, 1))
        if self.kind == "slice":
            return self.last(wide[:, 2:5])
        return self.last(wide.split([3, 5], 1)[0])


@pytest.mark.parametrize("kind", ["view", "slice", "split"])
def test_a_width_in_the_code_freezes_what_it_concerns(kind):
    found = probe(States(kind), images())
    assert found.free == ()
    assert any("the code states a size" in reason or "cannot run" in reason for reason in found.frozen.values())


class Follows(nn.Module):
    """Its forward pass reads widths off tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 1)
        self.right = nn.Conv2d(3, 6, 1)
        self.last = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x)
        both = torch.cat([left, right], 1)
        return self.last(F.relu(both[:, left.shape[1] :]) * right)


def test_a_slice_that_follows_widths_stays_free():
    assert [group.name for group in probe(Follows(), images()).free] == ["right"]


def test_attention_that_states_its_sizes_is_frozen_and_all_else_is_free():
    found = probe(Transformer(), images())
    assert [group.name for group in found.free] == ["embed", "up"]
    assert "normalizes across these units" in found.group("embed").crossed
    assert "the code states a size" in found.group("qkv[0:24%8//4]").frozen


def test_tensors_that_nobody_reads_are_frozen():
    net = Grouped()
    net.spare = nn.Linear(7, 7)
    assert probe(net, images(6)).group("spare.weight:0").frozen == "not used in the forward pass"


def test_names_of_a_wrapped_network_begin_with_body():
    network = ImageNetwork(CifarResNet(blocks=1, widths=(6, 8, 10)), image_shape=(3, 8, 8), mean=[0.5], std=[0.2])
    assert "body.layer1.0.conv1" in {group.name for group in probe(network, images()).free}


def test_probing_leaves_no_trace():
    net = CifarResNet(blocks=1, widths=(6, 8, 10)).train()
    batch = images()
    before = model_trace(net), global_trace()
    probe(net, batch)
    assert (model_trace(net), global_trace()) == before


def test_a_name_that_does_not_exist_is_answered_with_those_that_do():
    found = probe(Grouped(), images(6))
    with pytest.raises(ReferenceNotFound, match=r"no group is named 'nope'.*first\[0:12//3\]"):
        found.group("nope")
    with pytest.raises(ReferenceNotFound, match="'middle' is no residual block"):
        found.branch("middle")
