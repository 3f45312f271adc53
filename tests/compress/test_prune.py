import pytest
import torch
from torch import nn

from cases import wide_network
from reverie.compress.evidence import loss_change, reference_logits
from reverie.compress.importance import gate_scores, magnitude_scores, reconstruction_scores
from reverie.compress.prune import option_losses, prune
from reverie.compress.ridge import refit
from reverie.compress.sites import find_sites
from reverie.core.edit import replay
from reverie.core.errors import BudgetInfeasible, RangeError, ShapeError
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
    monkeypatch.setattr("reverie.compress.prune.export_onnx", lambda one: b"")
    monkeypatch.setattr("reverie.compress.prune.measure_layers", lambda *_, **__: 0)
    monkeypatch.setattr(
        "reverie.compress.prune.cost_columns", lambda *_: {"latency": lambda layer, i, o, g: float(i * o)}
    )
    monkeypatch.setattr("reverie.compress.prune.measure_networks", pretended(0.95))
    with pytest.raises(BudgetInfeasible, match=r"measures 0\.95"):
        prune(network, source, latency="60%", step=8)
    monkeypatch.setattr("reverie.compress.prune.measure_networks", pretended(0.9999))
    with pytest.raises(BudgetInfeasible, match="is not faster"):
        prune(network, source, latency="1.2ms", step=8)
    monkeypatch.setattr("reverie.compress.prune.measure_networks", pretended(0.59))
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
    with pytest.raises(BudgetInfeasible, match="cheapest plan"):
        prune(network, source, macs="1%", step=4)
