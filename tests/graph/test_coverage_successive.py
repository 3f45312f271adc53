"""Cut, look again, cut again: records of successive cuts compose, and what they say is what was done."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import reverie.bench.loader
from graph.networks import CASES, example, lively, some_kept
from reverie.bench.kinds import OTHERS
from reverie.core.edit import Bypass, Keep, Record, Scale, replay
from reverie.core.errors import ShapeError
from reverie.graph import bypass, certify, cut, probe
from reverie.graph.oracle import surviving

SUBJECTS = [one for one in OTHERS if one.name in ("dit", "conv-gru", "token-decoder")]


def cut_thrice(net: nn.Module, batch: object) -> tuple[list[nn.Module], list[Record]]:
    """The network and what three cuts in a row left of it, with the record of each."""
    models, records = [net], []
    for turn in range(3):
        structure = certify(models[-1], probe(models[-1], batch), batch)
        kept = {group.name: some_kept(group.units, turn) for group in structure.free}
        small, record = cut(models[-1], structure, kept)
        models.append(small)
        records.append(record)
    return models, records


def same(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def check(net: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    models, (first, second, third) = cut_thrice(net, inputs if len(inputs) > 1 else inputs[0])
    assert (first + second) + third == first + (second + third)
    whole = first + second + third
    assert len(whole.edits) >= 2
    assert same(replay(whole, net), models[-1])
    assert same(replay(second + third, models[1]), models[-1])
    merged = whole.merged()
    assert sum(isinstance(edit, Keep) for edit in merged.edits) == 1
    assert same(replay(merged, net), models[-1])
    back = Record.from_json(json.loads(json.dumps(merged.to_json())))
    assert same(replay(back, net), models[-1])
    with torch.no_grad():
        wanted = surviving(net, whole, *inputs)
        torch.testing.assert_close(models[-1](*inputs), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(surviving(net, merged, *inputs), wanted, rtol=0, atol=0)
    sizes = [sum(tensor.numel() for tensor in model.parameters()) for model in models]
    assert sizes[0] > sizes[-1]
    # Groups that are down to one unit stay as they are.
    assert all(one >= other for one, other in pairwise(sizes))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_three_cuts_of_a_small_network(case):
    check(lively(case.build()), (example(case),))


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_three_cuts_of_other_kinds(subject):
    check(lively(subject.build()), subject.example())


def test_the_empty_record_is_neutral():
    record = Record((Keep({"0.weight": {0: (1,)}}),))
    assert Record() + record == record + Record() == record
    assert Record().merged() == Record()
    net = nn.Sequential(nn.Linear(2, 2))
    assert same(replay(Record(), net), net)


def test_merging_keeps_the_order_around_what_is_bypassed():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)).eval()
    first = Keep({"0.weight": {0: (3, 1, 0)}, "0.bias": {0: (3, 1, 0)}, "1.weight": {1: (3, 1, 0)}})
    again = Keep({"0.weight": {0: (2, 0)}, "0.bias": {0: (2, 0)}, "1.weight": {1: (2, 0)}})
    record = Record((first, again, Bypass(("1",)), Keep({"2.weight": {1: (0, 2)}})))
    merged = record.merged()
    assert [type(edit).__name__ for edit in merged.edits] == ["Keep", "Bypass", "Keep"]
    assert merged.edits[0].slices["0.weight"] == {0: (0, 3)}
    x = torch.randn(4, 3)
    assert torch.equal(replay(merged, net)(x), replay(record, net)(x))


def test_what_is_scaled_between_two_cuts_is_scaled_before_both():
    net = nn.Linear(3, 6)
    record = Record(
        (Keep({"weight": {0: (5, 2, 4), 1: (0, 2)}}), Scale({"weight": (0, 2)}, 3.0), Keep({"weight": {0: (2,)}}))
    )
    merged = record.merged()
    assert merged.edits == (Scale({"weight": (5, 4)}, 3.0), Keep({"weight": {0: (4,), 1: (0, 2)}}))
    assert torch.equal(replay(merged, net).weight, replay(record, net).weight)
    assert torch.equal(replay(merged, net).weight, 3 * net.weight[[4]][:, [0, 2]])


def test_a_tensor_of_two_names_is_scaled_once():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    scaled = replay(Record((Scale({"0.weight": (0,), "1.weight": (0,)}, 2.0),)), net)
    assert torch.equal(scaled[0].weight[0], 2 * net[0].weight[0])
    assert scaled[0].weight is scaled[1].weight


def test_a_cut_of_what_is_gone_is_refused():
    record = Record((Keep({"weight": {0: (1, 3)}}), Keep({"weight": {0: (2,)}})))
    with pytest.raises(ShapeError, match="keeps 2 rows of weight, and then row 2 of those"):
        record.merged()


def test_a_cut_and_a_bypass_compose():
    net = lively(CASES[0].build())
    batch = example(CASES[0])
    structure = probe(net, batch)
    small, record = cut(net, structure, {group.name: range(2) for group in structure.free})
    shorter, more = bypass(small, structure, [structure.branches[0].module])
    assert same(replay(record + more, net), shorter)
    assert same(replay((record + more).merged(), net), shorter)


def test_the_documented_reader_replays_successive_cuts_in_a_fresh_process(tmp_path: Path):
    subject = next(one for one in OTHERS if one.name == "nerf")
    net, inputs = lively(subject.build()), subject.example()
    models, records = cut_thrice(net, inputs[0])
    page = (Path(__file__).parents[2] / "docs" / "loading_without_reverie.md").read_text()
    reader = Path(reverie.bench.loader.__file__).read_text().split('"""\n\n', 1)[1]
    assert f"```python\n{reader}```" in page
    assert len(reader.splitlines()) <= 40
    record = records[0] + records[1] + records[2]
    value = {"origin": {"factory": "x", "arguments": {}}, "record": record.to_json()}
    (tmp_path / "record.json").write_text(json.dumps(value))
    save_file({name: one.clone() for name, one in models[-1].state_dict().items()}, tmp_path / "model.safetensors")
    save_file({"x": inputs[0]}, tmp_path / "input.safetensors")
    source = Path(sys.modules["reverie.bench.kinds.implicit"].__file__ or "").read_text()
    (tmp_path / "fields.py").write_text(source)
    (tmp_path / "reader.py").write_text(reader)
    program = """
import sys
sys.modules["reverie"] = None
sys.path.insert(0, ".")
from fields import Nerf
from reader import load_file, rebuild, torch
from safetensors.torch import save_file
network = rebuild(".", Nerf)
with torch.no_grad():
    save_file({"y": network(load_file("input.safetensors")["x"])}, "answer.safetensors")
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    with torch.no_grad():
        assert torch.equal(load_file(tmp_path / "answer.safetensors")["y"], models[-1](*inputs))
