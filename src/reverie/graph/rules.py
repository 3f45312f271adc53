"""Rules: how each operation couples the axes of its tensors. One table, open to new operations.

A rule reads a `Step` and says which axes are equal, which are consumed, which cannot change, and what the axes of the
outputs are. An operation without a rule is never guessed: all its axes are frozen, and the reason names it and its
layer. Pointwise operations need no entry, PyTorch marks them itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

from reverie.graph.coupling import ONE, Axis, Coupling
from reverie.graph.scales import Rows
from reverie.graph.trace import Call, Trace, Value

__all__ = ["KERNEL", "POSITION", "RULES", "Analysis", "LayerNote", "Rule", "Scale", "Step", "analyze", "register_rule"]

Rule: TypeAlias = Callable[["Step"], None]
Packet: TypeAlias = torch._ops.OpOverloadPacket

KERNEL = "a kernel position"
"""Reason of axes that are no units of anything; they are not listed."""

POSITION = "positions, not units"
"""Reason of heights, widths and the like; listed only where they are a whole axis of a parameter."""

RULES: dict[Packet | str, Rule] = {}


def register_rule(*ops: Packet | str) -> Callable[[Rule], Rule]:
    """Add a rule for operations, or replace the one there is.

    Args:
        ops: ATen or custom operations, such as `torch.ops.aten.relu`; those of a library that may not be installed by
            name, such as `"torchvision::roi_align"`.

    Example:
        >>> from reverie.graph.aten import elementwise
        >>> @register_rule(torch.ops.aten.special_erfcx)
        ... def rule(step: Step) -> None:
        ...     elementwise(step)
        >>> torch.ops.aten.special_erfcx in RULES
        True
    """

    def register(rule: Rule) -> Rule:
        for op in ops:
            RULES[op] = rule
        return rule

    return register


@dataclass(frozen=True)
class LayerNote:
    """A convolution or linear layer as a rule saw it; `groups` is the axis of a convolution's groups."""

    kind: str
    call: Call
    weight: Value
    input: Value
    output: Value
    incoming: Axis
    outgoing: Axis
    groups: Axis


@dataclass(frozen=True)
class Scale:
    """A number that code computes as a power of a width.

    Attributes:
        axis: Whose size it is a power of.
        power: Which.
        product: Number of the operation in which it ends up.
        sources: The parameters that make up for it.
    """

    axis: Axis
    power: float
    product: int
    sources: tuple[Rows, ...]


@dataclass(eq=False)
class Analysis:
    """What the rules found.

    Attributes:
        coupling: The axes' algebra.
        axes: Value index -> its axes.
        consumed: (tensor, dimension) pairs over which a layer sums its input.
        produced: (tensor, dimension) pairs whose positions are units that a layer makes.
        crossed: Axes that an operation runs across, computed anew over what stays, each with that operation.
        attributes: ("module.attribute", place in it) -> the axis whose size it states; a plain number has place 0.
        scales: Number of an operation -> from which width the code computes its fraction, and what makes up for it.
        layers: Convolutions and linear layers in order.
        unknown: Operations without a rule, each as "op in layer".
        births: Axis of a parameter or buffer, by its own name -> (tensor, dimension).
    """

    coupling: Coupling = field(default_factory=Coupling)
    axes: dict[int, tuple[Axis, ...]] = field(default_factory=dict)
    consumed: set[tuple[str, int]] = field(default_factory=set)
    produced: set[tuple[str, int]] = field(default_factory=set)
    crossed: list[tuple[Axis, str]] = field(default_factory=list)
    attributes: dict[tuple[str, int], Axis] = field(default_factory=dict)
    scales: dict[int, Scale] = field(default_factory=dict)
    layers: list[LayerNote] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    births: dict[Axis, tuple[str, int]] = field(default_factory=dict)

    def birth(self, axis: Axis) -> tuple[str, int] | None:
        """The (tensor, dimension) that an axis is, if it came from there by moves alone: rules resolve all others."""
        return self.births.get(axis)

    def stored(self, value: Value) -> str | None:
        """The parameter or buffer that a value is, perhaps moved; None where it is computed."""
        births = (self.birth(axis) for axis in self.axes.get(value.index, ()))
        return next((born[0] for born in births if born is not None), None)


class Step:
    """One operation, as its rule sees it.

    Attributes:
        call: The operation with its arguments.
        coupling: The axes' algebra, for `concat`, `product`, `split` and `atom`.

    Example:
        >>> @register_rule(torch.ops.aten.special_i1e)
        ... def keeps_every_axis(step: Step) -> None:
        ...     step.emit(step.axes(step["self"]))
        >>> torch.ops.aten.special_i1e in RULES
        True
    """

    def __init__(self, call: Call, trace: Trace, analysis: Analysis) -> None:
        self.call = call
        self.coupling = analysis.coupling
        self._trace = trace
        self._analysis = analysis

    def __getitem__(self, argument: str) -> Any:  # noqa: ANN401  arguments are of any kind
        """An argument by the name it has in the operation's schema; tensors are `Value`s."""
        return self.call.arguments[argument]

    def axes(self, value: Value) -> tuple[Axis, ...]:
        """The axes of a tensor. One that no rule has described is frozen: it comes from outside the network's state."""
        known = self._analysis.axes.get(value.index)
        if known is None:
            reason = f"{self.call} reads a tensor that is no parameter, buffer or result of a rule"
            known = self._analysis.axes[value.index] = tuple(
                self.coupling.atom(size, frozen=reason) for size in value.shape
            )
        return known

    def couple(self, left: Axis, right: Axis) -> None:
        """These two axes are one, position by position."""
        self.coupling.couple(left, right, str(self.call))

    def freeze(self, axis: Axis, why: str) -> None:
        """No unit of this axis may go; `why` completes "op in layer ..."."""
        self.coupling.freeze(axis, f"{self.call} {why}")

    def fixed(self, size: int) -> Axis:
        """A new axis of positions, such as height or batch, that is no axis of units."""
        return self.coupling.atom(size, frozen=POSITION)

    def consume(self, *axes: Axis) -> None:
        """The operation sums over these axes, which are coupled: one of the data, one of the weights.

        Where one belongs to a parameter, zeroing there equals removing. Else the weights are computed, as in attention,
        and no parameter says what a unit is worth to the sum.
        """
        for axis in axes:
            born = self._analysis.birth(axis)
            if born is not None:
                self._analysis.consumed.add(born)
                return
        for axis in axes:
            self.cross(axis, "sums over these units with weights that are computed")

    def produce(self, *axes: Axis) -> None:
        """The positions of these axes of parameters are units that the operation makes, as a layer's rows are."""
        for axis in axes:
            born = self._analysis.birth(axis)
            if born is not None:
                self._analysis.produced.add(born)

    def cross(self, axis: Axis, why: str) -> None:
        """The operation runs across this axis, as a normalization does; units may go, it is then computed without them.

        A cut is then no mask: what stays changes. `why` completes "op in layer ...".
        """
        self._analysis.crossed.append((axis, f"{self.call} {why}"))

    def is_stored(self, value: Value) -> bool:
        """Whether a tensor is a parameter or buffer, perhaps moved, but not computed."""
        axes = [axis for axis in self.axes(value) if axis != ONE]
        return bool(axes) and all(self._analysis.birth(axis) is not None for axis in axes)

    def names_parameter(self, axis: Axis) -> bool:
        """Whether an axis is a whole axis of a parameter or buffer, reached by moves alone."""
        return self._analysis.birth(axis) is not None

    def emit(self, *outputs: tuple[Axis, ...]) -> None:
        """State the axes of the outputs, in order.

        Fewer than there are may be given: by-products, such as indices, are frozen should anyone read them.
        """
        self.emit_moved(*(tuple(self.coupling.resolve(axis) for axis in axes) for axes in outputs))

    def emit_moved(self, *outputs: tuple[Axis, ...]) -> None:
        """The same where every output holds elements of the one input: a moved parameter is still that parameter."""
        for value, axes in zip(self.call.outputs, outputs, strict=False):
            self._analysis.axes[value.index] = axes

    def attribute(self, axis: Axis, *names: str) -> None:
        """The running module's attributes of these names state the size of this axis, where they have that value.

        Of a tuple, the first such place that no other axis has taken. Where code folds the batch into the axis, they
        may state the size of the rest.
        """
        part = self.coupling.free_part(axis)
        for name in names:
            path = f"{self.call.module}.{name}" if self.call.module else name
            for index, size in enumerate(self._trace.attribute(self.call.module, name)):
                stated = next((one for one in (axis, part) if self.coupling.size(one) == size), None)
                if stated is not None and (path, index) not in self._analysis.attributes:
                    self._analysis.attributes[path, index] = stated
                    break

    def layer(self, kind: str, weight: Value, data: Value, incoming: Axis, outgoing: Axis, groups: Axis = ONE) -> None:
        """Note a convolution or linear layer, for costs and pictures."""
        self._analysis.layers.append(
            LayerNote(kind, self.call, weight, data, self.call.outputs[0], incoming, outgoing, groups)
        )


def analyze(trace: Trace, rules: Mapping[Packet | str, Rule] = RULES) -> Analysis:
    """Walk a trace and apply each operation's rule.

    Args:
        trace: What a network does.
        rules: Operation -> rule; the table of this package by default.
    """
    analysis = Analysis()
    coupling = analysis.coupling
    for name, value in trace.tensors.items():
        axes = tuple(coupling.name(coupling.atom(size)) for size in value.shape)
        analysis.axes[value.index] = axes
        analysis.births.update({axis: (name, dim) for dim, axis in enumerate(axes) if axis != ONE})
    for value in trace.inputs:
        analysis.axes[value.index] = tuple(coupling.atom(size, frozen="the network's input") for size in value.shape)
    for call in trace.calls:
        rule = _find(call, rules)
        if rule is None:
            _freeze_unknown(Step(call, trace, analysis), analysis)
        else:
            rule(Step(call, trace, analysis))
    for value in trace.outputs:
        for axis in analysis.axes.get(value.index, ()):
            coupling.freeze(axis, "the network's output")
    used = {value.index for call in trace.calls for value in call.inputs}
    for value in trace.tensors.values():
        for axis in analysis.axes[value.index] if value.index not in used else ():
            coupling.freeze(axis, "not used in the forward pass")
    return analysis


def _find(call: Call, rules: Mapping[Packet | str, Rule]) -> Rule | None:
    packet = call.op.overloadpacket
    rule = rules.get(packet) or rules.get(packet._qualified_op_name)
    if rule is None and torch.Tag.pointwise in call.op.tags:
        return rules.get(torch.ops.aten.add)
    return rule


def _freeze_unknown(step: Step, analysis: Analysis) -> None:
    reason = "has no rule"
    for value in step.call.inputs:
        for axis in step.axes(value):
            step.freeze(axis, reason)
    full = f"{step.call} {reason}"
    step.emit(*(tuple(step.coupling.atom(size, frozen=full) for size in value.shape) for value in step.call.outputs))
    if str(step.call) not in analysis.unknown:
        analysis.unknown.append(str(step.call))
