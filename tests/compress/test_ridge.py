import pytest
import torch
from torch import nn

from cases import EXAMPLE, tiny_network, tiny_source
from reverie.compress.ridge import refit
from reverie.core.edit import Record
from reverie.core.errors import RangeError
from reverie.core.network import ImageNetwork
from reverie.core.source import noise_source
from reverie.graph import bypass, cut, probe


def distance(first, second, source):
    with torch.no_grad():
        return float((first(source.floats()) - second(source.floats())).square().mean())


def shortened(network, kept):
    structure = probe(network.body, torch.zeros(2, *network.image_shape))
    body, record = cut(network.body, structure, kept)
    return network.with_body(body), record


@pytest.mark.parametrize("convolution", [False, True])
def test_a_unit_that_repeats_another_is_made_up_for_exactly(convolution):
    if convolution:
        body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, stride=2), nn.Flatten())
        makes, reads = body[0], body[2]
    else:
        body = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.ReLU(), nn.Linear(4, 2))
        makes, reads = body[1], body[3]
    with torch.no_grad():
        makes.bias.fill_(0.5)  # so that units speak
        makes.weight[3] = 2 * makes.weight[0]
        makes.bias[3] = 2 * makes.bias[0]
    network = ImageNetwork(body, image_shape=(1, 6, 6))
    source = noise_source(count=64, image_shape=(1, 6, 6), seed=0)
    student, record = shortened(network, {"0" if convolution else "1": [0, 1, 2]})
    before = distance(network, student, source)
    fitted = refit(network, student, record, source, ridge=1e-9)
    assert distance(network, fitted, source) < 1e-6 * before
    if not convolution:
        # By hand: unit 3 is twice unit 0, so unit 0 is read with what unit 3 was read with, twice.
        expected = reads.weight[:, 0] + 2 * reads.weight[:, 3]
        assert torch.allclose(fitted.body[3].weight[:, 0], expected, atol=1e-3)


def test_refitting_comes_nearer_to_the_teacher_and_leaves_no_trace():
    network, source = tiny_network(), noise_source(count=128, image_shape=(1, 8, 8), seed=1)
    student, record = shortened(network, {"block.inner": [0, 2, 4], "stem": [0, 1, 3, 5]})
    states = [{name: t.clone() for name, t in one.state_dict().items()} for one in (network, student)]
    before = distance(network, student, source)
    fitted = refit(network, student, record, source)
    assert distance(network, fitted, source) < 0.5 * before
    for one, state in zip((network, student), states, strict=True):
        assert all(torch.equal(t, state[name]) for name, t in one.state_dict().items())
        assert not any(module._forward_hooks for module in one.modules())
    again = refit(network, student, record, source)
    assert all(torch.equal(a, b) for a, b in zip(fitted.parameters(), again.parameters(), strict=True))


def test_what_was_not_cut_is_not_moved():
    network = tiny_network()
    student, record = shortened(network, {"block.inner": [0, 2, 4]})
    fitted = refit(network, student, record, tiny_source())
    assert torch.equal(fitted.body.stem.weight, network.body.stem.weight)
    whole = refit(network, network, Record(), tiny_source())
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), network.parameters(), strict=True))


def test_a_strong_ridge_changes_nothing():
    network = tiny_network()
    student, record = shortened(network, {"block.inner": [0, 2, 4]})
    fitted = refit(network, student, record, tiny_source(), ridge=1e9)
    assert distance(student, fitted, tiny_source()) < 1e-10


def test_layers_of_a_bypassed_block_are_left_out():
    network = tiny_network()
    structure = probe(network.body, EXAMPLE)
    body, kept = cut(network.body, structure, {"stem": [0, 1, 3, 5]})
    body, gone = bypass(body, structure, ["block"])
    student = network.with_body(body)
    fitted = refit(network, student, kept + gone, tiny_source())
    assert distance(network, fitted, tiny_source()) < distance(network, student, tiny_source())


def test_numbers_out_of_range(heard):
    network = tiny_network()
    with pytest.raises(RangeError, match="ridge"):
        refit(network, network, Record(), tiny_source(), ridge=0.0)
    with pytest.raises(RangeError, match="held_bytes must be at least 0, got -1"):
        refit(network, network, Record(), tiny_source(), held_bytes=-1)
    student, record = shortened(network, {"block.inner": [0, 2, 4]})
    events, listen = heard
    refit(network, student, record, tiny_source(), on_event=listen)
    assert events[-1].step == events[-1].total == 4
