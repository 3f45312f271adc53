"""The same place in teacher and student, channel for channel."""

import torch

from reverie.compress.features import matching_features
from reverie.compress.plan import Plan
from reverie.core.tap import tap
from reverie.graph import bypass, cut, probe
from reverie.zoo.networks import CifarResNet, CifarVGG

EXAMPLE = torch.zeros(2, 1, 12, 12)


def test_the_last_module_of_every_resolution_is_chosen():
    net = CifarResNet(blocks=2, widths=(8, 12, 16), in_channels=1)
    structure = probe(net, EXAMPLE)
    found = matching_features(net, net, structure, Plan(), EXAMPLE)
    assert found == {"layer1": None, "layer2": None, "layer3": None}


def test_a_plain_stack_has_features_too():
    net = CifarVGG(stages=((8,), (8, 12)), in_channels=1)
    structure = probe(net, EXAMPLE)
    assert list(matching_features(net, net, structure, Plan(), EXAMPLE)) == ["features.2", "features"]


def test_the_teachers_channels_that_were_kept_are_the_students_channels():
    """Units that are zero in the teacher can go without a trace, so the features must then be equal."""
    torch.manual_seed(0)
    net = CifarResNet(blocks=2, widths=(8, 12, 16), in_channels=1).eval()
    kept = {"conv1": (0, 2, 3, 5, 7), "layer2.0.conv2": (1, 2, 4, 8, 11), "layer1.0.conv1": (6, 7)}
    structure = probe(net, EXAMPLE)
    with torch.no_grad():
        for name, units in kept.items():
            group = structure.group(name)
            gone = [unit for unit in range(group.units) if unit not in units]
            for one in group.slices:
                if one.role == "consume":
                    weight = net.get_parameter(one.tensor)
                    weight.index_fill_(one.dim, torch.tensor(one.rows(gone)), 0)
    plan = Plan(kept, ("layer3.1",))
    small, _ = cut(net, structure, kept)
    small, _ = bypass(small, structure, ["layer3.1"])
    whole, _ = bypass(net, structure, ["layer3.1"])
    found = matching_features(net, small, structure, plan, EXAMPLE)
    assert found == {"layer1": kept["conv1"], "layer2": kept["layer2.0.conv2"], "layer3": None}
    images = torch.rand(2, 1, 12, 12)
    chosen = lambda name, _: name in found  # noqa: E731
    with torch.no_grad(), tap(whole, chosen) as a, tap(small, chosen) as b:
        whole(images)
        small(images)
    for name, units in found.items():
        expected = a[name].output if units is None else a[name].output[:, list(units)]
        torch.testing.assert_close(b[name].output, expected)


def test_no_hook_is_left():
    net = CifarResNet(blocks=1, widths=(8, 12, 16), in_channels=1)
    matching_features(net, net, probe(net, EXAMPLE), Plan(), EXAMPLE)
    assert not any(module._forward_hooks for module in net.modules())
