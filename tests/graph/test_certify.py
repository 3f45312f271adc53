"""The certificate passes what is right and freezes what is not: structures and rules broken on purpose."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graph.networks import Dense, Grouped, Normed, Shuffled, lively
from reverie.graph import RULES, Slice, Step, Structure, certify, cut, permute, probe, surviving
from reverie.graph.coupling import ONE
from reverie.graph.numeric import distance, outputs
from reverie.zoo.networks import CifarResNet
from traces import global_trace, model_trace

aten = torch.ops.aten


def images(size: int = 8) -> Tensor:
    return torch.randn(2, 3, size, size)


def broken(structure: Structure, group: str, change: Callable[[Slice], Slice | None]) -> Structure:
    """The structure with one group's slices changed, or dropped where `change` gives None."""
    slices = [change(part) for part in structure.group(group).slices]
    wrong = replace(structure.group(group), slices=tuple(part for part in slices if part is not None))
    return replace(structure, groups=tuple(wrong if one.name == group else one for one in structure.groups))


def test_permuting_all_slices_keeps_the_output_and_permuting_the_producers_moves_it():
    net = lively(CifarResNet(blocks=1, widths=(6, 8, 10))).double()
    batch = images().double()
    structure = probe(net.float(), images())
    net = net.double()
    orders = {group.name: [*range(1, group.units), 0] for group in structure.free}
    wanted = outputs(net, batch)
    assert distance(outputs(permute(net, structure, orders), batch), wanted) < 1e-9
    for group in structure.free:
        moved = permute(net, structure, {group.name: orders[group.name]}, roles=("produce",))
        assert distance(outputs(moved, batch), wanted) > 1e-4, group.name


def drop(ending: str) -> Callable[[Slice], Slice | None]:
    return lambda part: None if part.tensor.endswith(ending) else part


@pytest.mark.parametrize(
    "change",
    [
        drop("bn1.bias"),
        drop("bn1.running_mean"),
        drop("conv2.weight"),
        lambda part: replace(part, units=3) if part.role == "consume" else part,
    ],
    ids=["bias forgotten", "mean forgotten", "consumer forgotten", "units forgotten"],
)
def test_a_wrong_slice_freezes_its_group_and_no_other(change):
    net = CifarResNet(blocks=1, widths=(6, 8, 10))
    structure = broken(probe(net, images()), "layer1.0.conv1", change)
    certified = certify(net, structure, images())
    assert set(certified.frozen) - set(structure.frozen) == {"layer1.0.conv1"}
    assert certified.frozen["layer1.0.conv1"].startswith("not certified: ")


def test_a_shifted_slice_is_found():
    net = Dense()
    structure = probe(net, images())

    def shift(part: Slice) -> Slice:
        return replace(part, offset=3) if part.tensor == "third.weight" else part

    assert "second" in certify(net, broken(structure, "second", shift), images()).frozen


def test_several_failing_groups_are_found_one_by_one():
    net = CifarResNet(blocks=2, widths=(6, 8, 10))
    structure = probe(net, images())
    wrong = ["layer1.1.conv1", "layer3.0.conv1"]
    for group in wrong:
        structure = broken(structure, group, drop("bn1.weight"))
    assert set(certify(net, structure, images()).frozen) == {"conv1.weight:1", "linear", *wrong}


class Silent(nn.Module):
    """Multiplies one layer's features by zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.dead = nn.Conv2d(3, 6, 1)
        self.last = nn.Conv2d(4, 4, 1)
        self.lost = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x)) + 0 * self.lost(self.dead(x))


def test_a_group_that_moves_nothing_is_not_certified():
    net = Silent()
    frozen = certify(net, probe(net, images()), images()).frozen
    assert frozen["dead"] == "not certified: the output does not depend on these units"
    assert "first" not in frozen


def test_certifying_leaves_no_trace():
    net = CifarResNet(blocks=1, widths=(6, 8, 10)).train()
    batch = images()
    structure = probe(net, batch)
    before = model_trace(net), global_trace()
    certify(net, structure, batch)
    assert (model_trace(net), global_trace()) == before


class Rolled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.last = nn.Conv2d(8, 4, 1)

    def mix(self, x: Tensor) -> Tensor:
        return x.roll(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.mix(F.relu(self.first(x))))


class Softened(Rolled):
    def mix(self, x: Tensor) -> Tensor:
        return x.softmax(1)


class Averaged(Rolled):
    def mix(self, x: Tensor) -> Tensor:
        return x - x.mean(1, keepdim=True)


class Layered(Rolled):
    def mix(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.transpose(1, 3), (x.shape[1],)).transpose(1, 3)


class Twice(Rolled):
    """Concatenates two layers of one width."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([F.relu(self.first(x)), torch.tanh(self.second(x))], 1))


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.last = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.adaptive_avg_pool2d(F.relu(self.first(x)), 2).flatten(1))


def reverse_cat(step: Step) -> None:
    inputs = [step.axes(value) for value in reversed(step["tensors"])]
    step.emit((inputs[0][0], step.coupling.concat(*(axes[1] for axes in inputs)), *inputs[0][2:]))


def flatten_the_other_way(step: Step) -> None:
    if len(step.call.outputs[0].shape) == 2:
        batch, channels, *space = step.axes(step["self"])
        step.emit((batch, step.coupling.product(*space, channels)))
    else:
        RULES[aten.view](step)


def forget_coupling(step: Step) -> None:
    step.emit(step.axes(step.call.inputs[0]))


def reduce_freely(step: Step) -> None:
    batch, _, *space = step.axes(step["self"])
    step.emit((batch, ONE, *space))


def swap_groups(step: Step) -> None:
    """A grouped convolution whose input is taken to be members x groups."""
    if step["groups"] == 1:
        RULES[aten.convolution](step)
        return
    first, second, *_ = step.axes(step["weight"])
    groups = step.coupling.atom(step["groups"])
    made = step.coupling.atom(step.coupling.size(first) // step["groups"])
    step.couple(first, step.coupling.product(made, groups))
    step.couple(step.axes(step["input"])[1], step.coupling.product(second, groups))
    step.couple(step.axes(step["bias"])[0], step.coupling.product(made, groups))
    step.consume(second)
    step.emit((step.fixed(2), first, *(step.fixed(size) for size in step.call.outputs[0].shape[2:])))


def free_group_norm(step: Step) -> None:
    axes = step.axes(step["input"])
    for name in ("weight", "bias"):
        step.couple(step.axes(step[name])[0], axes[1])
    step.emit(axes)


def split_in_pairs(step: Step) -> None:
    """Halves taken to be even and odd units."""
    axes = step.axes(step["self"])
    half = step.coupling.atom(step.coupling.size(axes[1]) // 2)
    step.couple(axes[1], step.coupling.product(half, step.fixed(2)))
    step.emit(*[(axes[0], half, *axes[2:])] * 2)


def shuffle_the_other_way(step: Step) -> None:
    axes = step.axes(step["self"])
    shape = step.call.outputs[0].shape
    kept = step.coupling.atom(shape[1])
    step.couple(axes[1], step.coupling.product(step.fixed(step["upscale_factor"] ** 2), kept))
    step.emit((axes[0], kept, *(step.fixed(size) for size in shape[2:])))


def forget_the_bias(step: Step) -> None:
    axes = step.axes(step["input"])
    step.couple(step.axes(step["weight"])[0], axes[1])
    step.emit(axes)


@dataclass(frozen=True)
class Mutation:
    """A rule that is wrong, and a network on which it matters."""

    name: str
    op: object
    rule: Callable[[Step], None]
    build: Callable[[], nn.Module]
    size: int = 8


MUTATIONS = [
    Mutation("concatenation reversed", aten.cat, reverse_cat, Twice),
    Mutation("flatten the other way", aten.view, flatten_the_other_way, Flat),
    Mutation("addition couples nothing", aten.add, forget_coupling, lambda: CifarResNet(blocks=1, widths=(6, 6, 6))),
    Mutation("roll moves nothing", aten.roll, forget_coupling, Rolled),
    Mutation("softmax mixes nothing", aten._softmax, forget_coupling, Softened),
    Mutation("mean mixes nothing", aten.mean, reduce_freely, Averaged),
    Mutation("layer norm mixes nothing", aten.native_layer_norm, forget_coupling, Layered),
    Mutation("group norm mixes nothing", aten.native_group_norm, free_group_norm, Normed, 4),
    Mutation("groups swapped with members", aten.convolution, swap_groups, Grouped),
    Mutation("halves are pairs", aten.split, split_in_pairs, Shuffled),
    Mutation("pixel shuffle the other way", aten.pixel_shuffle, shuffle_the_other_way, Normed, 4),
    Mutation("bias forgotten", aten.native_batch_norm, forget_the_bias, lambda: CifarResNet(widths=(4, 4, 4))),
    Mutation("transpose forgotten", aten.transpose, forget_coupling, Shuffled),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_broken_rule_is_caught(mutation: Mutation):
    net = lively(mutation.build())
    batch = images(mutation.size)
    right = claims(certify(net, probe(net, batch), batch))
    probed = probe(net, batch, rules=dict(RULES) | {mutation.op: mutation.rule})
    assert claims(probed) != right, "the mutation changes nothing on this network"
    certified = certify(net, probed, batch)
    assert claims(certified) <= right
    small, record = cut(net, certified, {group.name: range(1, group.units) for group in certified.free})
    with torch.no_grad():
        torch.testing.assert_close(small(batch), surviving(net, record, batch), rtol=1e-5, atol=1e-5)


def claims(structure: Structure) -> set[tuple[object, ...]]:
    """What a structure says may go, and how."""
    return {(group.slices, group.crossed is None) for group in structure.free}


class Sized(nn.Module):
    """Large images are shifted by what small ones never meet, and by a number that is no width."""

    def __init__(self, *, stated: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.stated = stated

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if x.shape[-1] > 6 and self.stated:
            x = x + torch.ones(8, 1, 1, dtype=x.dtype)
        return self.last(x).mean((2, 3))


def test_what_only_other_sizes_of_the_input_meet_is_found():
    batch = torch.randn(2, 3, 5, 5)
    for stated in (False, True):
        net = Sized(stated=stated).eval()
        found = certify(net, probe(net, batch), batch)
        reason = "not certified: with an input of another size a cut does not follow"
        assert found.frozen.get("first") == (reason if stated else None)
