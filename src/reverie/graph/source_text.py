"""Recorded operations as lines of Python, with sizes restated for a cut and for any batch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from reverie.core.errors import UnsupportedOp
from reverie.graph.coupling import Axis
from reverie.graph.moves import segment_start
from reverie.graph.rules import Analysis
from reverie.graph.trace import Call, Trace, Value

__all__ = ["Sizes", "write_forward"]

_RESHAPES = {"view", "_unsafe_view", "reshape", "expand", "_reshape_alias", "view_copy", "expand_copy"}
_FACTORIES = {"zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "rand", "randn"}
_DEVICE = "device"


class Sizes:
    """What sizes become: of units by the cut, of batches by comparison of two recordings.

    Args:
        analysis: Of the first recording.
        widths: Atom -> units that are kept.
        one: A recording.
        other: The same with a batch that is larger by one.
        batch: Examples in `one`.
    """

    def __init__(self, analysis: Analysis, widths: Mapping[int, int], one: Trace, other: Trace, batch: int) -> None:
        if [call.op for call in one.calls] != [call.op for call in other.calls]:
            raise UnsupportedOp(
                "the network performs other operations on another batch size, so it cannot be written out as one list. "
                "Cut it with `cut`, or move the decision out of the forward pass."
            )
        self._analysis = analysis
        self._widths = widths
        self._batch = batch
        self._shapes = {
            value.index: (value.shape, twin.shape)
            for first, second in zip(one.calls, other.calls, strict=True)
            for value, twin in zip((*first.inputs, *first.outputs), (*second.inputs, *second.outputs), strict=True)
        }
        self._twins = dict(zip(map(id, one.calls), other.calls, strict=True))

    def rows(self, axis: Axis) -> int:
        """Rows of an axis after the cut."""
        return self._analysis.coupling.size(axis, self._widths)

    def shape(self, value: Value) -> list[int | str]:
        """The shape of a tensor after the cut; what grows with the batch is text in `n`."""
        axes = self._analysis.axes.get(value.index)
        before, other = self._shapes[value.index]
        after = [self.rows(axis) for axis in axes] if axes is not None else list(before)
        return [self.number(size, first, second) for size, first, second in zip(after, before, other, strict=True)]

    def number(self, after: int, before: int, other: int) -> int | str:
        """A size, as text in `n` where it was another number in the larger batch."""
        if before == other:
            return after
        per_example = after // self._batch
        return "n" if per_example == 1 else f"{per_example} * n"

    def twin(self, call: Call) -> Call:
        """The same operation in the larger batch."""
        return self._twins[id(call)]

    def axes(self, value: Value) -> tuple[Axis, ...]:
        """The axes of a tensor, or none where no rule described them."""
        return self._analysis.axes.get(value.index, ())

    def split(self, axis: Axis, at: int) -> Axis | None:
        """The first rows of an axis."""
        parts = self._analysis.coupling.split(axis, at)
        return None if parts is None else parts[0]

    def blocks(self, axis: Axis, rows: int) -> int | None:
        """How many blocks of that many rows an axis is made of after the cut; None where blocks do not line up."""
        found = 0
        for term in self._analysis.coupling.resolve(axis):
            before = after = 1
            for factor in reversed(term):
                if before == rows:
                    break
                part: Axis = factor if isinstance(factor, tuple) else ((factor,),)
                before, after = before * self._analysis.coupling.size(part), after * self.rows(part)
            if before != rows:
                return None
            found += self.rows((term,)) // after
        return found


def write_forward(trace: Trace, analysis: Analysis, sizes: Sizes) -> list[str]:
    """The lines of a `forward` method.

    Args:
        trace: What the network does.
        analysis: What the rules say about it.
        sizes: What its sizes become.

    Raises:
        UnsupportedOp: An operation reads a tensor that is neither stored by name, nor given, nor computed.
    """
    names = {value.index: f'p["{name}"]' for name, value in trace.tensors.items()}
    given = [f"input{index}" for index in range(len(trace.inputs))]
    names.update({value.index: name for value, name in zip(trace.inputs, given, strict=True)})
    groups = {id(note.call): sizes.rows(note.groups) for note in analysis.layers}
    lines = [
        f"    def forward(self, {', '.join(given)}):",
        "        p = dict(self.named_parameters()) | dict(self.named_buffers())",
        f"        n = {given[0]}.shape[0]",
    ]
    module: str | None = None
    for index, call in enumerate(trace.calls):
        if call.module != module:
            module = call.module
            lines.append(f"        # {module or 'the network itself'}")
        for value in call.inputs:
            if value.index not in names:
                raise UnsupportedOp(
                    f"{call} reads a tensor that is no parameter, buffer, input or result. Register it as a buffer."
                )
        arguments = _arguments(call, sizes, groups)
        made = [f"x{index}"] if len(call.outputs) == 1 else [f"x{index}_{part}" for part in range(len(call.outputs))]
        names.update({value.index: name for value, name in zip(call.outputs, made, strict=True)})
        call_text = _text(call, arguments, names, given[0])
        lines.append(f"        {_target(call, made)} = {call_text}")
    answers = [names[value.index] for value in trace.outputs]
    lines.append(f"        return {answers[0] if len(answers) == 1 else ', '.join(answers)}")
    return lines


def _target(call: Call, made: Sequence[str]) -> str:
    """What stands left of the equals sign; results that are no tensors are dropped."""
    returns = call.op._schema.returns
    if len(returns) == 1:
        return f"[{', '.join(made)}]" if isinstance(returns[0].type, torch.ListType) else made[0]
    if len(returns) == len(made):
        return ", ".join(made)
    tensors = ["Tensor" in str(one.type) for one in returns]
    left = iter(made)
    return ", ".join(next(left) if is_tensor else "_" for is_tensor in tensors)


def _arguments(call: Call, sizes: Sizes, groups: Mapping[int, int]) -> dict[str, Any]:
    """The arguments of an operation after the cut; numbers that grow with the batch are text."""
    found: dict[str, Any] = {}
    twin = sizes.twin(call)
    for name, value in call.arguments.items():
        found[name] = _for_any_batch(value, twin.arguments[name], sizes)
    name = call.op.overloadpacket.__name__
    if name in _RESHAPES or name in _FACTORIES:
        found["size"] = [_written(one) for one in sizes.shape(call.outputs[0])]
    elif name in ("split_with_sizes", "unsafe_split_with_sizes", "split", "unsafe_split"):
        dim = call.arguments["dim"] % len(call.outputs[0].shape)
        parts = [_written(sizes.shape(one)[dim]) for one in call.outputs]
        found["split_sizes" if "with_sizes" in name else "split_size"] = parts if "with_sizes" in name else parts[0]
    elif name == "slice":
        found.update(_slice(call, sizes))
    elif name in ("native_layer_norm", "_fused_rms_norm"):
        count = len(call.arguments["normalized_shape"])
        found["normalized_shape"] = sizes.shape(call.arguments["input"])[-count:]
    elif name == "native_group_norm":
        found.update(_group_norm(call, sizes))
    elif name == "convolution":
        stated = call.arguments["groups"]
        found["groups"] = _written(sizes.number(groups.get(id(call), stated), stated, twin.arguments["groups"]))
    elif "scaled_dot_product" in name and call.arguments.get("scale") is None:
        # Of the original width: the surviving parts of a query meet as they met before.
        found["scale"] = 1 / math.sqrt(call.arguments["query"].shape[-1])
    return found


def _for_any_batch(value: Any, other: Any, sizes: Sizes) -> Any:  # noqa: ANN401  arguments are of any kind
    """An argument, numbers that are others in the larger batch as text in `n`."""
    if isinstance(value, list | tuple) and isinstance(other, list | tuple) and len(value) == len(other):
        return [_for_any_batch(one, twin, sizes) for one, twin in zip(value, other, strict=True)]
    if isinstance(value, int) and isinstance(other, int) and not isinstance(value, bool):
        return _written(sizes.number(value, value, other))
    return value


def _slice(call: Call, sizes: Sizes) -> dict[str, Any]:
    data, made = call.arguments["self"], call.outputs[0]
    dim = call.arguments["dim"] % len(data.shape)
    if made.shape[dim] == data.shape[dim] or call.arguments["step"] != 1 or not sizes.axes(data):
        return {}
    start = segment_start(call.arguments["start"], data.shape[dim])
    before = sizes.split(sizes.axes(data)[dim], start)
    length = sizes.shape(made)[dim]
    if before is None or isinstance(length, str):
        return {}
    first = sizes.rows(before)
    return {"start": first, "end": first + length}


def _group_norm(call: Call, sizes: Sizes) -> dict[str, Any]:
    batch, channels, *_ = sizes.shape(call.arguments["input"])
    stated = call.arguments["group"]
    groups = sizes.blocks(sizes.axes(call.arguments["input"])[1], call.arguments["C"] // stated)
    return {"N": _written(batch), "C": channels, "group": stated if groups is None else groups}


class _Text(str):
    """Text that stands for a number, written without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _written(size: int | str) -> int | _Text:
    return size if isinstance(size, int) else _Text(size)


def _text(call: Call, arguments: Mapping[str, Any], names: Mapping[int, str], first_input: str) -> str:
    """The call as Python, arguments that have their default left out."""
    parts = []
    gap = False
    for argument in call.op._schema.arguments:
        value = arguments[argument.name]
        if argument.has_default_value() and _same(value, argument.default_value):
            gap = True
            continue
        written = f"{first_input}.device" if argument.name == _DEVICE else _value(value, names)
        parts.append(f"{argument.name}={written}" if gap or argument.kwarg_only else written)
    overload = call.op._overloadname
    namespace = f"torch.ops.{call.op.namespace}" if call.op.namespace != "aten" else "aten"
    return f"{namespace}.{call.op.overloadpacket.__name__}.{overload}({', '.join(parts)})"


def _same(value: Any, default: Any) -> bool:  # noqa: ANN401  arguments are of any kind
    return type(value) is type(default) and not isinstance(value, Value) and bool(value == default)


def _value(value: Any, names: Mapping[int, str]) -> str:  # noqa: ANN401  arguments are of any kind
    if isinstance(value, Value):
        return names[value.index]
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(one, names) for one in value)}]"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, torch.dtype | torch.layout | torch.memory_format):
        return str(value)
    if isinstance(value, torch.device):
        return repr(str(value))
    return repr(value)
