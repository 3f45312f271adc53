"""Cut a copy without data, run it, and see whether the network's code follows.

Rules say how axes couple; they cannot see that a forward pass states a width, as in `x.view(n, self.heads, 64)` or
`x.reshape(n, t, c)` with the `c` of another tensor. So every free group loses some units on a copy, the pass is
recorded again, and each operation must yield the shape that the algebra predicts. Where one does not, `remedies` says
what follows: the size is an attribute that can be rewritten, or that of another axis, which then loses as many units;
else the axis freezes. Then the rehearsal starts again. What was found for one block holds for all blocks of its class,
so a network of any depth needs few passes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from reverie.core.edit import Record
from reverie.graph.blame import Blame, Slot, slot_axis
from reverie.graph.coupling import Axis, Coupling
from reverie.graph.cut import keep_units
from reverie.graph.describe import describe
from reverie.graph.moves import segment_start
from reverie.graph.remedies import Remedies
from reverie.graph.rules import Analysis
from reverie.graph.scales import numbers
from reverie.graph.structure import Structure
from reverie.graph.trace import Call, Example, Refusal, Trace, Value, attempt, integers

__all__ = ["rehearse"]

_PASSES = 60
"""Rehearsals after which what still does not follow is frozen as a whole; networks of the wild need up to twenty."""

_RESHAPES = {"reshape", "view", "expand", "_unsafe_view"}
_NORMS = {"layer_norm", "rms_norm"}
_SPLITS = {"split", "split_with_sizes", "unsafe_split"}
_COPIES = {"clone", "alias", "detach"}


def rehearse(model: nn.Module, example: Example, trace: Trace, analysis: Analysis) -> Structure:
    """Freeze, in `analysis`, every axis whose size the code of the network states and that nothing can restate.

    Args:
        model: The network; untouched.
        example: The batch it was traced on.
        trace: That trace.
        analysis: What the rules found; attributes, couplings and freezes are added.

    Returns:
        What can be taken, branches not looked for.
    """
    remedies = Remedies(trace, analysis)
    passes = 0
    while True:
        structure, atoms = describe(trace, analysis)
        counts = {group.name: _fewer(group.units, index) for index, group in enumerate(structure.free)}
        if not counts:
            return structure
        # The last units stay: code that takes the first ones by number is then found out.
        kept = {
            name: range(structure.group(name).units - count, structure.group(name).units)
            for name, count in counts.items()
        }
        edit = keep_units(model, structure, kept)
        rehearsal, refusal = attempt(model, example, Record((edit,)), shadow=trace.shadow)
        widths = {atoms[name]: count for name, count in counts.items()}
        blame = _Comparison(trace, rehearsal, refusal, analysis, widths).first()
        if blame is None:
            return structure
        before = remedies.state()
        remedies.apply(blame, widths)
        if remedies.state() == before or passes > _PASSES:
            # Nothing left to try where it went wrong: then nothing may go.
            for atom in widths:
                analysis.coupling.freeze(((atom,),), blame.reason)
        passes += 1


def _fewer(units: int, index: int) -> int:
    """Units that stay: about three quarters to one half, not the same for neighboring groups."""
    return units - 1 - (5 * index) % max(1, units // 2)


@dataclass(frozen=True)
class _Comparison:
    """Two passes side by side: of the whole network, and of the cut one."""

    trace: Trace
    rehearsal: Trace
    refusal: Refusal | None
    analysis: Analysis
    widths: Mapping[int, int]

    def first(self) -> Blame | None:
        """The first operation that does not follow, or None where all do."""
        calls, others = _working(self.trace), _working(self.rehearsal)
        for (index, call), (_, again) in zip(calls, others, strict=False):
            if _kind(call) != _kind(again) or call.module != again.module:
                return Blame(index, None, f"{call} is another operation after a cut: the code looks at widths")
            found = self._wrong(call, again)
            if found is not None:
                return Blame(index, found, f"{call} does not follow a cut: the code states a size")
            if not self._keeps_numbers(index, call, again):
                pair = (numbers(call)[0], numbers(again)[0]) if len(numbers(call)) == 1 else None
                reason = f"{call} takes a number that the code computes from a width"
                return Blame(index, None, reason, in_turn=True, numbers=pair)
        if self.refusal is None and len(calls) == len(others):
            return None
        index, call = calls[min(len(others), len(calls) - 1)]
        error = self.refusal.error if self.refusal is not None else None
        message = str(error).strip().partition("\n")[0] if error is not None else "it ends early"
        at, found = self._refused(index)
        return Blame(at, found, f"{call} cannot run after a cut: {message}")

    def _wrong(self, call: Call, again: Call) -> tuple[Slot, int] | None:
        if call.op.overloadpacket.__name__ == "slice":
            # Its start first, a number in the code: with a wrong one the length may be right, or wrong for that.
            start = segment_start(again.arguments["start"], again.inputs[0].shape[again.arguments["dim"]])
            before = slot_axis(self.analysis, call, Slot(-1, 0))
            if before is not None and self._size(before) != start:
                return Slot(-1, 0), start
        missed = [
            (Slot(output, dim), size)
            for output, (value, other) in enumerate(zip(call.outputs, again.outputs, strict=False))
            # By-products that nobody reads have no axes.
            for dim, (axis, size) in enumerate(zip(self._axes(value), other.shape, strict=False))
            if self._size(axis) != size
        ]
        # What is as before is stated; what is left to PyTorch, as with -1, is wrong in turn.
        stated = (one for one in missed if call.outputs[one[0].output].shape[one[0].dim] == one[1])
        if missed:
            return next(stated, missed[0])
        if len(call.outputs) != len(again.outputs):
            dim = call.arguments["dim"] % len(call.inputs[0].shape) if "dim" in call.arguments else 0
            return Slot(0, dim), again.outputs[0].shape[dim]
        return None

    def _keeps_numbers(self, index: int, call: Call, again: Call) -> bool:
        """Whether fractions are those of the whole network, or what scaled parameters make up for."""
        share = 1.0
        if index in self.analysis.scales:
            scale = self.analysis.scales[index]
            share = (self._size(scale.axis) / self.analysis.coupling.size(scale.axis)) ** scale.power
        before, after = numbers(call), numbers(again)
        return len(before) == len(after) and all(
            math.isclose(one * share, other, rel_tol=1e-9) for one, other in zip(before, after, strict=True)
        )

    def _refused(self, index: int) -> tuple[int, tuple[Slot, int] | None]:
        """Which size the function that raised stated wrongly, and the operation in the whole network that it became."""
        if self.refusal is None:
            return index, None
        function = self.refusal.function
        stated = _stated(self.refusal)
        for at in range(index, min(index + 3, len(self.trace.calls))):
            call = self.trace.calls[at]
            name = call.op.overloadpacket.__name__
            rank = len(call.outputs[0].shape)
            if function in _RESHAPES and name in _RESHAPES and len(stated) == rank:
                return at, self._misstated(call, stated, 0)
            if function == "unflatten" and name in _RESHAPES:
                return at, self._misstated(call, stated[1:], stated[0] % (rank - len(stated) + 2))
            if function in _NORMS:
                return at, self._misstated(call, stated, rank - len(stated))
            if function in _SPLITS and name in _SPLITS:
                return at, self._refused_split(call, stated)
        return index, None

    def _misstated(self, call: Call, stated: tuple[int, ...], first: int) -> tuple[Slot, int] | None:
        """The first of the sizes stated for consecutive dimensions that is not what the algebra predicts."""
        axes = self._axes(call.outputs[0])[first:]
        for dim, (axis, size) in enumerate(zip(axes, stated, strict=False), first):
            if size not in (-1, self._size(axis)):
                return Slot(0, dim), size
        return None

    def _refused_split(self, call: Call, stated: tuple[int, ...]) -> tuple[Slot, int] | None:
        dim = call.arguments["dim"] % len(call.inputs[0].shape)
        for output, (value, size) in enumerate(zip(call.outputs, stated, strict=False)):
            if self._size(self._axes(value)[dim]) != size:
                return Slot(output, dim), size
        return None

    def _axes(self, value: Value) -> tuple[Axis, ...]:
        return self.analysis.axes.get(value.index, ())

    def _size(self, axis: Axis) -> int:
        coupling: Coupling = self.analysis.coupling
        return coupling.size(axis, self.widths)


def _stated(refusal: Refusal) -> tuple[int, ...]:
    """The sizes among the arguments of a function: all integers behind the tensor."""
    return integers([one for one in refusal.arguments if isinstance(one, int)])


def _working(trace: Trace) -> list[tuple[int, Call]]:
    """Operations with their numbers, without copies: whether a reshape copies depends on sizes."""
    return [(index, call) for index, call in enumerate(trace.calls) if call.op.overloadpacket.__name__ not in _COPIES]


def _kind(call: Call) -> object:
    return "view" if call.op.overloadpacket.__name__ in {"view", "_unsafe_view"} else call.op
