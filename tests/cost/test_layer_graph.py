from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from reverie.compress.latencies import layer_shape
from reverie.core.errors import RangeError, UnsupportedOp
from reverie.cost.layer_graph import ACTIVATIONS, LayerShape, layer_graph
from reverie.cost.onnx import session
from reverie.graph import probe

CONV = LayerShape("conv", 16, 24, (3, 3), (2, 2), (1, 1), (1, 1), input_size=(9, 7), activation="relu")
DEPTHWISE = LayerShape("depthwise", 32, 32, (5, 5), (1, 1), (2, 2), (1, 1), groups=32, input_size=(8, 8))
LINEAR = LayerShape("linear", 12, 20, activation="relu")
TRANSPOSED = LayerShape(
    "transposed", 16, 24, (4, 4), (2, 2), (1, 1), (1, 1), groups=2, input_size=(9, 7), output_padding=(1, 0)
)


def test_sizes_worked_by_hand():
    assert CONV.output_size == (5, 4)
    assert CONV.macs == 5 * 4 * 24 * 16 * 9
    assert DEPTHWISE.macs == 8 * 8 * 32 * 25
    assert TRANSPOSED.output_size == (19, 14)
    assert TRANSPOSED.macs == 9 * 7 * 24 * 8 * 16
    assert replace(LINEAR, input_size=(7,), batch=2).macs == 2 * 7 * 12 * 20


def test_keys_tell_every_difference():
    varied = [
        CONV,
        replace(CONV, in_channels=32),
        replace(CONV, out_channels=32),
        replace(CONV, kernel=(1, 1), padding=(0, 0)),
        replace(CONV, stride=(1, 1)),
        replace(CONV, padding=(2, 2)),
        replace(CONV, dilation=(2, 2)),
        replace(CONV, groups=8),
        replace(CONV, input_size=(7, 9)),
        replace(CONV, batch=2),
        replace(CONV, adds=True),
        replace(CONV, activation=None),
        replace(CONV, activation="silu"),
        LINEAR,
        DEPTHWISE,
        TRANSPOSED,
        replace(TRANSPOSED, kind="conv", output_padding=()),
        replace(TRANSPOSED, output_padding=()),
    ]
    assert len({shape.key for shape in varied}) == len(varied)


@pytest.mark.parametrize(
    "shape",
    [
        CONV,
        DEPTHWISE,
        replace(CONV, adds=True),
        replace(CONV, batch=3, dilation=(2, 2)),
        TRANSPOSED,
        replace(TRANSPOSED, adds=True, dilation=(2, 2)),
    ],
)
def test_a_convolution_graph_computes_the_layer(shape):
    graph = layer_graph(shape, copies=2)
    (found,) = session(graph.model).run(None, graph.feeds)
    weights = {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in onnx.load_from_string(graph.model).graph.initializer
    }
    x = torch.from_numpy(graph.feeds["input"])
    ends = []
    carried = (
        torch.nn.functional.conv2d(torch.from_numpy(graph.feeds["seed"]), weights["seed.weight"]) if shape.adds else 0
    )
    for index in range(2):
        weight, bias = weights[f"layer{index}.weight"], weights[f"layer{index}.bias"]
        settings = {"padding": shape.padding, "dilation": shape.dilation, "groups": shape.groups}
        if shape.kind == "transposed":
            y = torch.nn.functional.conv_transpose2d(
                x, weight, bias, shape.stride, output_padding=shape.output_padding or 0, **settings
            )
        else:
            y = torch.nn.functional.conv2d(x, weight, bias, shape.stride, **settings)
        assert tuple(y.shape[2:]) == shape.output_size
        y = y + carried
        y = torch.relu(y) if shape.activation else y
        carried = y if shape.adds else 0
        ends.append(y[:, :, :1, :1])
    expected = ends[-1] if shape.adds else torch.cat(ends, dim=1)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (torch.nn.ConvTranspose2d(8, 4, 4, 2, 1), 5),
        (torch.nn.ConvTranspose2d(10, 6, 4), 1),
        (torch.nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1, groups=8), 5),
    ],
)
def test_a_transposed_convolution_is_timed_as_what_it_is(layer, size):
    (found,) = probe(layer, torch.zeros(1, layer.in_channels, size, size)).layers
    shape = layer_shape(found, found.in_channels, found.out_channels, found.groups)
    assert (shape.kind, shape.output_size, shape.macs) == ("transposed", found.output_size, found.macs)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_every_activation_runs_after_every_kind(activation):
    for shape in (CONV, LINEAR, replace(LINEAR, adds=True)):
        graph = layer_graph(replace(shape, activation=activation), copies=1)
        onnx.checker.check_model(onnx.load_from_string(graph.model))
        session(graph.model).run(None, graph.feeds)


@pytest.mark.parametrize("adds", [False, True])
def test_the_runtime_fuses_it_as_in_a_network(tmp_path, adds):
    graph = layer_graph(replace(CONV, adds=adds), copies=3)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert "Relu" not in kinds
    assert "Add" not in kinds
    assert sum("Conv" in kind for kind in kinds) == 3 + adds


def test_wrong_shapes_are_named():
    with pytest.raises(UnsupportedOp, match="'mish' after a conv"):
        replace(CONV, activation="mish")
    with pytest.raises(RangeError, match="5 groups"):
        replace(CONV, groups=5)
    with pytest.raises(RangeError, match="larger than the padded input"):
        replace(CONV, input_size=(1, 1), padding=(0, 0))
    with pytest.raises(RangeError, match="the padding takes away all of the output"):
        replace(TRANSPOSED, padding=(12, 1))
    with pytest.raises(RangeError, match="at least one channel"):
        replace(LINEAR, in_channels=0)
