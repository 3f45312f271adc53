"""Residual blocks that may be bypassed: which module is the identity once its branch says nothing, and proof of it.

A candidate is read off the trace: one tensor in, one tensor of the same shape out, an addition of the module's own
input and of a branch that parameters can silence. It is proven by running the network with random statistics and all
such parameters zero: the module must return its input bit for bit, whatever follows the addition, and replacing it by
the identity must leave the network's output as it is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.edit import Bypass, Record, replay
from reverie.core.rng import generator
from reverie.graph.numeric import distance, outputs, randomized
from reverie.graph.rules import Analysis
from reverie.graph.structure import Branch, Structure
from reverie.graph.trace import Call, Example, ModuleCall, Trace, Value, positional

__all__ = ["find_branches"]

_SEED = 20
_TOLERANCE = 1e-6


def find_branches(
    model: nn.Module, example: Example, trace: Trace, analysis: Analysis, structure: Structure
) -> tuple[Branch, ...]:
    """The residual blocks that are proven to be the identity when silenced, in the order of the forward pass."""
    candidates = _candidates(trace, analysis)
    proven = _prove(model, example, candidates) if candidates else []
    return tuple(_branch(module, candidates[module], structure) for module in proven)


def _branch(module: str, silencers: tuple[str, ...], structure: Structure) -> Branch:
    inside = f"{module}."
    return Branch(
        module,
        tuple(dict.fromkeys(layer.name for layer in structure.layers if f"{layer.name}.".startswith(inside))),
        tuple(group.name for group in structure.groups if all(part.tensor.startswith(inside) for part in group.slices)),
        silencers,
    )


def _candidates(trace: Trace, analysis: Analysis) -> dict[str, tuple[str, ...]]:
    """Module -> the parameters that silence its branch."""
    search = _Search(trace, analysis)
    calls_of: dict[str, int] = {}
    for one in trace.module_calls:
        calls_of[one.module] = calls_of.get(one.module, 0) + 1
    found: dict[str, tuple[str, ...]] = {}
    additions: set[int] = set()
    # Modules return innermost first, so of two modules around the same addition the inner one is taken.
    for one in sorted(trace.module_calls, key=lambda call: call.last - call.first):
        if not one.module or calls_of[one.module] > 1:
            continue
        residual = search.residual(one)
        if residual is None or residual[0] in additions:
            continue
        silencers = search.silencers(residual[1], one)
        if silencers and all(name.startswith(f"{one.module}.") for name in silencers):
            additions.add(residual[0])
            found[one.module] = silencers
    order = {one.module: one.first for one in trace.module_calls}
    return {module: found[module] for module in sorted(found, key=lambda name: order[name])}


class _Search:
    """Walks a trace backwards."""

    def __init__(self, trace: Trace, analysis: Analysis) -> None:
        self._analysis = analysis
        self._maker: dict[int, tuple[int, Call]] = {
            value.index: (index, call) for index, call in enumerate(trace.calls) for value in call.outputs
        }

    def residual(self, module: ModuleCall) -> tuple[int, Value] | None:
        """The module's last addition, by its place in the trace, and the operand that is not the module's input."""
        if len(module.inputs) != 1 or len(module.outputs) != 1:
            return None
        given, value = module.inputs[0], module.outputs[0]
        if given.shape != value.shape:
            return None
        while value.index in self._maker:
            index, call = self._maker[value.index]
            if index < module.first:
                return None
            if _op(call) == "add" and len(call.inputs) == 2:
                left, right = call.inputs
                if given in (left, right) and left != right:
                    return index, right if left == given else left
                return None
            if len(call.inputs) != 1:
                return None
            value = call.inputs[0]
        return None

    def silencers(self, value: Value, module: ModuleCall) -> tuple[str, ...]:
        """Parameters that make a value zero when they are zero; empty where none were found."""
        made = self._maker.get(value.index)
        if made is None or made[0] < module.first:
            return ()
        call = made[1]
        op = _op(call)
        if op in ("add", "cat"):
            parts = [self.silencers(one, module) for one in call.inputs]
            return tuple(name for part in parts for name in part) if all(parts) else ()
        if op == "mul":
            return next(filter(None, (self._own(one) or self.silencers(one, module) for one in call.inputs)), ())
        if op in ("convolution", "addmm", "mm", "linear") or "batch_norm" in op:
            stored = [call.arguments.get(name) for name in ("weight", "bias", "mat2", "self")]
            return tuple(name for one in stored if isinstance(one, Value) for name in self._own(one))
        return self.silencers(call.inputs[0], module) if len(call.inputs) == 1 else ()

    def _own(self, value: Value) -> tuple[str, ...]:
        name = self._analysis.stored(value)
        return () if name is None else (name,)


def _op(call: Call) -> str:
    return str(call.op.overloadpacket.__name__).rstrip("_")


def _prove(model: nn.Module, example: Example, candidates: Mapping[str, Sequence[str]]) -> list[str]:
    # Single precision is enough: x + 0 is x bit for bit, and nothing less is accepted.
    silent = randomized(model, seed=_SEED, dtype=torch.float32)
    tensors = dict(silent.named_parameters())
    with torch.no_grad():
        for name in {name for names in candidates.values() for name in names if name in tensors}:
            tensors[name].zero_()
    example = tuple(_one(value, index) for index, value in enumerate(positional(example)))
    identical: dict[str, bool] = {}
    with _watching(silent, candidates, identical):
        wanted = outputs(silent, example)
    proven = [module for module in candidates if identical.get(module, False)]

    def same(modules: Sequence[str]) -> bool:
        bypassed = replay(Record((Bypass(tuple(modules)),)), silent)
        return distance(outputs(bypassed, example), wanted) <= _TOLERANCE

    return proven if not proven or same(proven) else [module for module in proven if same([module])]


def _one(value: Any, index: int) -> Any:  # noqa: ANN401  any positional argument
    """A single example, with random numbers for its own where they are no numbers of classes."""
    if not isinstance(value, Tensor) or not value.ndim:
        return value
    if not value.is_floating_point():
        return value[:1]
    names = ("example", index) if index else ("example",)
    return torch.randn(value[:1].shape, generator=generator(_SEED, *names)).to(value.device)


@contextmanager
def _watching(model: nn.Module, modules: Iterable[str], identical: dict[str, bool]) -> Iterator[None]:
    """Note for each module whether it was given one tensor and returned it bit for bit."""
    given: dict[str, Tensor] = {}
    handles = []

    def enter(name: str) -> Callable[..., None]:
        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # The identity takes one tensor and nothing else. A copy: the module may change its input in place.
            if len(args) == 1 and isinstance(args[0], Tensor) and not kwargs:
                given[name] = args[0].clone()

        return before

    def leave(name: str) -> Callable[..., None]:
        def after(_module: nn.Module, _args: tuple[Any, ...], output: object) -> None:
            before = given.pop(name, None)
            identical[name] = before is not None and isinstance(output, Tensor) and torch.equal(before, output)

        return after

    try:
        for name in modules:
            module = model.get_submodule(name)
            handles.append(module.register_forward_pre_hook(enter(name), with_kwargs=True))
            handles.append(module.register_forward_hook(leave(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
