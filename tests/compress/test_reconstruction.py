"""Units ranked by what no refit gives back, against least squares that knows none of it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reverie.compress.importance import reconstruction_scores
from reverie.compress.ridge import refit
from reverie.core.errors import RangeError
from reverie.core.network import ImageNetwork
from reverie.core.source import noise_source
from reverie.graph import cut, probe

SHAPE = (2, 5, 5)
SOURCE = noise_source(count=32, image_shape=SHAPE, seed=0)


def network_of(body):
    return ImageNetwork(body, image_shape=SHAPE).eval()


def linear():
    torch.manual_seed(0)
    return network_of(nn.Sequential(nn.Flatten(), nn.Linear(50, 5), nn.Tanh(), nn.Linear(5, 3)))


def convolutional():
    """The units are read by a convolution, three by three, and behind a flattening, nine columns each."""
    torch.manual_seed(0)
    convolutions = nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 4, 3, stride=2), nn.Tanh()
    return network_of(nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(16, 3)))


def left_over(x, y, columns):
    """Mean square error of the best linear fit of y from all columns of x but some."""
    rest = x[:, [at for at in range(x.shape[1]) if at not in columns]]
    fitted = torch.linalg.lstsq(rest, y).solution
    return float((y - rest @ fitted).square().sum() / len(y))


def in_turn(x, y, columns):
    """Errors when the unit that is missed least goes first, by one least-squares fit per unit and turn."""
    gone, order, errors = set(), [], {}
    while len(errors) < len(columns):
        found = {unit: left_over(x, y, gone | set(columns[unit])) for unit in range(len(columns)) if unit not in errors}
        unit = min(found, key=found.get)
        before = left_over(x, y, gone)
        gone |= set(columns[unit])
        errors[unit] = max([found[unit] - before, *(errors[one] for one in order)])
        order.append(unit)
    return torch.tensor([errors[unit] for unit in range(len(columns))], dtype=torch.float64) / float(
        y.square().sum() / len(y)
    )


def unfolded(layer, x):
    """What a layer's weights and bias multiply, row by row."""
    if isinstance(layer, nn.Conv2d):
        x = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride).transpose(1, 2).flatten(0, 1)
    return torch.cat([x, torch.ones(len(x), 1)], 1).double()


@pytest.mark.parametrize(
    ("make", "group", "reader", "taps"), [(linear, "1", 3, 1), (convolutional, "0", 2, 9), (convolutional, "2", 5, 4)]
)
def test_scores_are_the_errors_of_least_squares(make, group, reader, taps):
    network = make()
    structure = probe(network.body, torch.zeros(2, *SHAPE))
    found = reconstruction_scores(network, structure, SOURCE, ridge=1e-12, positions=10_000)[group]
    with torch.no_grad():
        before = network.body[:reader]((SOURCE.floats() - network.mean) / network.std)
        layer = network.body[reader]
        x = unfolded(layer, before)
        weight = torch.cat([layer.weight.flatten(1), layer.bias[:, None]], 1).double()
    units = len(found.value)
    columns = [range(unit * taps, (unit + 1) * taps) for unit in range(units)]
    assert torch.allclose(found.value, in_turn(x, x @ weight.T, columns), rtol=1e-6, atol=1e-10)
    assert found.standard_error.isinf().all()


def test_one_of_two_twins_goes_for_nothing_and_the_other_is_kept():
    network = linear()
    with torch.no_grad():
        for parameter in (network.body[1].weight, network.body[1].bias):
            parameter[4] = parameter[1]
        network.body[3].weight[:, 1] = 3.0  # the larger of the two, by magnitude
    structure = probe(network.body, torch.zeros(2, *SHAPE))
    value = reconstruction_scores(network, structure, SOURCE)["1"].value
    first, second = sorted((float(value[1]), float(value[4])))
    assert first < 1e-3 * second
    kept = [unit for unit in range(5) if unit != int(value.argmin())]
    body, record = cut(network.body, structure, {"1": kept})
    student = refit(network, network.with_body(body), record, SOURCE)
    x = SOURCE.floats()
    assert torch.allclose(student(x), network(x), atol=2e-3)


def test_groups_that_no_plain_product_reads_are_left_out():
    body = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 3, 2))
    network = network_of(body)
    structure = probe(body, torch.zeros(2, *SHAPE))
    assert {group.name for group in structure.free} == {"0", "1"}
    assert set(reconstruction_scores(network, structure, SOURCE)) == {"0"}


def test_a_ridge_of_zero_is_refused():
    network = linear()
    structure = probe(network.body, torch.zeros(2, *SHAPE))
    with pytest.raises(RangeError, match="ridge must be above 0"):
        reconstruction_scores(network, structure, SOURCE, ridge=0.0)


def test_every_image_counts_alike_however_batches_fall():
    network = linear()
    structure = probe(network.body, torch.zeros(2, *SHAPE))
    source = noise_source(count=65, image_shape=SHAPE, seed=0)
    short = reconstruction_scores(network, structure, source, batch_size=64)["1"].value
    assert torch.allclose(short, reconstruction_scores(network, structure, source, batch_size=65)["1"].value)
