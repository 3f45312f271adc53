"""Cut a fake copy, run it, and see whether the network's code follows.

Rules say how axes couple; they cannot see that a forward pass states a width as a number, as in `x.view(n, 64)` or
`x[:, 32:]`. So every free group loses some units on a fake copy, the pass is recorded again, and each operation must
yield the shape that the algebra predicts. Where one does not, the axis it concerns is frozen and the rehearsal starts
again. A pass over fake tensors costs a fraction of a second.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from reverie.core.edit import Record
from reverie.graph.coupling import Axis
from reverie.graph.cut import keep_units
from reverie.graph.describe import describe
from reverie.graph.moves import segment_start
from reverie.graph.rules import Analysis
from reverie.graph.trace import Call, Trace, attempt

__all__ = ["rehearse"]


def rehearse(model: nn.Module, example: Tensor, trace: Trace, analysis: Analysis) -> None:
    """Freeze, in `analysis`, every axis whose size the code of the network states.

    Args:
        model: The network; untouched.
        example: The batch it was traced on.
        trace: That trace.
        analysis: What the rules found; freezes are added.
    """
    while True:
        structure, atoms = describe(trace, analysis)
        counts = {group.name: _fewer(group.units, index) for index, group in enumerate(structure.free)}
        if not counts:
            return
        # The last units stay: code that takes the first ones by number is then found out.
        kept = {
            name: range(structure.group(name).units - count, structure.group(name).units)
            for name, count in counts.items()
        }
        edit = keep_units(model, structure, kept)
        rehearsal, failure = attempt(model, example, Record((edit,)))
        widths = {atoms[name]: count for name, count in counts.items()}
        blame = _first_difference(trace, rehearsal, failure, analysis, widths)
        if blame is None:
            return
        axes, reason = blame
        for axis in axes:
            analysis.coupling.freeze(axis, reason)


def _fewer(units: int, index: int) -> int:
    """Units that stay: about three quarters to one half, not the same for neighboring groups."""
    return units - 1 - (5 * index) % max(1, units // 2)


def _first_difference(
    trace: Trace, rehearsal: Trace, failure: Exception | None, analysis: Analysis, widths: Mapping[int, int]
) -> tuple[list[Axis], str] | None:
    for call, again in zip(trace.calls, rehearsal.calls, strict=False):
        if call.op is not again.op or call.module != again.module:
            return _widen(trace, call, analysis), f"{call} is another operation after a cut: the code looks at widths"
        wrong = _wrong_axis(call, again, analysis, widths)
        if wrong is not None:
            found = [wrong] if analysis.coupling.free(wrong) else _widen(trace, call, analysis)
            return found, f"{call} does not follow a cut: the code states a size"
    if failure is None and len(trace.calls) == len(rehearsal.calls):
        return None
    stopped = trace.calls[min(len(rehearsal.calls), len(trace.calls) - 1)]
    message = str(failure).strip().partition("\n")[0] if failure is not None else "it ends early"
    return _widen(trace, stopped, analysis), f"{stopped} cannot run after a cut: {message}"


def _wrong_axis(call: Call, again: Call, analysis: Analysis, widths: Mapping[int, int]) -> Axis | None:
    coupling = analysis.coupling
    for value, other in zip(call.outputs, again.outputs, strict=True):
        # By-products that nobody reads have no axes.
        for axis, size in zip(analysis.axes.get(value.index, ()), other.shape, strict=False):
            if coupling.size(axis, widths) != size:
                return axis
    if call.op.overloadpacket.__name__ == "slice":
        # Its length may be right while its start, a number in the code, is not.
        dim = call.arguments["dim"]
        axis = analysis.axes[call.inputs[0].index][dim]
        before = coupling.split(axis, segment_start(call.arguments["start"], call.inputs[0].shape[dim]))
        start = segment_start(again.arguments["start"], again.inputs[0].shape[dim])
        if before is not None and coupling.size(before[0], widths) != start:
            return axis
    return None


def _widen(trace: Trace, call: Call, analysis: Analysis) -> list[Axis]:
    """The free axes of an operation; where it has none, of its module, of the module around that, and so on."""
    scope: str | None = None
    calls: Iterable[Call] = (call,)
    while True:
        axes = [
            axis
            for one in calls
            for value in (*one.inputs, *one.outputs)
            for axis in analysis.axes.get(value.index, ())
        ]
        axes = [axis for axis in axes if analysis.coupling.free(axis)]
        if axes or scope == "":
            return axes
        scope = call.module if scope is None else scope.rpartition(".")[0]
        inside = scope
        calls = [one for one in trace.calls if not inside or f"{one.module}.".startswith(f"{inside}.")]
