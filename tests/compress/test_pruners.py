import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cases import EXAMPLE, tiny_network, tiny_source, wide_network
from reverie.compress.allocator import allocate
from reverie.compress.importance import gate_score, gate_scores
from reverie.compress.latencies import macs_at
from reverie.compress.pruners import (
    EarlyPruning,
    HalpPruner,
    NVitPruner,
    Pruner,
    Silenced,
    TaylorPruner,
    exponential_targets,
    kept_counts,
    redistribution,
    similarity,
)
from reverie.compress.sites import find_sites
from reverie.core.errors import RangeError
from reverie.core.source import noise_source
from reverie.graph import cut, probe


def prepared():
    network = wide_network()
    body = copy.deepcopy(network.body).train()
    source = noise_source(count=32, image_shape=(1, 12, 12), seed=0)
    return body, probe(network.body, torch.zeros(2, 1, 12, 12)), source.floats(), torch.arange(32) % 4


def train(body, pruner, images, labels, *, batches):
    """Real training, so that gradients, momentum and statistics are what a user's are."""
    optimizer = torch.optim.SGD(body.parameters(), lr=0.05, momentum=0.9)
    for _ in range(batches):
        optimizer.zero_grad()
        F.cross_entropy(body(images), labels).backward()
        pruner.after_backward()
        optimizer.step()
        pruner.after_step(optimizer)
    return optimizer


def assert_cut_equals(body, structure, plan, images):
    """What is silent may be cut without a change."""
    whole = copy.deepcopy(body).eval()
    small, _ = cut(whole, structure, plan.kept)
    with torch.no_grad():
        assert torch.allclose(whole(images), small(images), atol=1e-5)


def total(structure, counts):
    return sum(macs_at(layer, *layer.widths(counts)) for layer in structure.layers)


def test_taylor_pruning_ends_where_it_was_asked_to():
    body, structure, images, labels = prepared()
    pruner = TaylorPruner(body, structure, kept=0.5, every=2, remove=15)
    left = []
    for _ in range(12):
        train(body, pruner, images, labels, batches=1)
        left.append(pruner.silenced.kept)
    units = sum(group.units for group in structure.free)
    assert left[0] == 1.0
    assert left[1] == pytest.approx(1 - 15 / units)
    assert left[-1] == pytest.approx(0.5, abs=1 / units)
    assert pruner.finished
    assert_cut_equals(body, structure, pruner.plan(), images)


def test_scores_are_averaged_with_momentum():
    body, structure, images, labels = prepared()
    pruner = TaylorPruner(body, structure, kept=0.9, every=1, remove=1, momentum=0.75)
    name = structure.free[0].name
    taken = []
    keep = pruner.silenced.take
    pruner.silenced.take = lambda: taken.append(keep()) or taken[-1]
    train(body, pruner, images, labels, batches=2)
    assert torch.allclose(pruner._average[name], 0.75 * taken[0][name] + 0.25 * taken[1][name])


def test_the_least_important_unit_goes_first():
    network = tiny_network()
    body, structure = copy.deepcopy(network.body), probe(network.body, EXAMPLE)
    source = tiny_source()
    scores = gate_scores(network, structure, source, batch_size=len(source), targets=source.labels)
    values = [(float(value), name, unit) for name, one in scores.items() for unit, value in enumerate(one.value)]
    pruner = TaylorPruner(body, structure, kept=0.9, every=1, remove=1)
    train(body, pruner, (source.floats() - network.mean) / network.std, source.labels, batches=1)
    _, name, unit = min(values)
    assert pruner.plan().kept == {name: tuple(u for u in range(structure.group(name).units) if u != unit)}


def test_silence_lasts_through_momentum_and_statistics():
    body, structure, images, labels = prepared()
    silenced = Silenced(body, structure, score=gate_score)
    name = structure.free[1].name
    optimizer = torch.optim.SGD(body.parameters(), lr=0.05, momentum=0.9)
    F.cross_entropy(body(images), labels).backward()
    optimizer.step()
    silenced.silence({name: [0, 2]})
    silenced.hush(optimizer)
    group = structure.group(name)
    state = body.state_dict()
    for one in group.slices:
        rows = torch.tensor(one.rows([0, 2]))
        assert not state[one.tensor].index_select(one.dim, rows).any()
    momenta = [optimizer.state[p]["momentum_buffer"] for p in (body.get_parameter(f"{name}.weight"),)]
    assert not momenta[0][[0, 2]].any()
    assert momenta[0][1].any()


def test_the_last_unit_of_a_group_stays_and_bad_batches_do_not_count():
    body, structure, images, labels = prepared()
    silenced = Silenced(body, structure, score=gate_score)
    name = structure.free[0].name
    silenced.silence({name: range(silenced.counts[name])})
    assert silenced.counts[name] > 0
    with pytest.raises(RangeError, match="after_backward"):
        silenced.take()
    (F.cross_entropy(body(images), labels) * float("nan")).backward()
    silenced.observe()
    with pytest.raises(RangeError, match="after_backward"):
        silenced.take()


def test_silent_units_rank_below_all_that_speak():
    body, structure, *_ = prepared()
    silenced = Silenced(body, structure, score=gate_score)
    name = structure.free[0].name
    silenced.silence({name: [0]})
    scores = torch.arange(silenced.counts[name] + 1.0) - 100.0
    silenced.keep_best({name: 2}, {name: scores})
    assert silenced.counts[name] == 2


@pytest.mark.parametrize("solver", ["halp", "exact"])
def test_halp_meets_its_share(solver):
    body, structure, images, labels = prepared()
    sites = find_sites(structure, step=4)
    exact = lambda sites, pairs, limit: allocate(sites, pairs, budgets={"latency": limit})  # noqa: E731
    more = {} if solver == "halp" else {"solve": exact}
    pruner = HalpPruner(body, sites, latency=macs_at, share=0.5, steps=3, every=2, **more)
    train(body, pruner, images, labels, batches=8)
    assert pruner.finished
    counts = pruner.silenced.counts
    assert total(structure, counts) <= 0.5 * total(structure, {}) * (1 + 1e-9)
    assert all(count % 4 == 0 for count in counts.values())
    assert_cut_equals(body, structure, pruner.plan(), images)


def test_the_schedule_falls_by_equal_factors():
    targets = exponential_targets(100.0, 25.0, steps=4)
    assert targets[-1] == pytest.approx(25)
    assert targets[1] / targets[0] == pytest.approx(targets[3] / targets[2])
    with pytest.raises(RangeError, match="steps"):
        exponential_targets(1.0, 0.0, steps=1)


def test_nvit_meets_its_share_in_blocks():
    body, structure, images, labels = prepared()
    block = {group.name: 4 for group in structure.free}
    pruner = NVitPruner(body, structure, latency=macs_at, share=0.6, every=1, remove=6, eta=0.0, block=block)
    train(body, pruner, images, labels, batches=12)
    counts = pruner.silenced.counts
    assert pruner.finished
    assert total(structure, counts) <= 0.6 * total(structure, {})
    assert all((group.units - counts[group.name]) % 4 == 0 for group in structure.free)
    assert_cut_equals(body, structure, pruner.plan(), images)


def test_latency_decides_where_its_weight_is_high():
    body, structure, images, labels = prepared()
    pruner = NVitPruner(body, structure, latency=macs_at, share=0.9, every=1, remove=1, eta=1e9)
    train(body, pruner, images, labels, batches=1)
    (name,) = pruner.plan().kept
    gains = {
        group.name: total(structure, {}) - total(structure, {group.name: group.units - 1}) for group in structure.free
    }
    assert gains[name] == max(gains.values())


def test_redistribution_worked_by_hand():
    # E = 176: r = round(0.88) = 1, q = 8 round(1.1) = 8.
    found = redistribution(176)
    assert found.heads == (10, 2, 2, 4, 4, 4, 4, 4, 4, 2, 2, 10)
    assert found.query_key == (16, 8, 8, 16, 16, 16, 16, 16, 16, 8, 8, 16)
    assert found.hidden == (528,) * 3 + (1056,) * 6 + (528,) * 3
    with pytest.raises(RangeError, match="heads"):
        redistribution(64)


def test_similarity_and_counts_worked_by_hand():
    assert similarity({"a": 3, "b": 5}, {"a": 3, "b": 5}) == 1.0
    assert similarity({"a": 1}, {"a": 3}) == 0.5
    scores = {"a": torch.tensor([0.9, 0.1]), "b": torch.tensor([0.8, 0.7, 0.2])}
    assert kept_counts(scores, kept=0.6) == {"a": 1, "b": 2}
    assert kept_counts({"a": torch.ones(1), "b": torch.full((4,), 2.0)}, kept=0.5) == {"a": 1, "b": 2}
    with pytest.raises(RangeError, match="kept"):
        kept_counts(scores, kept=1.0)
    with pytest.raises(RangeError, match="compare"):
        similarity({"a": 1}, {"b": 1})


def test_early_pruning_waits_until_nothing_changes():
    policy = EarlyPruning(threshold=0.95, window=3)
    widths = [20, 14, 11, 10, 10, 10, 10, 10]
    said = [policy.epoch({"a": width, "b": 30 - width}) for width in widths]
    assert said.index(True) == 5
    assert policy.indicators[:3] == [None] * 3
    # Epoch 5 against 11, 10 and 10, by hand: 1 - (1/21 + 1/39) / 2 for the first, 1 for the others.
    assert policy.indicators[5] == pytest.approx((3 - (1 / 21 + 1 / 39) / 2) / 3)
    assert policy.indicators[5] > 0.95
    again = EarlyPruning(threshold=0.5, window=1)
    assert [again.epoch({"a": width}) for width in (10, 10, 8)] == [False, True, False]


class First(Pruner):
    """Silences the first unit of each group, once."""

    @property
    def finished(self):
        return self.silenced.kept < 1

    def prune(self):
        self.silenced.silence({name: [0] for name in self.silenced.alive})


def test_a_pruner_of_ones_own_says_when_it_has_finished_and_what_goes():
    body, structure, images, labels = prepared()
    pruner = First(body, structure, every=2, score=gate_score)
    train(body, pruner, images, labels, batches=1)
    assert not pruner.finished
    train(body, pruner, images, labels, batches=2)
    assert pruner.plan().kept == {group.name: tuple(range(1, group.units)) for group in structure.free}
    assert_cut_equals(body, structure, pruner.plan(), images)
    with pytest.raises(TypeError, match="abstract"):
        Pruner(body, structure, every=2, score=gate_score)


def test_numbers_out_of_range():
    body, structure, *_ = prepared()
    for make in (
        lambda: TaylorPruner(body, structure, kept=1.0),
        lambda: TaylorPruner(body, structure, kept=0.5, momentum=1.0),
        lambda: TaylorPruner(body, structure, kept=0.5, every=0),
        lambda: HalpPruner(body, find_sites(structure, step=4), latency=macs_at, share=0.0),
        lambda: NVitPruner(body, structure, latency=macs_at, share=0.5, eta=-1.0),
        lambda: EarlyPruning(threshold=0.0),
    ):
        with pytest.raises(RangeError, match="got"):
            make()
    assert isinstance(body, nn.Module)
