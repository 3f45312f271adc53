"""Numbers that code computes from a width, such as attention's 1 / sqrt(head width): a cut must not change them.

Where such a number multiplies something linear in stored parameters, like queries, rows of these parameters are scaled
by the inverse of what the number changes by, so the network keeps its original scale. Which parameters and which rows
is found by running the few operations in between on random numbers, and checked the same way.

Sources: the scale of attention, Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from reverie.graph.trace import Call, Trace, Value

__all__ = ["Source", "exponent", "numbers", "sources"]

_SUMS = {"addmm", "mm", "linear", "convolution", "native_layer_norm", "native_batch_norm", "_fused_rms_norm"}
_ADDITIONS = {"add", "add_"}
_TOLERANCE = 1e-9
_STEPS_PER_POWER = 8


@dataclass(frozen=True, slots=True)
class Source:
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


def sources(trace: Trace, value: Value) -> tuple[Source, ...]:
    """Parameters to which a value is proportional together; empty where there are none or it is not linear in them.

    Args:
        trace: Of the whole network.
        value: A tensor in it.
    """
    program = _Program(trace)
    calls, leaves = program.back_from(value)
    if not leaves:
        return ()
    generator = torch.Generator().manual_seed(0)
    drawn: dict[int, Tensor] = {}

    def run(scaled: dict[int, Tensor]) -> Tensor:
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
        return known[value.index]

    stored = {
        index: torch.rand(program.named[index][1], generator=generator, dtype=torch.float64) + 0.5 for index in leaves
    }
    try:
        found = _rows(stored, run)
        doubled = {index: tensor.clone() for index, tensor in stored.items()}
        for index, rows in found.items():
            doubled[index][rows] *= 2
        with torch.no_grad():
            once, twice = run(stored), run(doubled)
    except (RuntimeError, TypeError, NotImplementedError):
        return ()
    if not found or float((twice - 2 * once).abs().max()) > _TOLERANCE * float(once.abs().max()):
        return ()
    return tuple(Source(program.named[index][0], tuple(rows.tolist())) for index, rows in found.items())


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
