"""Where the code of a network did not follow a cut: an operation, and the axis whose size it states."""

from typing import NamedTuple

from reverie.graph.coupling import Axis
from reverie.graph.moves import segment_start
from reverie.graph.rules import Analysis
from reverie.graph.trace import Call

__all__ = ["Blame", "Slot", "slot_axis"]


class Slot(NamedTuple):
    """An axis of an operation: output and dimension, or (-1, 0) for what lies before a slice."""

    output: int
    dim: int


class Blame(NamedTuple):
    """An operation that does not follow a cut.

    Attributes:
        call: Its number in the trace.
        stated: The axis in question and the size that the code states for it, or None where that is not known: the
            running module may then state the width of what it is given.
        reason: Why its axes freeze, if nothing helps.
        in_turn: Whether its axes freeze one at a time, the last first, until the operation follows.
        numbers: A fraction that the operation takes, before and after a cut.
    """

    call: int
    stated: tuple[Slot, int] | None
    reason: str
    in_turn: bool = False
    numbers: tuple[float, float] | None = None


def slot_axis(analysis: Analysis, call: Call, slot: Slot) -> Axis | None:
    """The axis that a slot is at an operation, or None where it has no such axis."""
    if slot.output < 0:
        if call.arguments["step"] > 1:
            # Neighbors of which one is taken: no border lies before it.
            return None
        value, dim = call.inputs[0], call.arguments["dim"]
        axis = analysis.axes[value.index][dim]
        before = analysis.coupling.split(axis, segment_start(call.arguments["start"], value.shape[dim]))
        return None if before is None else before[0]
    axes = analysis.axes.get(call.outputs[slot.output].index, ()) if slot.output < len(call.outputs) else ()
    return axes[slot.dim] if slot.dim < len(axes) else None
