"""From axes to plain data: name the groups, list their slices, and describe the layers."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from math import prod
from typing import Any, Literal

from reverie.graph.coupling import Axis, Place
from reverie.graph.rules import KERNEL, POSITION, Analysis, LayerNote
from reverie.graph.scales import Rows
from reverie.graph.structure import Group, Layer, Rescale, Role, Slice, Structure, Width
from reverie.graph.trace import Call, Trace, Value

__all__ = ["describe"]

_NORMS = {"native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "miopen_batch_norm"}
_MOVES = {"view", "_unsafe_view", "clone"}
_ACTIVATIONS = {
    "relu", "hardtanh", "clamp_min", "clamp", "leaky_relu", "_prelu_kernel", "elu", "silu", "gelu", "mish", "sigmoid",
    "hardsigmoid", "hardswish", "tanh", "softplus",
}  # fmt: skip


def describe(trace: Trace, analysis: Analysis) -> tuple[Structure, dict[str, int]]:
    """The structure without its branches, and the atom behind each group."""
    names = [_layer_name(note, analysis) for note in analysis.layers]
    members = _members(trace, analysis, names)
    group_names = _group_names(analysis, names, members)
    crossed, scaled = _crossed(analysis), _scaled(analysis)
    groups = tuple(
        _group(group_names[atom], analysis.coupling.reason(atom), parts, crossed.get(atom), scaled.get(atom, ()))
        for atom, parts in members.items()
    )
    widths = _Widths(analysis, group_names)
    describer = _LayerDescriber(trace, analysis, widths)
    layers = tuple(describer.layer(name, note) for name, note in zip(names, analysis.layers, strict=True))
    touched = {part.tensor for group in groups for part in group.slices}
    shapes = {name: value.shape for name, value in trace.tensors.items() if name in touched}
    structure = Structure(groups, layers, (), tuple(analysis.unknown), shapes, trace.aliases)
    return structure, {group_names[atom]: atom for atom in members}


def _layer_name(note: LayerNote, analysis: Analysis) -> str:
    """The module that owns the weight, which may be another than the one that uses it."""
    name = analysis.stored(note.weight)
    return note.call.module if name is None else name.rpartition(".")[0] or name


def _members(trace: Trace, analysis: Analysis, names: Sequence[str]) -> dict[int, tuple[list[Slice], list[Slice]]]:
    """Atom -> its slices of tensors and of attributes, in the order in which the forward pass meets the tensors."""
    coupling = analysis.coupling
    made: dict[str, set[int]] = {}
    for name, note in zip(names, analysis.layers, strict=True):
        made.setdefault(name, set()).update(set(coupling.atoms(note.outgoing)) - set(coupling.atoms(note.groups)))
    first_use: dict[int, int] = {}
    for index, call in enumerate(trace.calls):
        for value in call.inputs:
            first_use.setdefault(value.index, index)
    ordered = sorted(trace.tensors.items(), key=lambda item: first_use.get(item[1].index, len(trace.calls)))
    members: dict[int, tuple[list[Slice], list[Slice]]] = {}
    for name, value in ordered:
        owner = name.rpartition(".")[0] or name
        for dim, axis in enumerate(analysis.axes[value.index]):
            for place in coupling.places(axis):
                reason = coupling.reason(place.atom)
                is_part = place.block > 1 or place.outer or place.offset
                if reason == KERNEL or (reason == POSITION and is_part):
                    continue
                role: Role = "follow"
                if (name, dim) in analysis.consumed:
                    role = "consume"
                elif (name, dim) in analysis.produced or place.atom in made.get(owner, ()):
                    role = "produce"
                members.setdefault(place.atom, ([], []))[0].append(_slice(analysis, name, dim, place, role))
    for (path, index), axis in analysis.attributes.items():
        for place in coupling.places(axis):
            if place.atom in members:
                members[place.atom][1].append(_slice(analysis, path, index, place, "follow"))
    crossed = _crossed(analysis)
    parameters = {name for name, _ in trace.model.named_parameters()}
    for atom, (slices, _) in members.items():
        if not any(part.role == "produce" for part in slices):
            slices[:] = _stored(trace, slices, parameters)
        _freeze_unproven(analysis, atom, slices, is_crossed=atom in crossed)
    return members


def _crossed(analysis: Analysis) -> dict[int, str]:
    """Atom -> the first operation that runs across its units."""
    found: dict[int, str] = {}
    for axis, reason in analysis.crossed:
        for atom in analysis.coupling.atoms(axis):
            found.setdefault(atom, reason)
    return found


def _scaled(analysis: Analysis) -> dict[int, tuple[Rescale, ...]]:
    """Atom -> what makes up for a number that the code computes from a width with this atom in it."""
    found: dict[int, dict[Rows, dict[int, float]]] = {}
    for scale in analysis.scales.values():
        for atom in analysis.coupling.free(scale.axis):
            for one in scale.sources:
                powers = found.setdefault(atom, {}).setdefault(one, {})
                powers[scale.product] = powers.get(scale.product, 0.0) + scale.power
    # A layer that runs twice makes up for the number in each of its products, by being scaled once.
    return {
        atom: tuple(Rescale(one.tensor, one.rows, next(iter(powers.values()))) for one, powers in parts.items())
        for atom, parts in found.items()
    }


def _stored(trace: Trace, slices: Sequence[Slice], parameters: Collection[str]) -> list[Slice]:
    """Slices of units that no layer makes: where they are stored as such, like learned tokens, that is what makes them.

    Vectors do not count: a bias or a scale has no meaning without what it is added to.
    """
    return [
        replace(part, role="produce")
        if part.role == "follow" and part.tensor in parameters and len(trace.tensors[part.tensor].shape) > 1
        else part
        for part in slices
    ]


def _freeze_unproven(analysis: Analysis, atom: int, slices: Sequence[Slice], *, is_crossed: bool) -> None:
    axis: Axis = ((atom,),)
    if slices[0].units == 1:
        analysis.coupling.freeze(axis, "a single unit")
    elif not any(part.role == "produce" for part in slices):
        analysis.coupling.freeze(axis, "no layer makes these units")
    elif not any(part.role == "consume" for part in slices) and not is_crossed:
        analysis.coupling.freeze(axis, "no layer sums over these units, so nothing shows what they are worth")


def _slice(analysis: Analysis, tensor: str, dim: int, place: Place, role: Role) -> Slice:
    units = analysis.coupling.size(((place.atom,),))
    return Slice(tensor, dim, units, place.offset, place.block, place.outer, role)


def _group(
    name: str,
    frozen: str | None,
    parts: tuple[Sequence[Slice], Sequence[Slice]],
    crossed: str | None,
    rescales: tuple[Rescale, ...],
) -> Group:
    slices, attributes = parts

    def owners(role: Role) -> tuple[str, ...]:
        return tuple(
            dict.fromkeys(part.tensor.rpartition(".")[0] or part.tensor for part in slices if part.role == role)
        )

    return Group(
        name,
        slices[0].units,
        tuple(slices),
        tuple(attributes),
        owners("produce"),
        owners("consume"),
        frozen,
        crossed=crossed,
        rescales=rescales,
    )


def _group_names(
    analysis: Analysis, names: Sequence[str], members: dict[int, tuple[list[Slice], list[Slice]]]
) -> dict[int, str]:
    """Atom -> the first layer that makes it, with the rows where it makes other units too."""
    coupling = analysis.coupling
    found: dict[int, str] = {}
    for name, note in zip(names, analysis.layers, strict=True):
        made = set(coupling.atoms(note.outgoing)) - set(coupling.atoms(note.groups))
        places = coupling.places(note.outgoing)
        for place in places:
            if place.atom in made and place.atom in members and place.atom not in found:
                found[place.atom] = name if len(places) == 1 else f"{name}[{_rows(coupling.size, place)}]"
    taken: set[str] = set()
    result = {}
    for atom, (slices, _) in members.items():
        first = slices[0]
        name = found.get(atom, f"{first.tensor}:{first.dim}")
        if name in taken:
            name = f"{name}[{first.tensor}:{first.dim}:{first.offset}:{first.block}]"
        taken.add(name)
        result[atom] = name
    return result


def _rows(size: Any, place: Place) -> str:  # noqa: ANN401  a bound method
    """Which rows, as `first:last + 1`, with `%` and `//` giving the unit of a row where units are not single rows."""
    units = size(((place.atom,),))
    span = units * place.block + sum((count - 1) * stride for count, stride in place.outer)
    text = f"{place.offset}:{place.offset + span}"
    text += f"%{units * place.block}" if place.outer else ""
    return text + (f"//{place.block}" if place.block > 1 else "")


class _Widths:
    """Axes as `Width`s."""

    def __init__(self, analysis: Analysis, names: dict[int, str]) -> None:
        self._coupling = analysis.coupling
        self._names = names

    def __call__(self, axis: Axis) -> Width:
        return self._width(self._coupling.resolve(axis))

    def _width(self, axis: Axis) -> Width:
        return Width(tuple(tuple(self._factor(factor) for factor in term) for term in axis))

    def _factor(self, factor: int | Axis) -> tuple[str | None, int] | Width:
        if isinstance(factor, int):
            return self._names.get(factor), self._coupling.size(((factor,),))
        return self._width(factor)


class _LayerDescriber:
    """Turns notes of layers into `Layer`s."""

    def __init__(self, trace: Trace, analysis: Analysis, widths: _Widths) -> None:
        self._widths = widths
        self._analysis = analysis
        self._batch = trace.inputs[0].shape[0]
        self._users: dict[int, list[Call]] = {}
        for call in trace.calls:
            for value in call.inputs:
                self._users.setdefault(value.index, []).append(call)

    def layer(self, name: str, note: LayerNote) -> Layer:
        size = self._analysis.coupling.size
        is_conv = note.kind == "conv"
        arguments = note.call.arguments
        kernel = note.weight.shape[2:] if is_conv else ()
        is_transposed = is_conv and arguments["transposed"]
        groups = size(note.groups)
        incoming, outgoing = size(note.incoming), size(note.outgoing)
        places = prod((note.input if is_transposed else note.output).shape)
        wide = (note.output if is_transposed else note.input).shape[1] if is_conv else incoming
        kind: Literal["conv", "depthwise", "transposed", "linear"] = "conv" if is_conv else "linear"
        if is_conv and groups > 1 and groups == incoming:
            kind = "depthwise"
        if is_transposed:
            kind = "transposed"
        adds, activation = self._after(note.output)
        return Layer(
            name=name,
            kind=kind,
            incoming=self._widths(note.incoming),
            outgoing=self._widths(note.outgoing),
            grouping=self._widths(note.groups),
            in_channels=incoming,
            out_channels=outgoing,
            kernel=tuple(kernel),
            stride=_each(arguments["stride"], len(kernel)) if is_conv else (),
            padding=_each(arguments["padding"], len(kernel)) if is_conv else (),
            dilation=_each(arguments["dilation"], len(kernel)) if is_conv else (),
            groups=groups,
            input_size=note.input.shape[2:] if is_conv else self._rows(note.input),
            output_size=note.output.shape[2:] if is_conv else self._rows(note.output),
            macs=places * wide // groups * prod(kernel) // self._batch,
            adds=adds,
            activation=activation,
        )

    def _rows(self, value: Value) -> tuple[int, ...]:
        rows = prod(value.shape[:-1]) // self._batch
        return (rows,) if rows > 1 else ()

    def _after(self, value: Value) -> tuple[bool, str | None]:
        """Whether a value goes straight into an addition of feature maps, and the activation it goes straight into."""
        while True:
            users = self._users.get(value.index, [])
            if len(users) != 1:
                return False, None
            call = users[0]
            op = call.op.overloadpacket.__name__.rstrip("_")
            if op == "add" and len(call.inputs) == 2:
                other = call.inputs[1] if call.inputs[0] == value else call.inputs[0]
                if all(self._analysis.birth(axis) is None for axis in self._analysis.axes[other.index]):
                    return True, None
            elif op in _ACTIVATIONS:
                return False, op
            elif op not in _NORMS | _MOVES:
                return False, None
            value = call.outputs[0]


def _each(given: Sequence[int], count: int) -> tuple[int, ...]:
    return tuple(given) if len(given) == count else tuple(given) * count
