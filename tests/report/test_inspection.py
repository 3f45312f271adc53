"""What a network is made of, in numbers worked by hand."""

import json

import torch
from torch import nn

from reverie.core.events import Event, Listener
from reverie.core.network import ImageNetwork
from reverie.report.inspection import inspect, inspection_text, layers_table, sites_table


def _network() -> ImageNetwork:
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
    return ImageNetwork(body, image_shape=(3, 4, 4))


def test_every_site_and_layer_is_listed() -> None:
    found = inspect(_network(), latency=False)
    assert [tuple(map(str, row)) for row in sites_table(found).rows] == [
        ("0", "8", "1 layer", "1 layer", "yes"),
        ("0.weight:1", "3", "0 layers", "1 layer", "no: the network's input"),
        ("3", "5", "1 layer", "0 layers", "no: the network's output"),
    ]
    # 3 * 3 * 3 * 8 products at 2 x 2 places; 32 * 5.
    assert [tuple(map(str, row)) for row in layers_table(found).rows] == [
        ("0", "conv 3x3", "3 to 8", "2 x 2", "864 MAC"),
        ("3", "linear", "32 to 5", "", "160 MAC"),
    ]


def test_the_json_adds_up() -> None:
    value = json.loads(json.dumps(inspect(_network(), latency=False).to_json()))
    assert value["macs"] == 864 + 160 == sum(layer["macs"] for layer in value["layers"])
    assert value["parameters"] == 3 * 9 * 8 + 8 + 32 * 5 + 5
    assert value["unknown"] == []


def test_one_sentence_says_the_whole() -> None:
    assert inspection_text(inspect(_network(), latency=False)).startswith("images 3 x 4 x 4, 389 parameters, 1.56 KB")


def test_layers_are_timed_where_asked(heard: tuple[list[Event], Listener]) -> None:
    events, listen = heard
    found = inspect(_network(), latency=True, on_event=listen)
    assert list(dict.fromkeys(event.stage for event in events)) == ["reading the network", "measuring layers"]
    assert found.latencies.keys() == {0, 1}
    assert all(latency.measured for latency in found.latencies.values())


def test_the_network_is_as_it_was() -> None:
    network = _network().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    inspect(network, latency=False)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
