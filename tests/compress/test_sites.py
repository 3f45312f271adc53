"""What the allocator is told must be what the cut network costs."""

import itertools

import pytest
import torch

from reverie.compress.allocator import allocate
from reverie.compress.latencies import bytes_at, layer_shape, macs_at
from reverie.compress.plan import Plan, apply_plan
from reverie.compress.sites import build_problem, find_sites
from reverie.core.errors import RangeError
from reverie.core.network import ImageNetwork
from reverie.cost.count import count
from reverie.graph import probe
from reverie.graph.structure import Group, Slice, Structure
from reverie.zoo.networks import CifarResNet, CifarVGG
from tiny_networks import ReadTogether


def resnet() -> ImageNetwork:
    return ImageNetwork(CifarResNet(blocks=2, widths=(8, 12, 16), in_channels=1), image_shape=(1, 12, 12)).eval()


def vgg() -> ImageNetwork:
    return ImageNetwork(CifarVGG(stages=((8,), (8, 12)), in_channels=1), image_shape=(1, 12, 12)).eval()


@pytest.mark.parametrize("build", [resnet, vgg])
def test_predicted_macs_and_bytes_are_those_of_the_cut_network(build):
    network = build()
    structure = probe(network.body, torch.zeros(1, 1, 12, 12))
    sites = find_sites(structure, step=4)
    problem = build_problem(sites, {}, {"macs": macs_at, "size": bytes_at})
    scores = {group.name: torch.arange(group.units).float() for group in structure.free}
    whole = count(network, torch.zeros(1, 1, 12, 12))
    rng = torch.Generator().manual_seed(0)
    for _ in range(12):
        widths = {
            site: options[int(torch.randint(len(options), (), generator=rng))] for site, options in sites.widths.items()
        }
        small, _ = apply_plan(network, structure, sites.plan(widths, scores))
        counted = count(small, torch.zeros(1, 1, 12, 12))
        predicted = cost_of(problem, widths)
        assert predicted["macs"] - problem.whole("macs") == pytest.approx(counted.macs - whole.macs)
        change = stored_bytes(small) - stored_bytes(network)
        assert predicted["size"] - problem.whole("size") == pytest.approx(change)


def stored_bytes(network: ImageNetwork) -> int:
    """Counted from the tensors, without the 8-byte batch counters that no budget weighs."""
    return sum(4 * tensor.numel() for tensor in network.body.state_dict().values() if tensor.is_floating_point())


def cost_of(problem, widths):
    index = {site: problem.widths[site].index(width) for site, width in widths.items()}
    totals = dict(problem.fixed)
    for site in problem.sites:
        for name, cost in site.options[index[site.name]].costs.items():
            totals[name] += cost
    for pair in problem.pairs:
        for name, matrix in pair.costs.items():
            totals[name] += matrix[index[pair.site_a], index[pair.site_b]]
    return totals


def test_the_allocator_finds_the_plan_that_brute_force_finds():
    network = vgg()
    structure = probe(network.body, torch.zeros(1, 1, 12, 12))
    sites = find_sites(structure, step=4)
    losses = {option: 1.0 / (1 + option[1]) + 0.01 * index for index, option in enumerate(sites.options())}
    problem = build_problem(sites, losses, {"macs": macs_at})
    limit = 0.5 * problem.whole("macs")
    found = allocate(problem.sites, problem.pairs, budgets={"macs": limit - problem.fixed["macs"]})
    names = list(sites.widths)
    best = min(
        (sum(losses.get((name, width), 0.0) for name, width in zip(names, widths, strict=True)), widths)
        for widths in itertools.product(*sites.widths.values())
        if cost_of(problem, dict(zip(names, widths, strict=True)))["macs"] <= limit
    )
    assert found.loss == pytest.approx(best[0])


def test_a_bypassed_block_costs_nothing_and_its_groups_go_together():
    structure = probe(resnet().body, torch.zeros(1, 1, 12, 12))
    sites = find_sites(structure, step=4)
    assert sites.widths["layer1.0.conv1"] == (8, 4, 0)
    assert sites.widths["layer2.0.conv1"] == (12, 8, 4), "a block that changes the shape cannot be bypassed"
    plan = sites.plan({"layer1.0.conv1": 0, "conv1": 8}, {})
    assert plan == Plan({}, ("layer1.0",))
    problem = build_problem(sites, {}, {"macs": macs_at})
    inside = sum(layer.macs for layer in structure.layers if layer.name.startswith("layer1.0."))
    widths = {site: options[0] for site, options in sites.widths.items()}
    bypassed = cost_of(problem, widths | {"layer1.0.conv1": 0})["macs"]
    assert problem.whole("macs") - bypassed == inside


def test_a_bypass_takes_a_layer_of_many_widths_away_once():
    structure = probe(ReadTogether(channels=1, width=8, parts=3, inner=4).eval(), torch.zeros(2, 1, 12, 12))
    sites = find_sites(structure, step=4)
    inner = [site for site in sites.widths if site in sites.branch_of]
    assert len(inner) == 3
    problem = build_problem(sites, {}, {"macs": macs_at})
    widths = {site: options[0] for site, options in sites.widths.items()}
    bypassed = cost_of(problem, widths | dict.fromkeys(inner, 0))["macs"]
    taken = sum(layer.macs for layer in structure.layers if layer.name not in ("stem", "linear"))
    assert problem.whole("macs") - bypassed == taken


@pytest.mark.parametrize("wrong", [{"step": 0}, {"step": 4, "least": 0}])
def test_widths_of_no_step_are_refused(wrong):
    structure = probe(vgg().body, torch.zeros(1, 1, 12, 12))
    with pytest.raises(RangeError, match="must be at least 1, got 0"):
        find_sites(structure, **wrong)


def test_a_plan_keeps_the_units_of_highest_score_in_order():
    structure = probe(vgg().body, torch.zeros(1, 1, 12, 12))
    sites = find_sites(structure, step=4)
    scores = {"features.0": torch.tensor([5.0, 1.0, 7.0, 0.0, 6.0, 2.0, 8.0, 3.0])}
    assert sites.plan({"features.0": 4}, scores).kept == {"features.0": (0, 2, 4, 6)}


def test_plans_that_do_the_same_are_equal_and_others_are_not():
    one = Plan({"a": (0, 1), "b": (2,)}, ("c",))
    assert one == Plan.from_json(one.to_json())
    assert hash(one) == hash(Plan({"b": (2,), "a": (0, 1)}, ("c",)))
    assert one != Plan({"a": (0, 1), "b": (2,)})


def test_a_layer_shape_keeps_what_the_runtime_fuses():
    structure = probe(resnet().body, torch.zeros(1, 1, 12, 12))
    first, second = (next(one for one in structure.layers if one.name == f"layer1.0.conv{i}") for i in (1, 2))
    assert layer_shape(first, 8, 4, 1).activation == "relu"
    assert not layer_shape(first, 8, 4, 1).adds
    assert layer_shape(second, 4, 8, 1).adds
    assert layer_shape(second, 4, 8, 1).macs == macs_at(second, 4, 8, 1)


@pytest.mark.parametrize(("step", "widths"), [(16, (6, 5, 4, 3, 2, 1)), (64, (6, 5, 4, 3, 2, 1)), (128, (6, 4, 2))])
def test_heads_are_counted_by_their_channels(step, widths):
    heads = Slice("attn.qkv.weight", 0, units=6, offset=0, block=64, outer=((3, 384),), role="produce")
    read = Slice("attn.proj.weight", 1, units=6, offset=0, block=64, outer=(), role="consume")
    group = Group("attn.qkv", 6, (heads, read), (), ("attn.qkv",), ("attn.proj",))
    assert find_sites(Structure((group,), (), (), (), {}, {}), step=step).widths == {"attn.qkv": widths}


def test_no_width_is_offered_that_a_group_may_not_have():
    structure = probe(vgg().body, torch.zeros(1, 1, 12, 12)).constraining(multiple=3)
    widths = find_sites(structure, step=4).widths
    assert {width for options in widths.values() for width in options[1:]} == set()
    narrower = find_sites(structure, step=1).widths
    assert {width % 3 for options in narrower.values() for width in options[1:]} == {0}
