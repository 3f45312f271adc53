"""Cutting, bypassing and masking: what they owe their caller. That a cut is exact is tested in test_laws.py."""

import json

import pytest
import torch
from torch import nn

from graph.networks import Grouped, MobileLike, lively
from reverie.core.edit import Record, replay
from reverie.core.errors import RangeError, ReferenceNotFound, ShapeError
from reverie.graph import bypass, cut, masked, probe
from reverie.zoo.networks import CifarResNet
from traces import fingerprint, model_trace

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def net():
    return lively(CifarResNet(blocks=2, widths=(6, 8, 10)))


@pytest.fixture(scope="module")
def structure(net):
    return probe(net, IMAGES)


def test_tensors_and_attributes_shrink_together(net, structure):
    small, _ = cut(net, structure, {"layer2.0.conv2": [0, 3, 7], "layer1.0.conv1": range(2)})
    assert small.layer2[0].conv2.weight.shape == (3, 8, 3, 3)
    assert (small.layer2[0].conv2.out_channels, small.layer2[0].bn2.num_features) == (3, 3)
    assert small.layer3[0].shortcut[0].in_channels == 3
    assert (small.layer1[0].conv1.out_channels, small.layer1[0].conv2.in_channels) == (2, 2)
    assert torch.equal(small.layer2[1].bn2.running_var, net.layer2[1].bn2.running_var[[0, 3, 7]])


def test_groups_of_a_convolution_follow():
    net = MobileLike()
    small, _ = cut(net, probe(net, IMAGES), {"block.expand": range(5)})
    assert (small.block.depth.groups, small.block.depth.in_channels, small.block.depth.out_channels) == (5, 5, 5)
    net = Grouped()
    small, _ = cut(net, probe(net, IMAGES), {"first[0:12//3]": [0, 2], "first[0:12%3]": [1]})
    assert (small.middle.groups, small.middle.in_channels, small.middle.out_channels) == (2, 2, 4)
    assert torch.equal(small.first.bias, net.first.bias[[1, 7]])


def test_order_of_the_kept_units_does_not_matter(net, structure):
    one, other = (cut(net, structure, {"conv1": kept})[1] for kept in ([4, 1, 2], (1, 2, 4)))
    assert one == other


@pytest.mark.parametrize("kept", [{}, {"conv1": range(6)}, {"linear": range(10)}], ids=["none", "all", "all of frozen"])
def test_nothing_to_do_is_the_identity(net, structure, kept):
    same, record = cut(net, structure, kept)
    assert record == Record()
    assert same is not net
    assert torch.equal(same(IMAGES), net(IMAGES))


def test_no_bypass_is_the_identity(net, structure):
    assert bypass(net, structure, [])[1] == Record()


def test_the_record_survives_json_and_replays_bit_for_bit(net, structure):
    small, record = cut(net, structure, {"conv1": [0, 2, 5], "layer2.1.conv1": [7]})
    smaller, bypassed = bypass(small, structure, ["layer1.1", "layer3.1"])
    stored = Record.from_json(json.loads(json.dumps((record + bypassed).to_json())))
    again = replay(stored, net)
    for name, tensor in smaller.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert torch.equal(smaller(IMAGES), again(IMAGES))


def test_a_bypassed_block_is_its_silenced_self(net, structure):
    silent = replay(Record(), net)
    with torch.no_grad():
        for name in structure.branch("layer2.1").silencers:
            silent.get_parameter(name).zero_()
    assert torch.equal(bypass(net, structure, ["layer2.1"])[0](IMAGES), silent(IMAGES))


def test_the_original_is_untouched(net, structure):
    before = model_trace(net)
    cut(net, structure, {"conv1": [0]})
    masked(net, structure, {"conv1": [0]})
    bypass(net, structure, ["layer1.0"])
    assert model_trace(net) == before


def test_tied_weights_are_cut_under_every_name():
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5), nn.Linear(5, 2))
    net[4].weight = net[2].weight
    structure = probe(net, torch.zeros(1, 3))
    small, _ = cut(net, structure, {structure.free[0].name: [0, 1, 4]})
    assert small[2].weight.shape == small[4].weight.shape == (3, 3)
    wanted = masked(net, structure, {structure.free[0].name: [0, 1, 4]})
    x = torch.randn(4, 3)
    torch.testing.assert_close(small(x), wanted(x))


@pytest.mark.parametrize("edit", [cut, masked], ids=["cut", "masked"])
def test_units_to_keep_may_be_a_tensor(net, structure, edit):
    kept = torch.tensor([1.0, 9.0, 3.0, 0.0, 7.0, 5.0]).topk(4).indices
    found, wanted = (edit(net, structure, {"conv1": one}) for one in (kept, kept.tolist()))
    if edit is cut:
        assert found[1] == wanted[1]
        found, wanted = found[0], wanted[0]
    assert fingerprint(found) == fingerprint(wanted)


@pytest.mark.parametrize(
    ("kept", "error", "message"),
    [
        ({"nope": [0]}, ReferenceNotFound, "no group is named 'nope'; free groups are conv1, layer1.0.conv1"),
        ({"conv1": []}, RangeError, "cannot keep no unit of conv1: at least one must stay"),
        ({"conv1": [0, 6]}, RangeError, "cannot keep unit 6 of conv1, whose 6 units count from 0"),
        ({"conv1": [-1, 2]}, RangeError, "cannot keep unit -1 of conv1"),
        ({"conv1": [2, 3, 2]}, RangeError, "unit 2 of conv1 is listed twice"),
        ({"linear": [0]}, RangeError, "cannot remove units of linear: the network's output"),
    ],
)
@pytest.mark.parametrize("edit", [cut, masked], ids=["cut", "masked"])
def test_impossible_requests_say_why(net, structure, edit, kept, error, message):
    with pytest.raises(error, match=message):
        edit(net, structure, kept)


def test_an_unknown_block_says_which_there_are(net, structure):
    with pytest.raises(
        ReferenceNotFound, match=r"'layer2\.0' is no residual block that may be bypassed; those are layer1.0"
    ):
        bypass(net, structure, ["layer2.0"])


def test_a_structure_of_another_network_is_refused(net, structure):
    small, _ = cut(net, structure, {"conv1": [0, 1]})
    with pytest.raises(
        ShapeError, match=r"conv1.weight has shape \(2, 3, 3, 3\), the structure was probed on \(6, 3, 3, 3\)"
    ):
        cut(small, structure, {"conv1": [0]})
    with pytest.raises(ReferenceNotFound, match=r"the structure names .*, which MobileLike lacks"):
        cut(MobileLike(), structure, {"conv1": [0]})
