"""Numbers that code computes from a width, such as attention's 1 / sqrt(head width): a cut must not change them.

Where such a number multiplies something linear in stored parameters, like queries, rows of these parameters are scaled
by the inverse of what the number changes by, so the network keeps its original scale. Which parameters and which rows
is found by running the few operations in between on random numbers, and checked the same way. Where queries are read
elsewhere too, as by relative positions, the keys that they meet are scaled in their place.

Sources: the scale of attention, Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from reverie.graph.trace import Call, Trace, Value

__all__ = ["Rows", "exponent", "making_up", "numbers", "product_before", "sources"]

_SUMS = {"addmm", "mm", "linear", "convolution", "native_layer_norm", "native_batch_norm", "_fused_rms_norm"}
_ADDITIONS = {"add", "add_"}
_PRODUCTS = {"bmm", "mm", "baddbmm"}
_MOVES = {
    "view", "_unsafe_view", "reshape", "expand", "clone", "transpose", "permute", "t", "unsqueeze", "squeeze", "alias",
}  # fmt: skip
_TOLERANCE = 1e-9
_STEPS_PER_POWER = 8


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a parameter or buffer, along its first dimension, that a tensor is proportional to."""

    tensor: str
    rows: tuple[int, ...]


def numbers(call: Call) -> list[float]:
    """Fractions among the arguments of an operation."""
    return [value for value in call.arguments.values() if isinstance(value, float)]


def exponent(before: float, after: float, share: float) -> float | None:
    """The power p with after = before * share ** p, where it is a multiple of 1/8; else None."""
    if before == 0 or after / before <= 0 or share in (0, 1):
        return None
    power = math.log(after / before) / math.log(share)
    rounded = round(power * _STEPS_PER_POWER) / _STEPS_PER_POWER
    return rounded if rounded and abs(power - rounded) < _TOLERANCE else None


def making_up(trace: Trace, index: int) -> tuple[int, tuple[Rows, ...]]:
    """Which product a number of an operation ends up in, and the parameters that make up for it there.

    The operation's own number, where it ends up in no product of two tensors; no parameters where none can.

    Args:
        trace: Of the whole network.
        index: Number of the operation that takes the number.
    """
    operand = trace.calls[index].inputs[0]
    before = product_before(trace, operand)
    if before is None:
        product, other = _product_behind(trace, index)
        candidates = [(operand, index), *([(other, product)] if other is not None else [])]
    else:
        product, candidates = before, [(factor, before) for factor in trace.calls[before].inputs[-2:]]
    for value, reader in candidates:
        found = sources(trace, value, reader)
        if found:
            return product, found
    return product, ()


def product_before(trace: Trace, value: Value) -> int | None:
    """The product that a value is, moved or not."""
    makers = {made.index: index for index, call in enumerate(trace.calls) for made in call.outputs}
    while (index := makers.get(value.index)) is not None:
        name = trace.calls[index].op.overloadpacket.__name__
        if name in _PRODUCTS:
            return index
        if name not in _MOVES:
            return None
        value = trace.calls[index].inputs[0]
    return None


def _product_behind(trace: Trace, index: int) -> tuple[int, Value | None]:
    """The product that a result goes into, moved or not, and what it meets there."""
    value = trace.calls[index].outputs[0]
    for at in range(index + 1, len(trace.calls)):
        call = trace.calls[at]
        if value in call.inputs:
            name = call.op.overloadpacket.__name__
            if name in _PRODUCTS:
                left, right = call.inputs[-2:]
                return at, right if left == value else left
            if name not in _MOVES:
                break
            value = call.outputs[0]
    return index, None


def sources(trace: Trace, value: Value, reader: int) -> tuple[Rows, ...]:
    """Parameters to which a value is proportional together, and on which nothing else depends; empty where none are.

    Args:
        trace: Of the whole network.
        value: A tensor in it.
        reader: Number of the operation that reads it.
    """
    program = _Program(trace)
    calls, leaves = program.back_from(value)
    if not leaves:
        return ()
    generator = torch.Generator().manual_seed(0)
    drawn: dict[int, Tensor] = {}

    def run(scaled: dict[int, Tensor], calls: Sequence[Call] = calls) -> dict[int, Tensor]:
        known = dict(scaled)
        for call in calls:
            for given in call.inputs:
                if given.index not in known:
                    if given.index not in drawn:
                        drawn[given.index] = torch.rand(given.shape, generator=generator, dtype=torch.float64) + 0.5
                    known[given.index] = drawn[given.index]
            arguments = tree_map_only(Value, lambda one: known[one.index], dict(call.arguments))
            result = call.op(**_callable(arguments))
            results = result if isinstance(result, tuple | list) else (result,)
            made = [one for one in results if isinstance(one, Tensor)]
            known.update(zip((one.index for one in call.outputs), made, strict=False))
        return known

    stored = {
        index: torch.rand(program.named[index][1], generator=generator, dtype=torch.float64) + 0.5 for index in leaves
    }
    try:
        found = _rows(stored, lambda leaves: run(leaves)[value.index])
        doubled = {index: tensor.clone() for index, tensor in stored.items()}
        for index, rows in found.items():
            doubled[index][rows] *= 2
        others = program.others([*calls, trace.calls[reader]])
        with torch.no_grad():
            before, after = run(stored, [*calls, *others]), run(doubled, [*calls, *others])
    except (RuntimeError, TypeError, NotImplementedError):
        return ()
    once, twice = before[value.index], after[value.index]
    if not found or float((twice - 2 * once).abs().max()) > _TOLERANCE * float(once.abs().max()):
        return ()
    if any(not torch.equal(before[one.index], after[one.index]) for call in others for one in call.outputs):
        return ()
    return tuple(Rows(program.named[index][0], tuple(rows.tolist())) for index, rows in found.items())


def _rows(stored: dict[int, Tensor], run: Callable[[dict[int, Tensor]], Tensor]) -> dict[int, Tensor]:
    """The rows of each tensor that the result depends on."""
    leaves = {index: tensor.clone().requires_grad_() for index, tensor in stored.items()}
    with torch.enable_grad():
        gradients = torch.autograd.grad(run(leaves).sum(), list(leaves.values()), allow_unused=True)
    found = {}
    for index, gradient in zip(leaves, gradients, strict=True):
        if gradient is not None and bool(gradient.any()):
            found[index] = gradient.flatten(1).any(1).nonzero()[:, 0] if gradient.ndim > 1 else gradient.nonzero()[:, 0]
    return found


class _Program:
    """The operations that lead to a value, back to where stored parameters enter."""

    def __init__(self, trace: Trace) -> None:
        self._maker = {value.index: index for index, call in enumerate(trace.calls) for value in call.outputs}
        self._calls = trace.calls
        # Buffers too: a bias of queries, keys and values may be part parameter, part zeros that are stored.
        self.named = {value.index: (name, value.shape) for name, value in trace.tensors.items()}
        stored = {value.index for value in trace.tensors.values()}
        for call in trace.calls:
            if all(value.index in stored for value in call.inputs):
                stored.update(value.index for value in call.outputs)
        self._stored = stored

    def back_from(self, value: Value) -> tuple[list[Call], list[int]]:
        """Operations in order, and the parameters that enter through a layer or a normalization."""
        needed: set[int] = set()
        leaves: dict[int, None] = {}
        work = [(value, False)]
        while work:
            one, is_weight = work.pop()
            index = self._maker.get(one.index)
            if index is None:
                if is_weight and one.index in self.named:
                    leaves[one.index] = None
                continue
            if index in needed:
                continue
            needed.add(index)
            work.extend(self._before(self._calls[index], is_weight))
        return [self._calls[index] for index in sorted(needed)], list(leaves)

    def others(self, way: Sequence[Call]) -> list[Call]:
        """Operations besides these that read what one of these but the last makes."""
        known = {id(call) for call in way}
        made = {one.index for call in way[:-1] for one in call.outputs}
        return [call for call in self._calls if id(call) not in known and any(one.index in made for one in call.inputs)]

    def _before(self, call: Call, is_weight: bool) -> Iterator[tuple[Value, bool]]:
        name = call.op.overloadpacket.__name__
        for value in call.inputs:
            if name in _ADDITIONS:
                # A bias that is added by itself.
                yield value, is_weight or value.index in self._stored
            elif name not in _SUMS or is_weight:
                yield value, is_weight
            elif value.index in self._stored:
                yield value, True


def _callable(arguments: dict[str, object]) -> dict[str, object]:
    """Arguments as the operation takes them: computed in float64, where the network's own type was another."""
    if arguments.get("dtype") is not None:
        arguments["dtype"] = torch.float64
    if "device" in arguments:
        arguments["device"] = torch.device("cpu")
    return arguments
