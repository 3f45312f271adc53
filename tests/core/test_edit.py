"""Records: identity, associativity, JSON, replay equal to hand-made surgery, and errors that name the place."""

import copy
import json
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from reverie.core.edit import Bypass, Edit, Factorize, Keep, Record, replay
from reverie.core.errors import CorruptFile, ReferenceNotFound, ShapeError
from traces import changes, fingerprint, model_trace

CUT = Keep(
    {
        "0.weight": {0: (0, 2, 5)},
        "0.bias": {0: (0, 2, 5)},
        **{f"1.{name}": {0: (0, 2, 5)} for name in ("weight", "bias", "running_mean", "running_var")},
        "5.weight": {1: (0, 2, 5)},
    },
    {"0.out_channels": 3, "1.num_features": 3, "5.in_features": 3},
)

names = st.text("abc.", min_size=1, max_size=5)
keeps = st.builds(
    Keep,
    st.dictionaries(names, st.dictionaries(st.integers(0, 3), st.lists(st.integers(0, 99)).map(tuple)), max_size=3),
    st.dictionaries(names, st.integers(0, 99) | st.lists(st.integers(0, 99)).map(tuple), max_size=3),
)
edits = keeps | st.builds(Bypass, st.lists(names, max_size=3).map(tuple)) | st.builds(Factorize, names, st.integers(1))
records = st.builds(Record, st.lists(edits, max_size=3).map(tuple))


@given(records, records, records)
def test_records_compose(a: Record, b: Record, c: Record) -> None:
    assert (a + b) + c == a + (b + c)
    assert a + Record() == a == Record() + a
    assert (a + b).edits == (*a.edits, *b.edits)


@given(records)
def test_records_survive_json(record: Record) -> None:
    assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_the_empty_record_is_the_identity(small_net: nn.Module) -> None:
    copied = replay(Record(), small_net)
    assert copied is not small_net
    assert fingerprint(copied) == fingerprint(small_net)


def test_a_cut_keeps_the_slices_it_says(small_net: nn.Module) -> None:
    before = model_trace(small_net)
    cut = replay(Record((CUT,)), small_net).eval()
    assert changes(before, model_trace(small_net)) == []

    # The oracle: the smaller network built by hand, and its tensors filled by plain indexing.
    by_hand = nn.Sequential(
        nn.Conv2d(3, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 4),
    )
    full, keep = small_net.state_dict(), [0, 2, 5]
    by_hand.load_state_dict(
        {
            name: value[:, keep]
            if name == "5.weight"
            else value
            if value.ndim == 0 or name == "5.bias"
            else value[keep]
            for name, value in full.items()
        }
    )
    assert fingerprint(cut) == fingerprint(by_hand.eval())
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(cut(images), by_hand(images))


def test_kept_parameters_are_parameters_with_their_need_for_gradients(small_net: nn.Module) -> None:
    small_net.get_submodule("0").requires_grad_(False)
    cut = replay(Record((CUT,)), small_net)
    needs = {name: parameter.requires_grad for name, parameter in cut.named_parameters()}
    assert needs == {name: parameter.requires_grad for name, parameter in small_net.named_parameters()}
    assert all(parameter.is_leaf for parameter in cut.parameters())
    assert [name for name, _ in cut.named_buffers()] == [name for name, _ in small_net.named_buffers()]


def test_order_and_repetition_of_indices_are_kept() -> None:
    layer = nn.Linear(3, 2, bias=False)
    turned = replay(Record((Keep({"weight": {1: (2, 0, 2), 0: (1, 0)}}, {"in_features": 3}),)), layer)
    assert torch.equal(turned.get_parameter("weight"), layer.weight[[1, 0]][:, [2, 0, 2]])


def test_replay_in_parts_equals_replay_at_once(small_net: nn.Module) -> None:
    again = Keep({"5.weight": {0: (1, 3)}, "5.bias": {0: (1, 3)}}, {"5.out_features": 2})
    steps: list[Edit] = [CUT, Bypass(("2",)), again]
    whole = replay(Record(tuple(steps)), small_net)
    model = small_net
    for step in steps:
        model = replay(Record((step,)), model)
    assert fingerprint(model) == fingerprint(whole)
    assert whole(torch.rand(2, 3, 8, 8)).shape == (2, 2)


def test_replay_on_a_fresh_model_takes_saved_weights(small_net: nn.Module) -> None:
    record = Record((CUT, Bypass(("2",))))
    edited = replay(record, small_net)
    fresh = copy.deepcopy(small_net)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.normal_()
    rebuilt = replay(Record.from_json(record.to_json()), fresh)
    assert fingerprint(rebuilt) != fingerprint(edited)
    rebuilt.load_state_dict(edited.state_dict())
    assert fingerprint(rebuilt) == fingerprint(edited)


def test_a_bypassed_module_is_the_identity(small_net: nn.Module) -> None:
    bypassed = replay(Record((Bypass(("1", "2")),)), small_net)
    assert isinstance(bypassed.get_submodule("1"), nn.Identity)
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(bypassed(images), small_net[5](small_net[0](images).mean(dim=(2, 3))))  # type: ignore[index]


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (Keep({"9.weight": {0: (0,)}}), ReferenceNotFound, "names module '9', which Sequential lacks"),
        (Keep({"0.scale": {0: (0,)}}), ReferenceNotFound, "cuts 0.scale, but Conv2d holds no such tensor"),
        (Keep({"0.out_channels": {0: (0,)}}), ReferenceNotFound, "cuts 0.out_channels, but Conv2d holds no such"),
        (Keep({}, {"0.wide": 3}), ReferenceNotFound, "sets 0.wide, but Conv2d has no wide"),
        (Keep({"0.weight": {0: (1, 6)}}), ShapeError, "index 6 of 0.weight dimension 0, which has 6"),
        (Keep({"0.weight": {0: (-1,)}}), ShapeError, "index -1 of 0.weight dimension 0, which has 6"),
        (Keep({"0.weight": {4: (0,)}}), ShapeError, "cuts dimension 4 of 0.weight, which has 4 dimensions"),
        (Keep({"0.weight": {4: ()}}), ShapeError, "cuts dimension 4 of 0.weight, which has 4 dimensions"),
        (Keep({"0.weight": {-1: (0,)}}), ShapeError, "cuts dimension -1 of 0.weight, which has 4 dimensions"),
        (Bypass(("7",)), ReferenceNotFound, "names module '7', which Sequential lacks"),
        (Bypass(("",)), ReferenceNotFound, "bypasses all of Sequential"),
    ],
)
def test_a_record_of_another_network_is_refused(
    small_net: nn.Module, edit: Edit, error: type[Exception], message: str
) -> None:
    before = model_trace(small_net)
    with pytest.raises(error, match=message):
        replay(Record((CUT, edit)) if edit.__class__ is Bypass else Record((edit,)), small_net)
    assert changes(before, model_trace(small_net)) == []


@pytest.mark.parametrize(
    "damaged",
    [
        {},
        {"format": 2, "edits": []},
        {"format": 1},
        {"format": 1, "edits": 3},
        {"format": 1, "edits": [{"modules": []}]},
        {"format": 1, "edits": [{"kind": "run", "modules": []}]},
        {"format": 1, "edits": [{"kind": "bypass"}]},
        {"format": 1, "edits": [{"kind": "keep", "slices": {"a": {"x": [0]}}, "attributes": {}}]},
        {"format": 1, "edits": [{"kind": "keep", "slices": {"a": {"0": [None]}}, "attributes": {}}]},
        {"format": 1, "edits": [{"kind": "keep", "slices": [], "attributes": {}}]},
        {"format": 1, "edits": ["keep"]},
        [],
        "text",
    ],
)
def test_a_damaged_record_is_refused(damaged: Mapping[str, Any]) -> None:
    with pytest.raises(CorruptFile, match="the record"):
        Record.from_json(damaged)


def test_records_are_data() -> None:
    record = Record((CUT, Bypass(("2",))))
    assert pickle.loads(pickle.dumps(record)) == record
    with pytest.raises(AttributeError):
        record.edits = ()  # type: ignore[misc]


LAYERS = [
    (nn.Linear(12, 7), (2, 5, 12)),
    (nn.Linear(5, 9, bias=False), (3, 5)),
    (nn.Conv2d(3, 8, 3, stride=2, padding=1, dilation=2), (2, 3, 9, 11)),
    (nn.Conv2d(4, 6, (1, 3), padding="same", padding_mode="reflect", bias=False), (2, 4, 5, 7)),
    (nn.Conv1d(3, 4, 5), (2, 3, 9)),
    (nn.Conv3d(2, 3, 2, padding=1), (1, 2, 4, 4, 4)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda one: type(one).__name__)
def test_a_layer_in_two_of_full_rank_answers_as_before(layer, shape):
    whole = nn.Sequential(layer).double().eval()
    before = fingerprint(whole), torch.get_rng_state()
    rows, columns = layer.weight.flatten(1).shape
    in_two = replay(Record((Factorize("0", min(rows, columns)),)), whole)
    assert (fingerprint(whole), True) == (before[0], torch.equal(torch.get_rng_state(), before[1]))
    assert len(in_two[0]) == 2
    assert not in_two[0].training
    images = torch.rand(shape, dtype=torch.float64)
    torch.testing.assert_close(in_two(images), whole(images), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_what_a_low_rank_leaves_out_is_the_smallest_that_can_be(rank):
    layer = nn.Conv2d(3, 6, 3).double()
    first, second = replay(Record((Factorize("0", rank),)), nn.Sequential(layer))[0]
    product = second.weight.detach().flatten(1) @ first.weight.detach().flatten(1)
    missed = float((layer.weight.detach().flatten(1) - product).square().sum())
    # The sum of the smallest eigenvalues of W W^T, by another algorithm than singular values.
    matrix = layer.weight.detach().flatten(1)
    assert missed == pytest.approx(float(torch.linalg.eigvalsh(matrix @ matrix.T)[: 6 - rank].sum()))
    assert first.weight.shape[0] == second.weight.shape[1] == rank


def test_a_layer_in_two_keeps_what_training_needs_and_loads_on_meta():
    net = nn.Sequential(nn.Linear(6, 4).half())
    net[0].weight.requires_grad_(False)
    first, second = replay(Record((Factorize("0", 2),)), net)[0]
    assert first.weight.dtype == second.weight.dtype == torch.float16
    assert not first.weight.requires_grad
    assert second.bias.requires_grad
    assert (first.out_features, second.in_features, second.out_features) == (2, 2, 4)
    bare = replay(Record((Factorize("0", 2),)), nn.Sequential(nn.Linear(6, 4)).to("meta"))[0]
    assert bare[0].weight.is_meta
    assert bare[0].weight.shape == first.weight.shape


@pytest.mark.parametrize(
    ("edit", "error", "words"),
    [
        (Factorize("1", 2), ReferenceNotFound, "'1', which is ReLU and no plain linear layer"),
        (Factorize("2", 1), ReferenceNotFound, "'2', which is Conv2d and no plain"),
        (Factorize("0", 0), ShapeError, "0 at rank 0, and its matrix is 4 x 9"),
        (Factorize("0", 5), ShapeError, "0 at rank 5, and its matrix is 4 x 9"),
        (Factorize("gone", 1), ReferenceNotFound, "'gone'"),
    ],
)
def test_what_cannot_be_factorized_is_named(edit, error, words):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(error, match=words):
        replay(Record((edit,)), net)
