from dataclasses import replace

import pytest
import torch
from torch import nn

from cases import wide_network
from reverie.compress.evidence import loss_change, option_losses, reference_logits
from reverie.compress.importance import gate_scores, magnitude_scores, reconstruction_scores
from reverie.compress.latencies import macs_at
from reverie.compress.prune import prune
from reverie.compress.ridge import refit
from reverie.compress.sites import find_sites
from reverie.core.edit import replay
from reverie.core.errors import BudgetInfeasible, RangeError, ShapeError, UnsupportedOp
from reverie.core.network import ImageNetwork
from reverie.core.source import noise_source
from reverie.cost.count import count
from reverie.cost.timing import Timing
from reverie.distill import reestimate_batch_norm
from reverie.graph import cut, probe


@pytest.fixture(scope="module")
def network():
    return wide_network()


@pytest.fixture(scope="module")
def source():
    return noise_source(count=64, image_shape=(1, 12, 12), seed=0)


def macs(network):
    return count(network, torch.zeros(1, *network.image_shape)).macs


def agreement(first, second, source):
    with torch.no_grad():
        return float((first(source.floats()).log_softmax(1) - second(source.floats()).log_softmax(1)).square().mean())


def test_budgets_are_met_and_the_record_replays(network, source):
    found = prune(network, source, macs="60%", size="70%", compensate=False, step=4)
    assert macs(found.network) <= 0.6 * macs(network)
    assert found.solution.shares["macs"] == pytest.approx(macs(found.network) / macs(network), rel=1e-6)
    sizes = [count(one, torch.zeros(1, 1, 12, 12)).size_bytes for one in (network, found.network)]
    assert sizes[1] <= 0.7 * sizes[0]
    again = replay(found.record, network.body)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), found.network.body.parameters(), strict=True))
    assert found.latency is None
    # Another budget needs no network.
    assert found.study.solve({"macs": 0.4}).loss >= found.solution.loss


def test_compensation_brings_the_network_nearer(network, source):
    # Statistics as training would have left them.
    network = reestimate_batch_norm(network, source)
    bare = prune(network, source, macs="60%", compensate=False, step=4)
    made = prune(network, source, macs="60%", step=4, importance=gate_scores)
    assert made.plan == bare.plan
    assert agreement(network, made.network, source) < 0.8 * agreement(network, bare.network, source)
    # Layers are fitted anew, then statistics are counted anew.
    both = reestimate_batch_norm(refit(network, bare.network, bare.record, source), source)
    again = both.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in made.network.state_dict().items())


def test_what_is_compensated_is_ranked_by_what_compensation_does_not_give_back(network, source):
    usual = prune(network, source, macs="60%", step=4)
    assert usual.plan == prune(network, source, macs="60%", step=4, importance=reconstruction_scores).plan
    assert usual.plan != prune(network, source, macs="60%", step=4, importance=gate_scores).plan


def test_units_that_no_plain_product_reads_are_ranked_too(source):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3), nn.Flatten(), nn.Linear(864, 4))
    network = ImageNetwork(body, image_shape=(1, 12, 12)).eval()
    kept = prune(network, source, macs="60%", step=2).plan.kept
    scores = {"0": gate_scores, "2": reconstruction_scores}
    structure = probe(body, torch.zeros(2, 1, 12, 12))
    for group, units in kept.items():
        ranked = scores[group](network, structure, source)[group].value.argsort(descending=True)
        assert sorted(units) == sorted(ranked[: len(units)].tolist())
    assert "0" in kept


class Concatenated(nn.Module):
    """A layer that reads two others side by side: three widths decide what it costs."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 16, 3), nn.Conv2d(1, 16, 3), nn.Conv2d(32, 16, 3)
        self.linear = nn.Linear(16, 4)

    def forward(self, x):
        return self.linear(self.c(torch.cat([self.a(x).relu(), self.b(x).relu()], 1)).relu().mean((2, 3)))


class InsideABlock(nn.Module):
    """The same within a block that may be bypassed."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.linear = nn.Conv2d(1, 16, 3, padding=1), Parts(), nn.Linear(16, 4)

    def forward(self, x):
        return self.linear(self.block(self.stem(x).relu()).relu().mean((2, 3)))


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(nn.Conv2d(16, 8, 3, padding=1) for _ in range(3))
        self.last = nn.Conv2d(24, 16, 3, padding=1)

    def forward(self, x):
        return x + self.last(torch.cat([part(x).relu() for part in self.parts], 1))


@pytest.mark.parametrize("body", [Concatenated, InsideABlock])
@pytest.mark.parametrize("share", [0.6, 0.4])
def test_counted_budgets_are_met_where_many_widths_decide_what_a_layer_costs(body, share, source):
    torch.manual_seed(0)
    network = ImageNetwork(body(), image_shape=(1, 12, 12)).eval()
    # Costs by the number of layers keep the plan away from what is widest.
    found = prune(network, source, macs=f"{share:.0%}", size="90%", compensate=False, step=4)
    counts = [count(one, torch.zeros(1, 1, 12, 12)) for one in (network, found.network)]
    assert counts[1].macs <= share * counts[0].macs
    assert counts[1].size_bytes <= 0.9 * counts[0].size_bytes
    assert found.solution.shares["macs"] == pytest.approx(counts[1].macs / counts[0].macs)
    assert found.solution.shares["size"] == pytest.approx(counts[1].size_bytes / counts[0].size_bytes)


def test_counted_budgets_are_met_beside_a_latency_too(source, monkeypatch):
    torch.manual_seed(0)
    network = ImageNetwork(Concatenated(), image_shape=(1, 12, 12)).eval()
    monkeypatch.setattr("reverie.compress.limits.export_onnx", lambda one: str(macs(one)).encode())
    monkeypatch.setattr("reverie.compress.prune.measure_layers", lambda *_, **__: 0)
    monkeypatch.setattr(
        "reverie.compress.prune.cost_columns",
        lambda *_: {"latency": lambda layer, i, o, g: float(i + o), "macs": macs_at},
    )

    def measure(models, image_shape, **_):
        """As if time were the square root of the multiply-adds."""
        shares = {name: (int(model) / macs(network)) ** 0.5 for name, model in models.items()}
        return {name: Timing(one, one, one, one, one, one, 0.0001, 9) for name, one in shares.items()}

    monkeypatch.setattr("reverie.compress.limits.measure_networks", measure)
    found = prune(network, source, latency="90%", macs="40%", compensate=False, step=1)
    assert macs(found.network) <= 0.4 * macs(network)
    assert found.solution.shares["macs"] == pytest.approx(macs(found.network) / macs(network))
    found = prune(network, source, latency="60%", macs="40%", compensate=False, step=1)
    assert macs(found.network) <= 0.36 * macs(network)


def test_a_counted_budget_that_no_plan_meets_says_the_cheapest_that_was_counted(source):
    torch.manual_seed(0)
    network = ImageNetwork(Concatenated(), image_shape=(1, 12, 12)).eval()
    cheapest = prune(network, source, macs="30%", compensate=False, step=8)
    with pytest.raises(BudgetInfeasible, match="cannot reach a budget of 20% for macs") as caught:
        prune(network, source, macs="20%", compensate=False, step=8)
    assert caught.value.cheapest == macs(cheapest.network), "multiply-adds of a network that exists"


def test_any_importance_may_rank(network, source):
    found = prune(
        network,
        source,
        macs="60%",
        compensate=False,
        step=4,
        importance=lambda net, graph, _: magnitude_scores(net, graph),
    )
    for group, kept in found.plan.kept.items():
        assert set(kept) <= set(range(found.study.problem.widths[group][0]))


def pretended(share):
    """A runtime in which every candidate takes the same share of the teacher's time."""

    def measure(models, image_shape, **_):
        return {name: timing(1.0 if name == "teacher" else share) for name in models}

    def timing(ratio):
        return Timing(ratio, ratio, ratio, ratio, ratio, ratio, 0.001, 9)

    return measure


def test_a_plan_that_is_not_faster_is_refused(network, source, monkeypatch):
    monkeypatch.setattr("reverie.compress.limits.export_onnx", lambda one: b"")
    monkeypatch.setattr("reverie.compress.prune.measure_layers", lambda *_, **__: 0)
    monkeypatch.setattr(
        "reverie.compress.prune.cost_columns", lambda *_: {"latency": lambda layer, i, o, g: float(i * o)}
    )
    monkeypatch.setattr("reverie.compress.limits.measure_networks", pretended(0.95))
    words = r"cannot reach a latency of 60%.*measures 95.0% of the given network's 1 ms, which is 0.95 ms. Raise"
    with pytest.raises(BudgetInfeasible, match=words) as caught:
        prune(network, source, latency="60%", step=8)
    assert caught.value.cheapest == 0.95, "milliseconds"
    monkeypatch.setattr("reverie.compress.limits.measure_networks", pretended(0.9999))
    with pytest.raises(BudgetInfeasible, match="is not faster"):
        prune(network, source, latency="1.2ms", step=8)
    monkeypatch.setattr("reverie.compress.limits.measure_networks", pretended(0.59))
    found = prune(network, source, latency="60%", step=8, compensate=False)
    assert found.latency.ratio_median == 0.59


def test_rounds_rank_again_what_the_round_before_left(network, source):
    seen = []

    def watched(net, graph, images):
        seen.append(macs(net))
        return magnitude_scores(net, graph)

    found = prune(network, source, macs="40%", rounds=3, importance=watched, compensate=False, step=4)
    assert macs(found.network) <= 0.4 * macs(network)
    # On the way, 0.4^(1/3) and 0.4^(2/3) of the multiply-adds.
    whole = macs(network)
    assert [0.55 < seen[1] / whole <= 0.4 ** (1 / 3), 0.4 < seen[2] / whole <= 0.4 ** (2 / 3)] == [True, True]
    assert seen[0] == whole
    again = replay(found.record, network.body)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), found.network.body.parameters(), strict=True))
    assert found.study.solve({"macs": 0.4}).plan == found.plan
    with pytest.raises(RangeError, match="rounds must be at least 1"):
        prune(network, source, macs="50%", rounds=0)


def test_groups_that_a_round_left_whole_are_ranked_again_too(network, source):
    turns = []

    def of_this_turn(net, graph, _):
        turns.append(net)
        scores = magnitude_scores(net, graph)
        return {name: replace(one, value=one.value + 100.0 * len(turns)) for name, one in scores.items()}

    found = prune(network, source, macs="95%", rounds=2, importance=of_this_turn, compensate=False, step=4)
    assert len(turns) == 2
    assert all(max(scores) >= 200 for scores in found.study.scores.values())


def test_options_around_a_plan_are_counted_from_it(network, source):
    structure = probe(network.body, torch.zeros(2, 1, 12, 12))
    sites = find_sites(structure, step=4)
    scores = {name: one.value for name, one in magnitude_scores(network, structure).items()}
    (first, widths), (second, others) = [(site, one) for site, one in sites.widths.items() if len(one) > 2][:2]
    alone, _ = option_losses(network, sites, scores, source)
    around, _ = option_losses(network, sites, scores, source, around={first: widths[1]})
    assert (first, widths[1]) not in around
    answers = reference_logits(network, source)
    body, _ = cut(network.body, structure, sites.plan({first: widths[1], second: others[1]}, scores).kept)
    both = loss_change(answers, network.with_body(body), source).nats
    assert around[second, others[1]] == pytest.approx(both - alone[first, widths[1]], abs=1e-6)


@pytest.mark.nightly
def test_latency_is_met_when_it_is_measured(source):
    found = prune(wide_network(), source, latency="80%", step=4)
    assert found.latency.ratio_median <= 0.8


def test_what_is_wrong_is_named(network, source):
    with pytest.raises(RangeError, match="at least one budget"):
        prune(network, source)
    with pytest.raises(ShapeError, match="12"):
        prune(network, noise_source(count=4, image_shape=(1, 8, 8), seed=0), macs="50%")
    with pytest.raises(BudgetInfeasible, match=r"cannot reach a budget of 1% for macs.*Raise the budget"):
        prune(network, source, macs="1%", step=4)
    with pytest.raises(UnsupportedOp, match=r"is on meta.*\.cpu\(\)"):
        prune(wide_network().to("meta"), source, macs="50%")
    with pytest.raises(RangeError, match="at least 2 images"):
        prune(network, noise_source(count=1, image_shape=(1, 12, 12), seed=0), macs="50%", step=4)


def test_every_stage_is_told_before_it_begins(network, source):
    told = []
    prune(network, source, macs="60%", step=4, compensate=False, on_event=told.append)
    assert [(one.stage, one.step) for one in told[:2]] == [("ranking units", 0), ("ranking units", 1)]
    assert told[2].stage.startswith("measuring options on")
