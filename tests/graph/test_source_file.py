"""Networks whose code states widths as numbers: written out as source, equal to their survivors, free of Reverie."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from graph.networks import CASES, example, lively, some_kept
from reverie.core.edit import Record
from reverie.core.errors import RangeError, ShapeError, UnsupportedOp, VerificationFailed
from reverie.graph import probe
from reverie.graph.oracle import surviving
from reverie.graph.source_file import as_source, loose_structure, save_source
from traces import global_trace, model_trace


class Stated(nn.Module):
    """Numbers wherever a network can state them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(4, 8, 1)
        self.norm = nn.GroupNorm(2, 16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.head = nn.Linear(16 * 4, 5)
        self.register_buffer("gain", torch.rand(16))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        left, right = torch.split(x, [8, 4], 1)
        x = torch.cat([self.left(left), self.right(right)], 1)
        x = self.norm(x) + torch.zeros(x.shape[0], 16, 1, 1)
        tokens = x.view(-1, 16, 64).transpose(1, 2) * self.gain
        q, k, v = self.qkv(tokens).reshape(-1, 64, 3, 4, 4).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-2, -1) * 4**-0.5).softmax(-1) @ v
        tokens = tokens + self.out(mixed.transpose(1, 2).reshape(-1, 64, 16))
        return self.head(tokens.view(-1, 8, 8, 16)[:, ::4, ::4].reshape(-1, 64))


def kept_of(net: nn.Module, batch: Tensor) -> dict[str, list[int]]:
    return {group.name: some_kept(group.units, i) for i, group in enumerate(loose_structure(net, batch).free)}


def test_stated_numbers_are_restated():
    net, batch = lively(Stated()), torch.randn(2, 3, 8, 8)
    strict, loose = probe(net, batch), loose_structure(net, batch)
    assert {group.name for group in strict.free} < {group.name for group in loose.free}
    kept = kept_of(net, batch)
    before = model_trace(net), global_trace()
    source = as_source(net, batch, kept)
    assert (model_trace(net), global_trace()) == before
    small = source.build()
    assert sum(p.numel() for p in small.parameters()) < 0.7 * sum(p.numel() for p in net.parameters())
    for count in (1, 2, 5):
        images = torch.randn(count, 3, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(small(images), surviving(net, source.record, images), rtol=1e-5, atol=1e-5)
    assert source.difference <= 1e-5


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_small_network_can_be_written_out(case):
    net, batch = lively(case.build()), example(case)
    source = as_source(net, batch, kept_of(net, batch))
    with torch.no_grad():
        torch.testing.assert_close(source.build()(batch), surviving(net, source.record, batch), rtol=1e-5, atol=1e-5)


def test_with_nothing_removed_it_is_the_network_itself():
    net, batch = lively(Stated()), torch.randn(2, 3, 8, 8)
    source = as_source(net, batch, {})
    assert source.record.edits[0].slices == {}
    with torch.no_grad():
        torch.testing.assert_close(source.build()(batch), net(batch), rtol=1e-5, atol=1e-6)
    assert source.tensors.keys() == net.state_dict().keys()


def test_a_process_without_reverie_runs_what_was_saved(tmp_path: Path):
    net, batch = lively(Stated()), torch.randn(3, 3, 8, 8)
    source = as_source(net, batch, kept_of(net, batch))
    save_source(source, tmp_path)
    save_file({"x": batch}, tmp_path / "input.safetensors")
    program = """
import sys
sys.path.insert(0, ".")
sys.modules["reverie"] = None
import torch
from safetensors.torch import load_file, save_file
from network import Network
network = Network().eval()
network.load_state_dict(load_file("model.safetensors"))
with torch.no_grad():
    save_file({"y": network(load_file("input.safetensors")["x"])}, "answer.safetensors")
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    with torch.no_grad():
        assert torch.equal(load_file(tmp_path / "answer.safetensors")["y"], source.build()(batch))
    # Not the record of a network that `reverie.load` builds: that file has another name.
    assert not (tmp_path / "record.json").exists()
    said = json.loads((tmp_path / "network.json").read_text())
    assert said["source"]["file"] == "network.py"
    assert "states widths as numbers" in said["source"]["why"]
    assert said["source"]["largest_difference"] <= 1e-5
    assert Record.from_json(said["record"]) == source.record


def test_the_text_needs_pytorch_alone_and_keeps_the_names():
    net, batch = lively(Stated()), torch.randn(2, 3, 8, 8)
    source = as_source(net, batch, {"stem[0:8]": [0, 1, 2]})
    imports = [line for line in source.text.splitlines() if line.startswith(("import", "from"))]
    assert imports == ["import torch", "from torch import nn"]
    small = source.build()
    assert set(small.state_dict()) == set(net.state_dict())
    assert [name for name, _ in small.named_parameters()] == [name for name, _ in net.named_parameters()]
    assert small.state_dict()["left.weight"].shape == (8, 3, 1, 1)
    assert torch.equal(small.state_dict()["left.weight"], net.left.weight[:, [0, 1, 2]])


class Held(nn.Module):
    """Keeps a tensor that is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.table = nn.Linear(3, 4), nn.Linear(4, 2), torch.rand(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) * self.table)


class Counting(nn.Module):
    """Does other things to other batches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.first(x)
        return self.last(inner.relu() if len(x) > 2 else inner)


@pytest.mark.parametrize(
    ("net", "message"),
    [(Held(), "reads a tensor that is no parameter"), (Counting(), "performs other operations on another batch size")],
    ids=["held", "counting"],
)
def test_what_cannot_be_written_out_is_named(net: nn.Module, message: str):
    with pytest.raises(UnsupportedOp, match=message):
        as_source(net, torch.randn(2, 3), {"first": [0, 1]})


def test_a_wrong_result_is_not_handed_over(monkeypatch: pytest.MonkeyPatch):
    from reverie.graph import source_file

    net, batch = lively(Stated()), torch.randn(2, 3, 8, 8)
    honest = source_file.write_forward

    def forgetful(*arguments: object) -> list[str]:
        return [line.replace("aten.relu.default(x0)", "x0") for line in honest(*arguments)]

    monkeypatch.setattr(source_file, "write_forward", forgetful)
    with pytest.raises(VerificationFailed, match="answers differently from its surviving units"):
        as_source(net, batch, {"stem[0:8]": [0, 1, 2]})

    stops = ["    def forward(self, x):", "        return x @ x[0, 0, 0, :3]"]
    monkeypatch.setattr(source_file, "write_forward", lambda *_: stops)
    with pytest.raises(VerificationFailed, match="the result does not run"):
        as_source(net, batch, {})


def test_an_argument_without_a_batch_is_refused():
    with pytest.raises(ShapeError, match=r"the example has shape \(\).*its first dimension the batch"):
        as_source(Counting(), (torch.randn(2, 3), torch.tensor(0.5)), {"first": [0]})


def test_frozen_groups_stay_whole():
    with pytest.raises(RangeError, match="cannot remove units of last"):
        as_source(Counting(), torch.randn(2, 3), {"last": [0]})
