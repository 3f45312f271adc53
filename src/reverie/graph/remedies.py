"""What to do where the code of a network states a size that a cut must change.

In this order: rewrite the attribute of a module from which the code takes the size; couple the axis with another one of
that size from which the code takes it, so that both lose as much; freeze the axis. A remedy is applied to the same
operation of every module of that class at once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

from reverie.graph.blame import Blame, Slot, slot_axis
from reverie.graph.coupling import Axis
from reverie.graph.rules import Analysis, Scale
from reverie.graph.scales import Rows, exponent, making_up, product_before
from reverie.graph.trace import ModuleCall, Trace, integers

__all__ = ["Remedies"]


_GEOMETRY = {"stride", "padding", "dilation", "kernel_size", "output_padding", "output_size", "scale_factor"}


class _Attribute(NamedTuple):
    """An integer attribute of the module `level` steps above the running one, or of a child of that, by a dotted name.

    It states the size of the axis in question; with `of_input`, of what is split; with
    `of_part`, of its factors that may shrink; with `given`, of a dimension of an input of that module.
    """

    level: int
    name: str
    place: int
    of_input: bool = False
    of_part: bool = False
    given: tuple[int, int] | None = None


class _Tie(NamedTuple):
    """A dimension of an input of the module `level` steps above the running one, or, counting on, of what that made.

    With `nested`, it is the axis before that in question times this one, as in `x.view(n, t, heads, c // heads)`.
    """

    level: int
    given: int
    dim: int
    nested: bool = False


@dataclass(eq=False)
class Remedies:
    """Chooses remedies, and remembers which were tried.

    Args:
        trace: Of the whole network.
        analysis: What the rules found; remedies change it.
    """

    trace: Trace
    analysis: Analysis
    _proportional: dict[tuple[object, ...], tuple[int, tuple[tuple[Rows, tuple[int, ...]], ...]]] = field(
        default_factory=dict
    )
    _tried: dict[tuple[type, int, Slot], list[_Attribute | _Tie]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._last: Blame | None = None
        self._frames = _frames(self.trace)
        self._peers: dict[tuple[type, int], list[int]] = {}
        self._key: list[tuple[type, int]] = []
        direct: dict[tuple[int, str], int] = {}
        for index, call in enumerate(self.trace.calls):
            frame = self._frames[index][0]
            ordinal = direct[frame.first, frame.module] = direct.get((frame.first, frame.module), -1) + 1
            key = (type(self.trace.model.get_submodule(call.module)), ordinal)
            self._key.append(key)
            self._peers.setdefault(key, []).append(index)

    def apply(self, blame: Blame, widths: Mapping[int, int]) -> None:
        """Change the analysis so that this operation follows, or freeze its axes.

        Args:
            blame: What does not follow.
            widths: Atom -> units kept in the pass that showed it.
        """
        last, self._last = self._last, None
        if last is not None and self._is_worse(last, blame):
            # The attribute decides something else as well: forget it, and go on with what it was to help.
            blame, widths = last, {}
        call = self.trace.calls[blame.call]
        peers = [index for index in self._peers[self._key[blame.call]] if self.trace.calls[index].op is call.op]
        if blame.in_turn:
            if not self._rescale(peers, blame, widths):
                self._freeze_last(peers, blame)
            return
        if blame.stated is not None:
            slot, stated = blame.stated
            axis = slot_axis(self.analysis, call, slot)
            is_tied = axis is not None and stated != self.analysis.coupling.size(axis)
            if axis is not None and (is_tied or self.analysis.coupling.free(axis)):
                candidates = self._candidates(blame.call, slot, axis, stated, widths)
                if self._use_first(candidates, self._key[blame.call], slot, peers):
                    self._last = blame
                    return
        elif self._use_first(self._given_attributes(blame.call), self._key[blame.call], Slot(-2, 0), peers):
            return
        for index in peers:
            self._freeze(index, blame)

    def state(self) -> tuple[int, int, int, int]:
        """Changes whenever something was tried or found."""
        tried = sum(len(one) for one in self._tried.values())
        return (*self.analysis.coupling.progress(), len(self.analysis.scales), tried)

    def _use_first(
        self, candidates: Iterator[_Attribute | _Tie], key: tuple[type, int], slot: Slot, peers: list[int]
    ) -> bool:
        """Try the first candidate that was not tried; whether there was one."""
        tried = self._tried.setdefault((*key, slot), [])
        fresh = next((remedy for remedy in candidates if remedy not in tried), None)
        self._undo(peers, tried)
        if fresh is None:
            return False
        tried.append(fresh)
        self._use(peers, slot, fresh)
        return True

    def _is_worse(self, last: Blame, blame: Blame) -> bool:
        """Whether code goes wrong earlier than before a remedy, or takes another way in the same module."""
        inside = self._frames[last.call][0].module
        is_near = f"{self.trace.calls[blame.call].module}.".startswith(f"{inside}.")
        is_elsewhere = blame.stated is None and not blame.in_turn
        return blame.call < last.call or (is_near and is_elsewhere)

    def _given_attributes(self, index: int) -> Iterator[_Attribute]:
        """Attributes of the running module that state the size of a free axis of its inputs."""
        coupling = self.analysis.coupling
        frame = self._frames[index][0]
        for given, value in enumerate(frame.inputs):
            for dim, axis in enumerate(self.analysis.axes.get(value.index, ())):
                if coupling.free(axis):
                    for one in self._attributes(index, coupling.size(axis), dim):
                        if one.level == 0:
                            yield one._replace(given=(given, dim))

    def _candidates(
        self, index: int, slot: Slot, axis: Axis, stated: int, widths: Mapping[int, int]
    ) -> Iterator[_Attribute | _Tie]:
        coupling = self.analysis.coupling
        whole = coupling.size(axis)
        if stated == whole:
            yield from self._attributes(index, whole, slot.output)
            part = self.analysis.coupling.free_part(axis)
            if coupling.size(part) not in (1, whole):
                yield from (
                    one._replace(of_part=True) for one in self._attributes(index, coupling.size(part), slot.output)
                )
            source = self._split_axis(index, slot)
            if source is not None:
                yield from (
                    one._replace(of_input=True) for one in self._attributes(index, coupling.size(source), slot.output)
                )
            return
        for tie, other in self._given_axes(index):
            if coupling.size(other) == whole and coupling.size(other, widths) == stated:
                yield tie
        yield from self._nested(index, slot, axis, stated, widths)
        # What is left of a width, as in `x.split([self.part, self.width - self.part])`.
        source = self._split_axis(index, slot)
        if source is not None:
            yield from (
                one._replace(of_input=True) for one in self._attributes(index, coupling.size(source), slot.output)
            )

    def _nested(self, index: int, slot: Slot, axis: Axis, stated: int, widths: Mapping[int, int]) -> Iterator[_Tie]:
        """Widths of which the code takes a part: the whole one is the axis before this one times this one."""
        coupling, call = self.analysis.coupling, self.trace.calls[index]
        before = slot_axis(self.analysis, call, Slot(slot.output, slot.dim - 1)) if slot.dim > 0 else None
        if before is None or coupling.size(before) < 2:
            return
        whole, parts = coupling.size(before) * coupling.size(axis), coupling.size(before, widths)
        for tie, other in self._given_axes(index):
            if coupling.size(other) == whole and coupling.size(other, widths) // parts == stated:
                yield tie._replace(nested=True)

    def _given_axes(self, index: int) -> Iterator[tuple[_Tie, Axis]]:
        """Every axis that the modules around an operation were given, or that the running one made since."""
        for level, frame in enumerate(self._frames[index]):
            made = [call.outputs[0] for call in self.trace.calls[frame.first : index]] if level == 0 else []
            for given, value in enumerate([*frame.inputs, *made]):
                for dim, other in enumerate(self.analysis.axes.get(value.index, ())):
                    yield _Tie(level, given, dim), other

    def _attributes(self, index: int, size: int, output: int) -> Iterator[_Attribute]:
        """Attributes of the modules around an operation that have a value and that no axis has taken yet."""
        for level, frame in enumerate(self._frames[index]):
            for name, values in _own_attributes(self.trace.model.get_submodule(frame.module)):
                # Where a tuple has as many places as there are parts, each part takes its own.
                places = sorted(range(len(values)), key=lambda place: place != output)
                for place in places:
                    if values[place] == size and (_path(frame.module, name), place) not in self.analysis.attributes:
                        yield _Attribute(level, name, place)

    def _split_axis(self, index: int, slot: Slot) -> Axis | None:
        """What an operation splits, as in `x.split(self.width // 2)`; None for other operations."""
        call = self.trace.calls[index]
        if call.op.overloadpacket.__name__ not in {"split", "unsafe_split", "split_with_sizes"}:
            return None
        return self.analysis.axes[call.inputs[0].index][slot.dim]

    def _use(self, peers: list[int], slot: Slot, remedy: _Attribute | _Tie) -> None:
        for index in peers:
            if remedy.level >= len(self._frames[index]):
                continue
            frame = self._frames[index][remedy.level]
            if isinstance(remedy, _Attribute) and remedy.given is not None:
                axis = self._given(frame, *remedy.given)
            else:
                axis = slot_axis(self.analysis, self.trace.calls[index], slot)
            if axis is None:
                continue
            if isinstance(remedy, _Attribute):
                source = self._split_axis(index, slot) if remedy.of_input else axis
                if source is not None and remedy.of_part:
                    source = self.analysis.coupling.free_part(source)
                if source is not None:
                    self._rewrite(frame.module, remedy, source)
            else:
                self._couple(index, frame, remedy, axis, slot)

    def _rewrite(self, module: str, remedy: _Attribute, axis: Axis) -> None:
        owner, _, leaf = _path(module, remedy.name).rpartition(".")
        values = self.trace.attribute(owner, leaf)
        key = (_path(module, remedy.name), remedy.place)
        if remedy.place < len(values) and values[remedy.place] == self.analysis.coupling.size(axis):
            self.analysis.attributes.setdefault(key, axis)

    def _couple(self, index: int, frame: ModuleCall, remedy: _Tie, axis: Axis, slot: Slot) -> None:
        other = self._given(frame, remedy.given, remedy.dim)
        coupling = self.analysis.coupling
        if remedy.nested:
            before = slot_axis(self.analysis, self.trace.calls[index], Slot(slot.output, slot.dim - 1))
            axis = axis if before is None else coupling.product(before, axis)
        if other is not None and coupling.size(other) == coupling.size(axis):
            if not coupling.free(axis):
                # What is coupled with a position would be one as well, and of those a part is not listed.
                coupling.freeze(other, f"{self.trace.calls[index]} does not follow a cut: the code states a size")
            coupling.couple(other, axis, str(self.trace.calls[index]))

    def _given(self, frame: ModuleCall, given: int, dim: int) -> Axis | None:
        at = frame.first + given - len(frame.inputs)
        if given < len(frame.inputs):
            value = frame.inputs[given]
        elif at < frame.last:
            value = self.trace.calls[at].outputs[0]
        else:
            return None
        axes = self.analysis.axes.get(value.index, ())
        return axes[dim] if dim < len(axes) else None

    def _undo(self, peers: list[int], tried: list[_Attribute | _Tie]) -> None:
        """Forget an attribute that did not help; a coupling stays."""
        if tried and isinstance(tried[-1], _Attribute):
            last = tried[-1]
            for index in peers:
                if last.level < len(self._frames[index]):
                    module = self._frames[index][last.level].module
                    self.analysis.attributes.pop((_path(module, last.name), last.place), None)

    def _rescale(self, peers: list[int], blame: Blame, widths: Mapping[int, int]) -> bool:
        """Let parameters make up for a number that follows a width; whether that can be done for all peers."""
        coupling = self.analysis.coupling
        if blame.numbers is None or blame.call in self.analysis.scales:
            return False
        for place, width in enumerate(self._widths(blame.call)):
            axis = coupling.resolve(width)
            # Of a sum of widths no single group decides the share.
            if not coupling.free(axis) or len(axis) != 1 or not all(isinstance(factor, int) for factor in axis[0]):
                continue
            power = exponent(*blame.numbers, coupling.size(axis, widths) / coupling.size(axis))
            if power is None:
                continue
            for index in peers:
                product, found = self._sources(index)
                axes = self._widths(index)
                if found and place < len(axes):
                    self.analysis.scales[index] = Scale(axes[place], power, product, found)
            return blame.call in self.analysis.scales
        return False

    def _widths(self, index: int) -> list[Axis]:
        """From which widths a number may be computed: what the product it scales summed over, those of its operand."""
        call = self.trace.calls[index]
        axes = list(reversed(self.analysis.axes[call.outputs[0].index]))
        before = product_before(self.trace, call.inputs[0])
        if before is not None:
            axes.insert(0, self.analysis.axes[self.trace.calls[before].inputs[-2].index][-1])
        return axes

    def _sources(self, index: int) -> tuple[int, tuple[Rows, ...]]:
        """What makes up for a number at an operation, and where; of modules of one class it is found once."""
        call = self.trace.calls[index]
        inside = f"{call.module}." if call.module else ""
        key = (*self._key[index], tuple(value.shape for value in call.inputs))
        known = self._proportional.get(key)
        if known is not None:
            ahead, parts = known
            shapes = {name: self.trace.tensors[name].shape for name in self.trace.tensors}
            moved = tuple(Rows(inside + one.tensor, one.rows) for one, _ in parts)
            if all(shapes.get(one.tensor) == shape for one, (_, shape) in zip(moved, parts, strict=True)):
                return index + ahead, moved
        product, found = making_up(self.trace, index)
        if all(one.tensor.startswith(inside) for one in found):
            self._proportional[key] = (
                product - index,
                tuple(
                    (Rows(one.tensor.removeprefix(inside), one.rows), self.trace.tensors[one.tensor].shape)
                    for one in found
                ),
            )
        return product, found

    def _freeze_last(self, peers: list[int], blame: Blame) -> None:
        """Freeze the last free axis of an operation's output, and the same axis of its peers."""
        free = self.analysis.coupling.free
        axes = self.analysis.axes[self.trace.calls[blame.call].outputs[0].index]
        last = next((dim for dim in reversed(range(len(axes))) if free(axes[dim])), None)
        for index in peers if last is not None else [blame.call]:
            call = self.trace.calls[index]
            found = self._widen(index) if last is None else [self.analysis.axes[call.outputs[0].index][last]]
            for axis in found:
                self.analysis.coupling.freeze(axis, blame.reason.replace(str(self.trace.calls[blame.call]), str(call)))

    def _freeze(self, index: int, blame: Blame) -> None:
        call = self.trace.calls[index]
        axis = slot_axis(self.analysis, call, blame.stated[0]) if blame.stated is not None else None
        coupling = self.analysis.coupling
        if axis is not None and coupling.free(axis):
            found = [axis]
        elif index == blame.call or blame.stated is None:
            found = self._widen(index)
        else:
            found = []
        reason = blame.reason.replace(str(self.trace.calls[blame.call]), str(call), 1)
        for one in found:
            coupling.freeze(one, reason)

    def _widen(self, index: int) -> list[Axis]:
        """The free axes of an operation; where it has none, of its module, of the module around that, and so on."""
        calls = self.trace.calls
        spans = [(index, index + 1), *((frame.first, frame.last) for frame in self._frames[index]), (0, len(calls))]
        for first, last in spans:
            axes = [
                axis
                for call in calls[first:last]
                for value in (*call.inputs, *call.outputs)
                for axis in self.analysis.axes.get(value.index, ())
                if self.analysis.coupling.free(axis)
            ]
            if axes:
                return axes
        return []


def _frames(trace: Trace) -> list[tuple[ModuleCall, ...]]:
    """Of each operation, the calls of modules around it, innermost first."""
    around: list[list[ModuleCall]] = [[] for _ in trace.calls]
    # Modules return innermost first.
    for one in trace.module_calls:
        for index in range(one.first, one.last):
            around[index].append(one)
    return [tuple(frames) for frames in around]


def _own_attributes(module: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Attributes that hold one integer or several and that can be set, of a module and then of its children."""
    for prefix, one in (("", module), *((f"{name}.", child) for name, child in module.named_children())):
        for name, value in vars(one).items():
            found = integers(value)
            if found and not name.startswith("_") and name not in _GEOMETRY:
                yield prefix + name, found


def _path(module: str, name: str) -> str:
    return f"{module}.{name}" if module else name
