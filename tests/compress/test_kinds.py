"""Options beside widths: what the allocator is told of them is what the network costs, and what it chose is done."""

import itertools

import pytest
import torch
from torch import nn

from reverie.compress.kinds import check_kinds, offered, parted
from reverie.compress.latencies import build_table, bytes_at, layer_shape, macs_at
from reverie.compress.plan import Plan, apply_plan
from reverie.compress.ranks import Ranks
from reverie.compress.sites import build_problem, find_sites
from reverie.compress.study import read_study, study_of
from reverie.core.edit import Record, replay
from reverie.core.errors import ReferenceNotFound
from reverie.core.network import ImageNetwork
from reverie.cost.count import count
from reverie.cost.layer_graph import LayerShape
from reverie.graph import probe
from reverie.zoo.networks import CifarResNet
from tiny_networks import ReadTogether

SHAPE = (3, 12, 12)
EXAMPLE = torch.linspace(-1, 1, 2 * 3 * 12 * 12).view(2, *SHAPE)


def network() -> ImageNetwork:
    torch.manual_seed(0)
    return ImageNetwork(CifarResNet(blocks=2, widths=(16, 32, 48)), image_shape=SHAPE).eval()


@pytest.fixture(scope="module")
def found():
    """A network, its sites with ranks, and what they cost."""
    whole = network()
    structure = probe(whole.body, EXAMPLE)
    sites = find_sites(structure, step=16, more=offered(["rank"], whole.body, structure, EXAMPLE))
    scores = {group.name: torch.arange(group.units).float() for group in structure.free}
    return whole, structure, sites, scores, build_problem(sites, {}, {"macs": macs_at, "size": bytes_at})


def counted(network: ImageNetwork) -> dict[str, float]:
    """Multiply-adds, and bytes of all that a plan can change."""
    stored = (one for one in network.body.state_dict().values() if one.is_floating_point())
    macs = count(network, torch.zeros(1, *SHAPE)).macs
    return {"macs": macs, "size": sum(4.0 * one.numel() for one in stored)}


def foretold(problem, widths) -> dict[str, float]:
    choice = {
        site: problem.widths[site].index(widths.get(site, options[0])) for site, options in problem.widths.items()
    }
    return {column: problem.varying(column, choice) + problem.fixed[column] for column in ("macs", "size")}


def test_ranks_are_those_with_fewer_multiply_adds(found):
    _, structure, sites, _, _ = found
    assert sites.widths["rank of layer3.1.conv1"] == (48, 32, 16)
    assert sites.widths["rank of layer3.0.shortcut.0"] == (32, 16), "rank 16 of 48 x 32, where 19 save nothing"
    assert "rank of layer2.0.shortcut.0" not in sites.widths, "32 x 16 saves from rank 10 on, and 16 is the step"
    assert "rank of conv1" not in sites.widths, "27 inputs and 16 outputs: 16 channels between save nothing"
    assert "rank of linear" not in sites.widths
    for site, (_, *fewer) in sites.widths.items():
        if site.startswith("rank"):
            layer = next(one for one in structure.layers if one.name == parted(site)[1])
            plain = macs_at(layer, layer.in_channels, layer.out_channels, 1)
            assert all(
                Ranks().cost(macs_at, layer, rank, layer.in_channels, layer.out_channels) < plain for rank in fewer
            )


def test_a_rank_costs_what_it_is_foretold_alone_and_beside_a_width(found):
    whole, structure, sites, scores, problem = found
    before, site = counted(whole), "rank of layer3.1.conv1"
    tried = 0
    for rank, (group, width) in itertools.product(
        sites.widths[site],
        [("layer3.1.conv1", 48), ("layer3.1.conv1", 16), ("layer3.1.conv1", 0), ("layer1.0.conv1", 0)],
    ):
        widths = {site: rank, group: width}
        small, _ = apply_plan(whole, structure, sites.plan(widths, scores))
        change = {column: cost - before[column] for column, cost in counted(small).items()}
        told = {column: cost - problem.whole(column) for column, cost in foretold(problem, widths).items()}
        assert told == pytest.approx(change), widths
        tried += 1
    assert tried == 12


def test_a_bypass_takes_a_layer_and_its_rank_away_once():
    torch.manual_seed(0)
    body = ReadTogether(channels=3, width=32, parts=2, inner=32).eval()
    structure = probe(body, EXAMPLE)
    sites = find_sites(structure, step=16, more=offered(["rank"], body, structure, EXAMPLE))
    inner = [site for site in sites.widths if site in sites.branch_of]
    assert len(inner) == 2
    assert "rank of block.last" in sites.widths
    problem = build_problem(sites, {}, {"macs": macs_at, "size": bytes_at})
    gone = dict.fromkeys(inner, 0)
    assert foretold(problem, {**gone, "rank of block.last": 16}) == pytest.approx(foretold(problem, gone))


def test_the_layers_that_are_timed_are_those_of_the_edited_network(found):
    whole, structure, _, _, _ = found
    for site, rank in (("rank of layer2.0.conv1", 16), ("rank of layer3.1.conv2", 32)):
        kind, name = parted(site)
        layer = next(one for one in structure.layers if one.name == name)
        told = []
        kind.cost(lambda *at, into=told: into.append(layer_shape(*at)) or 0.0, layer, rank, *layer.widths({})[:2])
        small, _ = apply_plan(whole, structure, Plan({}, (), {site: rank}))
        made = [one for one in probe(small.body, EXAMPLE).layers if one.name.startswith(f"{name}.")]
        assert told == [layer_shape(one, one.in_channels, one.out_channels, 1) for one in made]


def test_a_rank_beside_two_widths_is_never_told_too_cheap(found):
    whole, structure, sites, scores, problem = found
    before, stream = counted(whole), next(one for one in sites.widths if one.startswith("layer3.0.conv2"))
    for rank, inner, outer in itertools.product((32, 16), (32, 16), (32, 16)):
        widths = {"rank of layer3.1.conv1": rank, "layer3.1.conv1": inner, stream: outer}
        small, _ = apply_plan(whole, structure, sites.plan(widths, scores))
        change = counted(small)["macs"] - before["macs"]
        assert foretold(problem, widths)["macs"] - problem.whole("macs") >= change - 1e-6


def test_the_plan_is_done_and_its_record_does_it_again(found):
    whole, structure, sites, scores, _ = found
    plan = sites.plan({"layer2.1.conv1": 16, "layer1.1.conv1": 0, "rank of layer2.1.conv2": 16}, scores)
    assert plan.levels == {"rank of layer2.1.conv2": 16}
    small, record = apply_plan(whole, structure, plan)
    # Cut to 16 inputs of 9 each, the layer has 144 columns and 32 rows; two layers of 16 channels between stay.
    assert [tuple(one.weight.shape) for one in small.body.layer2[1].conv2] == [(16, 16, 3, 3), (32, 16, 1, 1)]
    assert small(torch.rand(2, *SHAPE)).shape == (2, 10)
    again = replay(Record.from_json(record.to_json()), network().body)
    assert all(torch.equal(again.state_dict()[name], one) for name, one in small.body.state_dict().items())


def test_a_plan_with_numbers_is_another_plan_and_survives_json(found):
    with_rank, without = Plan({}, (), {"rank of conv1": 16}), Plan({})
    assert Plan.from_json(with_rank.to_json()) == with_rank != without
    assert with_rank.digest() != without.digest()
    assert without.to_json() == {"kept": {}, "bypassed": []}


def test_a_rank_inside_a_block_that_goes_is_left_alone(found):
    _, _, sites, scores, _ = found
    assert sites.plan({"layer2.1.conv1": 0, "rank of layer2.1.conv2": 16}, scores) == Plan({}, ("layer2.1",))


def test_a_rank_that_a_cut_has_reached_is_nothing_more(found):
    whole, structure, _, _scores, _ = found
    kept = {"layer3.1.conv1": tuple(range(16))}
    small, record = apply_plan(whole, structure, Plan(kept, (), {"rank of layer3.1.conv1": 16}))
    assert isinstance(small.body.layer3[1].conv1, nn.Conv2d)
    assert record == apply_plan(whole, structure, Plan(kept))[1]


class Odd(nn.Module):
    """Layers that two cannot stand in for, and one that they can."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.read, self.hooked = (nn.Linear(64, 64) for _ in range(3))
        self.tied, self.other, self.twice, self.listed = (nn.Linear(64, 64) for _ in range(4))
        self.other.weight = self.tied.weight
        self.again = nn.ParameterList([self.listed.weight])
        self.hooked.register_forward_hook(lambda module, given, made: made + 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.plain(x.flatten(1)) + nn.functional.linear(x.flatten(1), self.read.weight)
        return self.listed(self.twice(self.twice(self.hooked(self.other(self.tied(x)))))) + self.again[0].mean()


def test_layers_that_two_cannot_stand_in_for_are_not_offered():
    torch.manual_seed(0)
    body, example = Odd().eval(), torch.rand(2, 1, 8, 8)
    assert list(offered(["rank", "rank"], body, probe(body, example), example)) == ["rank of plain"]


def test_a_saved_study_chooses_ranks_without_the_network(found, tmp_path):
    whole, structure, sites, scores, _ = found
    # Units are dear, and ranks are cheap.
    losses = {(site, width): 0.01 if site.startswith("rank") else 1.0 for site, width in sites.options()}
    study = study_of(sites, losses, {"macs": macs_at}, scores)
    study.save(tmp_path / "study.json")
    read = read_study(tmp_path / "study.json")
    solution = read.solve({"macs": 0.7})
    assert solution.plan == study.solve({"macs": 0.7}).plan
    assert not solution.plan.kept
    assert solution.plan.levels
    small, _ = apply_plan(whole, structure, solution.plan)
    assert counted(small)["macs"] <= 0.7 * counted(whole)["macs"]
    assert solution.shares["macs"] == pytest.approx(counted(small)["macs"] / counted(whole)["macs"], rel=1e-3)


def test_a_table_has_the_times_that_a_study_with_ranks_asks_for(found):
    whole, _, sites, scores, _ = found
    asked: dict[str, LayerShape] = {}

    def note(*at) -> float:
        shape = layer_shape(*at)
        asked[shape.key] = shape
        return 1.0

    study_of(sites, {}, {"latency": note}, scores)
    timed: list[str] = []

    class Table:
        timed = 0

        def measure(self, shapes, *, on_event) -> None:
            timed.extend(shape.key for shape in shapes)

    build_table(whole, Table(), offer=["rank"])
    assert set(timed) == set(asked)
    plain = len(timed)
    timed.clear()
    build_table(whole, Table())
    assert set(timed) < set(asked)
    assert len(timed) < plain


def test_kinds_that_are_not_known_are_named():
    with pytest.raises(ReferenceNotFound, match="'rang'; there is rank"):
        check_kinds(["rank", "rang"])
    whole = network()
    with pytest.raises(ReferenceNotFound, match="'bits of conv1' could be of"):
        apply_plan(whole, probe(whole.body, EXAMPLE), Plan({}, (), {"bits of conv1": 8}))
