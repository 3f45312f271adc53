import logging
import warnings

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from reverie.core.errors import CorruptFile, NotWritable, VerificationFailed
from reverie.core.network import ImageNetwork
from reverie.cost.onnx import check_onnx, export_onnx, run_onnx, session


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)) + x)


def small_network():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 4, 3), Block(), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 36, 5))
    body[1].norm.running_mean.uniform_()
    return ImageNetwork(body, image_shape=(1, 8, 8), mean=[0.3], std=[0.4])


@pytest.fixture(scope="module")
def exported():
    network = small_network()
    return network, export_onnx(network)


def test_logits_equal_pytorch_at_batches_of_1_and_7(exported):
    network, model = exported
    images = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    assert check_onnx(model, network, images) < 1e-5
    assert run_onnx(session(model, threads=2), images.numpy()).shape == (7, 5)


def test_names_batch_and_contents_of_the_file(exported):
    _, model = exported
    graph = onnx.load_from_string(model)
    onnx.checker.check_model(graph)
    (inputs,), (outputs,) = graph.graph.input, graph.graph.output
    assert (inputs.name, outputs.name) == ("images", "logits")
    shape = [dim.dim_param or dim.dim_value for dim in inputs.type.tensor_type.shape.dim]
    assert shape == ["n", 1, 8, 8]
    assert not any(tensor.external_data for tensor in graph.graph.initializer)
    # Stack traces would carry the exporting machine's paths.
    assert b"site-packages" not in model
    assert b".py" not in model


def test_export_leaves_no_trace_and_says_nothing(tmp_path, capfd):
    network = small_network()
    network.body[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    state, level = torch.random.get_rng_state(), logging.getLogger("torch.onnx").level
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        content = export_onnx(network, tmp_path / "made" / "model.onnx")
    assert caught == []
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "made" / "model.onnx").read_bytes() == content
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(state, torch.random.get_rng_state())
    assert logging.getLogger("torch.onnx").level == level


def test_another_network_fails_the_check(exported):
    network, model = exported
    other = small_network()
    with torch.no_grad():
        other.body[4].bias[2] += 0.01
    with pytest.raises(VerificationFailed, match=r"differs from the network by 0\.01"):
        check_onnx(model, other, torch.rand(3, 1, 8, 8))
    assert check_onnx(model, network, torch.rand(3, 1, 8, 8)) < 1e-5


def test_values_that_are_not_finite_fail_the_check(exported):
    network, model = exported
    with pytest.raises(VerificationFailed, match="nan"):
        check_onnx(model, network, torch.full((2, 1, 8, 8), torch.nan))


def test_a_file_of_one_batch_size_fails_the_check(exported):
    network, model = exported
    fixed = onnx.load_from_string(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    with pytest.raises(VerificationFailed, match=r"does not run 1 images \(.*Export it with a free batch"):
        check_onnx(fixed.SerializeToString(), network, torch.rand(4, 1, 8, 8))


def test_a_file_that_is_no_model_is_corrupt(exported):
    with pytest.raises(CorruptFile, match="Export it again"):
        session(exported[1][:500])


def test_a_path_that_cannot_be_written(tmp_path, exported):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritable):
        export_onnx(exported[0], tmp_path / "file" / "model.onnx")


def test_normalization_is_inside(exported):
    network, model = exported
    image = np.full((1, 1, 8, 8), 0.3, np.float32)
    with torch.no_grad():
        expected = network.body.eval()(torch.zeros(1, 1, 8, 8)).numpy()
    np.testing.assert_allclose(run_onnx(session(model), image), expected, atol=1e-5)
