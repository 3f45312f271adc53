import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from reverie.core.errors import CorruptFile, MissingExtra, RangeError, ReferenceNotFound, ShapeError
from reverie.core.network import ImageNetwork
from reverie.cost import layer_graph, torch_backend
from reverie.cost.backends import BACKENDS, backend_of
from reverie.cost.latency import LatencyTable, measure_networks
from reverie.cost.layer_graph import LayerShape
from reverie.cost.onnx import export_onnx
from reverie.cost.openvino import OpenVino
from reverie.cost.torch_backend import Torch, _Layers

CONV = LayerShape("conv", 16, 16, (3, 3), (1, 1), (1, 1), (1, 1), input_size=(14, 14), activation="relu")
IMAGES = np.zeros((1, 1, 16, 16), np.float32)


def network(width):
    body = [nn.Conv2d(1, width, 3, padding=1), nn.ReLU()]
    for _ in range(3):
        body += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return ImageNetwork(nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten()), image_shape=(1, 16, 16))


@pytest.fixture(scope="module")
def networks():
    return network(64), network(32)


@pytest.fixture(params=["onnxruntime", "openvino", "torch"])
def backend(request):
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="needs the extra openvino")
    return backend_of(request.param)


def test_networks_are_timed_beside_the_teacher(backend, networks):
    teacher, half = networks
    before = torch.get_num_threads()
    timings = measure_networks(
        {"teacher": teacher, "half": half}, (1, 16, 16), backend=backend, tolerance=0.05, seconds=2.0
    )
    assert timings["teacher"].ratio_median == 1.0
    assert 0.1 < timings["half"].ratio_median < 0.85
    assert torch.get_num_threads() == before


def test_layers_are_timed_and_kept_apart_by_runtime(backend, tmp_path):
    table = LatencyTable(tmp_path / "latency.json", backend=backend)
    large = replace(CONV, in_channels=64, out_channels=64)
    table.measure([CONV, large])
    assert table.milliseconds(large) > 2 * table.milliseconds(CONV)
    assert 0 < table.overhead() < 0.5
    again = LatencyTable(tmp_path / "latency.json", backend=backend)
    assert (again.latency(large), again.overhead()) == (table.latency(large), table.overhead())
    with pytest.raises(ReferenceNotFound, match="measure"):
        LatencyTable(tmp_path / "latency.json", threads=7).milliseconds(CONV)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch"])
def test_a_runtime_has_a_thread(name):
    if name == "openvino":
        pytest.importorskip("openvino")
    with pytest.raises(RangeError, match="threads must be at least 1, got 0"):
        backend_of(name, threads=0)


def test_every_environment_says_runtime_threads_and_processor():
    made = [backend_of(name, threads=2) for name in ("onnxruntime", "torch")]
    assert len({one.environment for one in made}) == 2
    for one in made:
        assert "2 threads" in one.environment
        assert "float32" in one.environment


@pytest.mark.parametrize(
    "shape",
    [
        CONV,
        replace(CONV, adds=True, stride=(2, 2)),
        LayerShape("depthwise", 8, 16, (3, 3), (1, 1), (1, 1), (1, 1), groups=8, input_size=(5, 5)),
        LayerShape("transposed", 8, 6, (3, 3), (2, 2), (1, 1), (1, 1), 2, (5, 4), adds=True, output_padding=(1, 0)),
        LayerShape("linear", 12, 20, activation="gelu"),
        LayerShape("linear", 12, 20, input_size=(7,), adds=True),
    ],
)
def test_a_layer_of_torch_has_the_shape_it_is_asked_for(shape):
    layers = _Layers(shape, 2)
    found = layers(*layers.examples())
    sides = shape.output_size
    expected = (1, *sides, shape.out_channels) if shape.kind == "linear" else (1, shape.out_channels, *sides)
    assert found.shape == expected
    assert layers.weight.shape[0] == 2


def test_torch_knows_every_activation_that_a_layer_may_have():
    assert torch_backend.ACTIVATIONS.keys() == layer_graph.ACTIVATIONS.keys()


@pytest.mark.nightly
def test_a_compiled_network_is_timed(networks):
    backend = backend_of("torch-compile")
    assert "compiled" in backend.environment
    backend.network(networks[1], IMAGES)()


def test_what_is_missing_is_named(monkeypatch):
    with pytest.raises(ReferenceNotFound, match=", ".join(BACKENDS)):
        backend_of("tensorrt")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"reverie\[openvino\]"):
        OpenVino()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingExtra, match="no CUDA device"):
        backend_of("cuda")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingExtra, match=r"C\+\+ compiler"):
        backend_of("torch-compile")
    assert set(BACKENDS) == {"onnxruntime", "openvino", "torch", "torch-compile", "cuda"}


def test_files_that_cannot_be_served(networks):
    pytest.importorskip("openvino", reason="needs the extra openvino")
    with pytest.raises(CorruptFile, match="OpenVINO cannot load"):
        OpenVino().network(b"nonsense", IMAGES)
    with pytest.raises(ShapeError, match="Give the network itself"):
        Torch().network(export_onnx(networks[1]), IMAGES)
