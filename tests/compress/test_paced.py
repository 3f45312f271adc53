import threading

import pytest
import torch
from torch import nn

from cases import tiny_network
from reverie.compress.paced import paced
from reverie.compress.ridge import refit
from reverie.core.errors import ReferenceNotFound
from reverie.core.network import ImageNetwork
from reverie.core.source import noise_source
from reverie.graph import cut, probe


class Turning(nn.Module):
    """Takes another way for dark images, and may fail on its way."""

    def __init__(self, error=None):
        super().__init__()
        self.first, self.second, self.error = nn.Linear(4, 4), nn.Linear(4, 4), error

    def forward(self, x):
        x = x.flatten(1)
        if self.error is not None and x.mean() < 0.5:
            raise self.error
        return self.second(self.first(x)) if x.mean() >= 0.5 else self.first(self.second(x))


def clean(network):
    return all(one.name != "paced pass" for one in threading.enumerate()) and not any(
        one._forward_hooks or one._forward_pre_hooks for one in network.modules()
    )


def cut_down(network):
    structure = probe(network.body, torch.zeros(2, *network.image_shape))
    body, record = cut(network.body, structure, {"block.inner": [0, 2, 4], "stem": [0, 1, 3, 5]})
    return network.with_body(body), record


def test_passes_that_wait_fit_as_passes_that_begin_anew():
    network, source = tiny_network(), noise_source(count=96, image_shape=(1, 8, 8), seed=1)
    student, record = cut_down(network)
    waiting, anew = (refit(network, student, record, source, held_bytes=held) for held in (2**30, 0))
    assert all(torch.equal(a, b) for a, b in zip(waiting.parameters(), anew.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(waiting.parameters(), student.parameters(), strict=True))


@pytest.mark.parametrize(("held", "passes"), [(2**30, 1), (0, 5)])
def test_waiting_passes_run_once_and_others_once_per_layer(held, passes):
    network, source = tiny_network(), noise_source(count=128, image_shape=(1, 8, 8), seed=1)
    student, record = cut_down(network)
    calls = []
    network.body.stem.register_forward_hook(lambda *_: calls.append(1))
    refit(network, student, record, source, held_bytes=held)
    # Two batches, and once the two images that tell in what order layers run.
    assert len(calls) == 2 * passes + 1


def test_a_layer_that_runs_twice_is_fitted_by_passes_that_begin_anew():
    torch.manual_seed(0)
    shared = nn.Linear(6, 6)
    first = nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 6)
    body = nn.Sequential(*first, shared, nn.ReLU(), nn.Sequential(shared), nn.Linear(6, 2))
    network = ImageNetwork(body, image_shape=(1, 4, 4))
    kept, record = cut(body, probe(body, torch.zeros(2, 1, 4, 4)), {"1": [0, 2, 3, 5]})
    source = noise_source(count=64, image_shape=(1, 4, 4), seed=0)
    student = network.with_body(kept)
    found, anew = (refit(network, student, record, source, held_bytes=held) for held in (2**30, 0))
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), anew.parameters(), strict=True))
    assert not torch.equal(found.body[4].weight, shared.weight)
    assert clean(network)


@pytest.mark.parametrize("after", [False, True])
def test_another_way_is_refused_and_nothing_is_left_behind(after):
    network = ImageNetwork(Turning(), image_shape=(1, 2, 2)).eval()
    batches = [torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)]
    with (
        pytest.raises(ReferenceNotFound, match=r"came to layer second .* come to layer first"),
        paced(network, ["first", "second"], batches, after=after) as reach,
    ):
        list(reach("first"))
    assert clean(network)


def test_a_pass_that_ends_early_is_refused():
    network = ImageNetwork(Turning(), image_shape=(1, 2, 2)).eval()
    with paced(network, ["first", "second"], [torch.ones(2, 1, 2, 2)], after=False) as reach:
        for name in ("first", "second"):
            list(reach(name))
        with pytest.raises(ReferenceNotFound, match="came to its end"):
            list(reach("first"))
    assert clean(network)


def test_an_error_of_the_network_is_raised_where_it_is_waited_for():
    network = ImageNetwork(Turning(MemoryError("of the network")), image_shape=(1, 2, 2)).eval()
    batches = [torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)]
    with (
        pytest.raises(MemoryError, match="of the network"),
        paced(network, ["first", "second"], batches, after=True) as reach,
    ):
        list(reach("first"))
    assert clean(network)


def test_an_error_while_passes_wait_ends_them():
    network = tiny_network()
    student, record = cut_down(network)

    def fail(event):
        raise KeyboardInterrupt

    # What is held of the error holds the frames of the refit, so nothing is cleaned up by their end alone.
    with pytest.raises(KeyboardInterrupt) as held:
        refit(network, student, record, noise_source(count=128, image_shape=(1, 8, 8), seed=1), on_event=fail)
    assert clean(network)
    assert held.type is KeyboardInterrupt


def test_what_else_runs_meanwhile_goes_by():
    network = ImageNetwork(Turning(), image_shape=(1, 2, 2)).eval()
    batch = torch.ones(2, 1, 2, 2)
    with torch.no_grad(), paced(network, ["first", "second"], [batch], after=True) as reach:
        (first,) = reach("first")
        whole = network(batch)
        (second,) = reach("second")
    assert torch.equal(second, whole)
    assert not second.requires_grad
    assert torch.equal(first, network.body.first(batch.flatten(1)))
