from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cases import EXAMPLE, tiny_network, tiny_source
from reverie.compress.importance import (
    Gates,
    fisher_score,
    gate_score,
    gate_scores,
    magnitude_scores,
    normalization_score,
    oracle_changes,
    parameter_scores,
    second_order_scores,
    tangent_changes,
    weight_score,
)
from reverie.compress.importance.image_gates import ImageGates
from reverie.compress.importance.partial import PartialRuns
from reverie.compress.importance.slopes import LogitSlopes
from reverie.core.errors import RangeError, ShapeError
from reverie.core.network import ImageNetwork
from reverie.core.source import Source
from reverie.graph import cut, masked, probe


def of_parameters(score):
    return pytest.param(partial(parameter_scores, score=score), id=score.__name__)


KINDS = [
    pytest.param(gate_scores, id="gate_scores"),
    pytest.param(second_order_scores, id="second_order_scores"),
    *map(of_parameters, (gate_score, weight_score, normalization_score, fisher_score)),
]


@pytest.fixture(scope="module")
def tiny():
    network = tiny_network()
    return network, probe(network.body, EXAMPLE), tiny_source()


def inputs(network, source):
    return (source.floats() - network.mean) / network.std


def test_gates_at_one_change_nothing_and_at_zero_remove(tiny):
    network, structure, source = tiny
    gates, x = Gates(network.body, structure), inputs(network, source)
    assert torch.equal(gates(x, gates.ones()), network.body(x))
    closed = gates.ones()
    kept = {}
    for group in structure.free:
        closed[group.name][1] = 0.0
        kept[group.name] = [unit for unit in range(group.units) if unit != 1]
    expected = masked(network.body, structure, kept)(x)
    assert torch.allclose(gates(x, closed), expected, atol=1e-6)
    small, _ = cut(network.body, structure, kept)
    assert torch.allclose(gates(x, closed), small(x), atol=1e-5)


def test_the_derivative_at_a_gate_equals_finite_differences(tiny):
    network, structure, source = tiny
    found = gate_scores(network, structure, source, batch_size=len(source), targets=source.labels)
    gates, x = Gates(network.body.double(), structure), inputs(network, source).double()
    network.body.float()
    for group in structure.free:
        slopes = []
        for unit in range(group.units):
            losses = []
            for step in (1e-4, -1e-4):
                gate = torch.ones(group.units, dtype=torch.float64)
                gate[unit] += step
                whole = F.cross_entropy(gates(x, {group.name: gate}), source.labels)
                losses.append(whole)
            slopes.append((losses[0] - losses[1]) / 2e-4)
        assert found[group.name].value == pytest.approx(torch.stack(slopes).square(), rel=1e-3, abs=1e-9)


def test_batches_of_one_square_image_by_image(tiny):
    network, structure, source = tiny
    alone = gate_scores(network, structure, source, batch_size=1, images=3, targets=source.labels)
    each = [
        gate_scores(network, structure, Source("one", source.images[i : i + 1]), targets=source.labels[i : i + 1])
        for i in range(3)
    ]
    for group in structure.free:
        values = torch.stack([one[group.name].value for one in each])
        assert torch.allclose(alone[group.name].value, values.mean(0))
        assert torch.allclose(alone[group.name].standard_error, values.std(0) / 3**0.5)
        assert torch.isinf(each[0][group.name].standard_error).all()


def linear():
    """One input, two hidden units, two classes: small enough to differentiate by hand."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0], [2.0]]))
        net[2].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.5]]))
    return ImageNetwork(net, image_shape=(1, 1, 1), mean=[0.0], std=[1.0])


def test_scores_worked_by_hand():
    # x = 1: hidden (1, 2), logits (1, 1), answers (1/2, 1/2); class 0 is right, so the slopes of the logits are
    # (-1/2, 1/2). Unit 0 reaches logit 0 by weight 1, unit 1 logit 1 by 1/2: the slopes of the hidden units are
    # (-1/2, 1/4), and weight times slope is (-1/2, 1/2) on either side of each unit.
    network = linear()
    structure = probe(network.body, torch.ones(1, 1, 1, 1))
    source = Source("one", torch.full((1, 1, 1, 1), 255, dtype=torch.uint8))
    asked = torch.tensor([0])
    (name,) = [group.name for group in structure.free]
    quarter = pytest.approx([0.25, 0.25])
    assert gate_scores(network, structure, source, targets=asked)[name].value.tolist() == quarter
    by_hand = {gate_score: quarter, weight_score: quarter, normalization_score: pytest.approx([0.5, 0.5])}
    # Both sides add up before they are squared.
    by_hand[fisher_score] = pytest.approx([1, 1])
    for score, wanted in by_hand.items():
        found = parameter_scores(network, structure, source, targets=asked, score=score)
        assert found[name].value.tolist() == wanted
    # The softmax curves by p (1 - p) = 1/4 along logits of 1 and 1: (1/2 + 1/8)^2 and (-1/2 + 1/8)^2.
    wanted = [0.625**2, 0.375**2]
    assert second_order_scores(network, structure, source, targets=asked)[name].value.tolist() == pytest.approx(wanted)


def test_few_probes_estimate_the_curvature_of_many_classes(tiny):
    # Without squares over images the estimate is unbiased: enough of it and the exact one agree.
    network, structure, source = tiny
    many = Source("again", source.images.repeat(200, 1, 1, 1), source.labels.repeat(200))
    arguments = {"images": len(many), "batch_size": len(many)}
    exact = second_order_scores(network, structure, many, targets=many.labels, **arguments)
    rough = second_order_scores(network, structure, many, targets=many.labels, probes=2, **arguments)
    for group in structure.free:
        assert torch.allclose(rough[group.name].value.sqrt(), exact[group.name].value.sqrt(), rtol=0.05, atol=1e-3)


def test_slopes_are_the_same_where_gates_can_only_stand_in_the_weights(tiny):
    network, structure, source = tiny
    x = inputs(network, source)
    together, alone = LogitSlopes(network, structure), LogitSlopes(network, structure)
    assert isinstance(together._gates, ImageGates)
    alone._gates = Gates(network.body, structure)

    def along(logits):
        return torch.stack([logits.softmax(1), logits], dim=2)

    (logits, slopes), (same, others) = together(x, along), alone(x, along)
    assert torch.allclose(logits, same, atol=1e-5)
    for name, slope in slopes.items():
        assert slope.shape == (structure.group(name).units, len(x), 2)
        assert torch.allclose(slope, others[name], atol=1e-4), name


def test_the_oracle_is_the_loss_of_the_network_without_the_unit(tiny):
    network, structure, source = tiny
    found = oracle_changes(network, structure, source, targets=source.labels, batch_size=7)
    x = inputs(network, source)
    before = F.cross_entropy(network.body(x), source.labels, reduction="none").detach()
    group = structure.free[1]
    for unit in range(group.units):
        small, _ = cut(network.body, structure, {group.name: [u for u in range(group.units) if u != unit]})
        each = F.cross_entropy(small(x), source.labels, reduction="none").detach() - before
        assert float(found[group.name].value[unit]) == pytest.approx(float(each.mean()), abs=1e-5)
        assert float(found[group.name].standard_error[unit]) == pytest.approx(
            float(each.std() / len(each) ** 0.5), rel=1e-3
        )


def test_without_labels_the_second_order_of_the_divergence_is_found(tiny):
    # Half the expected squared slope of drawn answers is the divergence of a small step, to second order.
    network, structure, source = tiny
    gates, x = Gates(network.body, structure), inputs(network, source)
    group, step = structure.free[0], 0.05
    drawn = [
        gate_scores(network, structure, source, batch_size=1, seed=seed)[group.name].value.mean() for seed in range(12)
    ]
    wanted = gates(x, {}).log_softmax(1)
    for_units = []
    for unit in range(group.units):
        gate = torch.ones(group.units)
        gate[unit] -= step
        given = gates(x, {group.name: gate}).log_softmax(1)
        for_units.append((wanted.exp() * (wanted - given)).sum(1).mean() * 2 / step**2)
    assert float(torch.stack(drawn).mean()) == pytest.approx(float(torch.stack(for_units).mean()), rel=0.2)
    unlabeled = oracle_changes(network, structure, source)
    assert all((scored.value >= 0).all() for scored in unlabeled.values())


def test_magnitude_is_the_norm_of_what_makes_a_unit(tiny):
    network, structure, _ = tiny
    found = magnitude_scores(network, structure)
    weight = network.body.block.inner.weight.detach()
    assert found["block.inner"].value == pytest.approx(weight.flatten(1).norm(dim=1).double(), rel=1e-5)
    first = magnitude_scores(network, structure, order=1.0)["block.inner"].value
    assert first == pytest.approx(weight.abs().flatten(1).sum(1).double(), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_names_every_free_group_and_repeats(kind, tiny, heard):
    network, structure, source = tiny
    events, listen = heard
    found = kind(network, structure, source, seed=3, on_event=listen)
    again = kind(network, structure, source, seed=3)
    assert list(found) == [group.name for group in structure.free]
    for group in structure.free:
        assert found[group.name].value.shape == (group.units,)
        assert (found[group.name].value >= 0).all()
        assert torch.equal(found[group.name].value, again[group.name].value)
    assert events[-1].step == events[-1].total
    with pytest.raises(RangeError, match="at least 1"):
        kind(network, structure, source, images=0)
    with pytest.raises(ShapeError, match="targets"):
        kind(network, structure, source, targets=torch.zeros(3, dtype=torch.int64))


def test_the_weights_that_read_a_unit_say_together_what_its_gate_says(tiny):
    network, structure, source = tiny
    asked = {"batch_size": len(source), "targets": source.labels}
    found = gate_scores(network, structure, source, **asked)
    together = parameter_scores(network, structure, source, score=gate_score, **asked)
    for group in structure.free:
        assert torch.allclose(found[group.name].value, together[group.name].value, rtol=1e-3, atol=1e-10)


class Attention(nn.Module):
    """Two tokens per image, one head: queries and keys are read by computed values only."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 5)
        self.out = nn.Linear(5, 4)

    def forward(self, x):
        tokens = x.reshape(len(x), 2, 4)
        weights = (self.query(tokens) @ self.key(tokens).transpose(1, 2)).softmax(-1)
        return self.out(weights @ self.value(tokens)).mean(1)


def test_queries_and_keys_have_gates_too():
    network = ImageNetwork(Attention(), image_shape=(1, 2, 4)).eval()
    structure = probe(network.body, torch.zeros(2, 1, 2, 4))
    source = Source("tiny", torch.randint(0, 256, (16, 1, 2, 4), dtype=torch.uint8), torch.arange(16) % 4)
    found = oracle_changes(network, structure, source, targets=source.labels)
    group = next(one for one in structure.free if "query" in one.producers)
    small, _ = cut(network.body, structure, {group.name: [0, 2]})
    x = source.floats()
    each = F.cross_entropy(small(x), source.labels) - F.cross_entropy(network.body(x), source.labels)
    assert float(found[group.name].value[1]) == pytest.approx(float(each.detach()), abs=1e-5)
    assert (gate_scores(network, structure, source)[group.name].value > 0).all()
    # Gates of each image say the same where the layer that makes the units is gated.
    alone = gate_scores(network, structure, source, batch_size=1, targets=source.labels)[group.name].value
    one_by_one = [
        gate_scores(network, structure, Source("one", source.images[at : at + 1]), targets=source.labels[at : at + 1])
        for at in range(16)
    ]
    each = torch.stack([one[group.name].value for one in one_by_one])
    assert torch.allclose(alone, each.mean(0), rtol=1e-4, atol=1e-12)


def test_gates_of_each_image_are_those_of_all_image_by_image(tiny):
    network, structure, source = tiny
    together, alone = Gates(network.body, structure), ImageGates(network.body, structure, EXAMPLE)
    x = inputs(network, source)
    assert alone.possible
    drawn = {name: torch.rand(one.shape) for name, one in alone.ones(len(x)).items()}
    expected = [together(x[at : at + 1], {name: one[at] for name, one in drawn.items()}) for at in range(len(x))]
    assert torch.allclose(alone(x, drawn), torch.cat(expected), atol=1e-5)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in alone.body.modules())


@pytest.mark.parametrize("labeled", [True, False])
def test_the_tangent_is_the_oracle_where_logits_are_linear_in_a_unit(labeled):
    network = linear()
    structure = probe(network.body, torch.ones(1, 1, 1, 1))
    source = Source("some", torch.tensor([40, 255, 128, 7], dtype=torch.uint8).view(4, 1, 1, 1))
    asked = torch.tensor([0, 1, 1, 0]) if labeled else None
    (name,) = [group.name for group in structure.free]
    for square_over in (None, 1, 2):
        exact = oracle_changes(network, structure, source, targets=asked, square_over=square_over)[name]
        found = tangent_changes(network, structure, source, targets=asked, square_over=square_over)[name]
        assert torch.allclose(found.value, exact.value, atol=1e-7)
        assert torch.allclose(found.standard_error, exact.standard_error, atol=1e-7)
    # By hand, the first of two equally sure answers to x = 1: without unit 0 the logits are (0, 1).
    one = Source("one", source.images[1:2])
    wanted = float(F.cross_entropy(torch.tensor([[0.0, 1.0]]), torch.tensor([0]))) - 0.6931472
    assert float(tangent_changes(network, structure, one, targets=torch.tensor([0]))[name].value[0]) == pytest.approx(
        wanted, abs=1e-6
    )


def test_the_tangent_is_near_the_oracle_and_batches_decide_nothing(tiny):
    network, structure, source = tiny
    exact = torch.cat([one.value for one in oracle_changes(network, structure, source).values()])
    found = torch.cat([one.value for one in tangent_changes(network, structure, source).values()])
    small = torch.cat([one.value for one in tangent_changes(network, structure, source, batch_size=3).values()])
    assert torch.allclose(found, small, rtol=1e-4)
    assert (
        float(torch.corrcoef(torch.stack([exact.argsort().argsort(), found.argsort().argsort()]).float())[0, 1]) > 0.9
    )
    with pytest.raises(RangeError, match="square_over"):
        tangent_changes(network, structure, source, square_over=10_000)


def test_the_oracle_runs_networks_whole_that_write_over_their_results():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.ReLU(inplace=True), nn.Linear(6, 4)).eval()
    plain = nn.Sequential(body[0], body[1], nn.ReLU(), body[3]).eval()
    x = torch.randn(3, 8)
    with torch.no_grad():
        inplace, runs = PartialRuns(body), PartialRuns(plain)
        inplace.whole(x)
        results = runs.whole(x)
        before = plain[3].weight[:, 0].clone()
        plain[3].weight[:, 0] = 0
        assert torch.equal(runs.changed(results, {"3"}), plain(x))
        assert torch.equal(runs.changed(results, set()), results["_3"])
        plain[3].weight[:, 0] = before
    assert runs.possible
    assert not inplace.possible
    source = Source("tiny", torch.randint(0, 256, (8, 1, 2, 4), dtype=torch.uint8))
    found = [
        oracle_changes(ImageNetwork(one, image_shape=(1, 2, 4)), probe(one, torch.zeros(2, 1, 2, 4)), source)["1"]
        for one in (body, plain)
    ]
    assert torch.equal(found[0].value, found[1].value)


class Windowed(nn.Module):
    """Attention within windows, as in Swin: its layers see (images * windows, tokens, channels)."""

    def __init__(self):
        super().__init__()
        self.patches, self.inner, self.outer = nn.Conv2d(1, 6, 2, stride=2), nn.Linear(6, 8), nn.Linear(8, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.patches(x).permute(0, 2, 3, 1)
        windows = x.reshape(len(x), 2, 2, 2, 2, 6).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 6)
        windows = self.outer(self.inner(windows).relu())
        back = windows.reshape(len(x), 2, 2, 2, 2, 6).permute(0, 1, 3, 2, 4, 5).reshape(len(x), 4, 4, 6)
        return self.head(back.mean((1, 2)))


def test_layers_that_see_windows_have_slopes_of_each_image_too():
    torch.manual_seed(0)
    network = ImageNetwork(Windowed(), image_shape=(1, 8, 8)).eval()
    structure = probe(network.body, EXAMPLE)
    source = tiny_source()
    x = inputs(network, source)[:3]
    _, slopes = LogitSlopes(network, structure)(x, lambda logits: torch.ones_like(logits)[..., None])
    gates = Gates(network.body, structure)
    for image in range(3):
        ones = {name: gate.requires_grad_() for name, gate in gates.ones().items()}
        wanted = torch.autograd.grad(gates(x[image : image + 1], ones).sum(), list(ones.values()))
        for name, slope in zip(ones, wanted, strict=True):
            assert torch.allclose(slopes[name][:, image, 0], slope, atol=1e-6)
    assert "inner" in slopes
    for kind in (partial(gate_scores, batch_size=1), second_order_scores, tangent_changes):
        assert set(kind(network, structure, source)) == set(slopes)
