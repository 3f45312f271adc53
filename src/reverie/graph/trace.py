"""Record which tensor operations a network performs, without performing them.

One forward pass in evaluation mode over tensors which have shapes and no data, so a pass costs a fraction of a second
and no memory whatever the network's size. Python control flow is resolved for the example that was given. The pass
runs on a copy: the model, its modes, buffers, caches and hooks, and the random state are never touched.

Recurrent layers are kept whole, as one operation each. Sources: function and dispatch modes are PyTorch's.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.hooks import RemovableHandle

from reverie.core.edit import Record
from reverie.core.errors import ShapeError, UnsupportedOp
from reverie.core.rng import preserved_rng
from reverie.graph.accept import accept
from reverie.graph.functions import Functions, parts_of_attention
from reverie.graph.shadow import FAKE, META, Shadow, ShadowPass

__all__ = ["Call", "Example", "ModuleCall", "Refusal", "Trace", "Value", "attempt", "integers", "positional", "record"]

Example: TypeAlias = "Tensor | tuple[Any, ...]"
"""A batch, or the positional arguments of a network that takes several."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor at one moment; an in-place operation makes a new value of the same tensor."""

    index: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """One operation.

    Attributes:
        op: The ATen overload that ran.
        arguments: Argument name -> value, defaults included; tensors are `Value`s.
        outputs: The tensors that came out.
        module: Qualified name of the innermost module that was running.
        inputs: The tensors that went in, in the order of the arguments.
    """

    op: torch._ops.OpOverload
    arguments: Mapping[str, Any]
    outputs: tuple[Value, ...]
    module: str
    inputs: tuple[Value, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(_values(self.arguments.values())))

    def __str__(self) -> str:
        return f"{self.op.overloadpacket} in {self.module or 'the network itself'}"


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One call of a module: its tensors in and out, and the range [first, last) of operations within it."""

    module: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Where a pass stopped.

    Attributes:
        error: What was raised.
        function: Name of the innermost function of PyTorch that raised it, or "".
        arguments: Its positional arguments, flattened; tensors are `Value`s.
        module: Qualified name of the innermost module that was running.
    """

    error: Exception
    function: str
    arguments: tuple[Any, ...]
    module: str


@dataclass(frozen=True, eq=False)
class Trace:
    """What one forward pass did.

    Attributes:
        calls: Operations in order.
        module_calls: Calls of modules, in the order in which they returned.
        tensors: Parameter or buffer name -> its value before the pass; one name per tensor.
        aliases: Name in `tensors` -> other names of the same tensor, which tied weights have.
        inputs: The tensors of the example.
        outputs: What the network returned.
        model: The copy without data that ran.
        shadow: How that copy was made.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU())
        >>> trace = record(net, torch.zeros(1, 3))
        >>> [str(call.op) for call in trace.calls], trace.outputs[0].shape
        (['aten.t.default', 'aten.addmm.default', 'aten.relu.default'], (1, 8))
    """

    calls: tuple[Call, ...]
    module_calls: tuple[ModuleCall, ...]
    tensors: Mapping[str, Value]
    aliases: Mapping[str, tuple[str, ...]]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    model: nn.Module
    shadow: Shadow

    def attribute(self, module: str, name: str) -> tuple[int, ...]:
        """An attribute of a module that holds one integer or several; empty where it has no such attribute."""
        return integers(getattr(self.model.get_submodule(module), name, None))


def _values(given: Iterable[Any]) -> Iterator[Value]:
    for one in given:
        if isinstance(one, Value):
            yield one
        elif isinstance(one, list | tuple):
            yield from _values(one)


def integers(value: object) -> tuple[int, ...]:
    """One integer or several, as a tuple; empty for anything else."""
    found = tuple(value) if isinstance(value, tuple | list) else (value,)
    return found if all(isinstance(one, int) and not isinstance(one, bool) for one in found) else ()


def positional(example: Example) -> tuple[Any, ...]:
    """The positional arguments of a network, as a tuple."""
    return example if isinstance(example, tuple) else (example,)


def record(model: nn.Module, example: Example) -> Trace:
    """Record one forward pass of `model` on a batch shaped like `example`.

    Args:
        model: Any module; untouched.
        example: A batch the model accepts, first dimension the batch, or a tuple of its positional arguments; the
            values of tensors are not read.

    Raises:
        ShapeError: The model cannot run on such a batch; the message says where it stopped.
        UnsupportedOp: The model's control flow depends on the values of its input.

    Example:
        >>> trace = record(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.zeros(1, 3))
        >>> [str(call.op.overloadpacket) for call in trace.calls]
        ['aten.t', 'aten.addmm', 'aten.relu']
    """
    accept(model, example)
    trace, refusal = attempt(model, example)
    if refusal is not None:
        trace, refusal = attempt(model, example, shadow=FAKE)
    if refusal is None:
        return trace
    failure = refusal.error
    place = f"after {trace.calls[-1]}" if trace.calls else "before its first operation"
    if isinstance(failure, DataDependentOutputException | DynamicOutputShapeException):
        raise UnsupportedOp(
            f"cannot trace {type(model).__name__}: {place} it reads values of its input ({failure}). "
            "Move that decision out of the forward pass."
        ) from failure
    if refusal.module:
        place = f"in {refusal.module} ({type(trace.model.get_submodule(refusal.module)).__name__}), {place}"
    if refusal.function in _LEAVING:
        raise UnsupportedOp(
            f"cannot trace {type(model).__name__}: {place}, it leaves PyTorch by {refusal.function}(), and what "
            "becomes of its numbers cannot be followed. Compute this with operations of PyTorch."
        ) from failure
    shapes = " and ".join(str(tuple(one.shape)) for one in positional(example) if isinstance(one, Tensor))
    raise ShapeError(
        f"{type(model).__name__} cannot run on a batch of shape {shapes}: it stopped {place} "
        f"({type(failure).__name__}: {failure}). Give an example batch that the network accepts."
    ) from failure


_LEAVING = {"numpy", "__array__", "__dlpack__", "data_ptr"}


def attempt(
    model: nn.Module, example: Example, edits: Record | None = None, *, shadow: Shadow = META
) -> tuple[Trace, Refusal | None]:
    """Record as far as a pass goes: the trace up to a failure, and the failure or None.

    Args:
        model: Any module; untouched. A copy that another trace holds serves as well as the network itself.
        example: A batch, or positional arguments; the values of tensors are not read.
        edits: Applied to the copy before the pass.
        shadow: What stands for data.
    """
    with preserved_rng(), torch.no_grad():
        made = shadow()
        copied = made.copied(model)
        arguments = tree_map_only(Tensor, lambda tensor: made.tensor(tensor.detach()), positional(example))
        recorder = _Recorder(copied, made)
        with made.running():
            for edit in edits.edits if edits is not None else ():
                edit.apply(copied)
            recorder.name_tensors()
            inputs = recorder.values(arguments)
            outputs: tuple[Value, ...] = ()
            refusal: Refusal | None = None
            functions = Functions(recorder.whole, recorder.value)
            try:
                with recorder, functions, parts_of_attention():
                    result = copied(*arguments)
                outputs = recorder.values(result)
            except Exception as error:  # noqa: BLE001  a user's forward may raise anything; the caller reports it
                refusal = Refusal(error, *functions.refused(error), recorder.left)
            finally:
                recorder.remove_hooks()
    calls, module_calls = tuple(recorder.calls), tuple(recorder.module_calls)
    return Trace(calls, module_calls, recorder.tensors, recorder.aliases, inputs, outputs, copied, shadow), refusal


@dataclass
class _Frame:
    name: str
    inputs: tuple[Value, ...]
    first: int


@dataclass
class _State:
    frames: list[_Frame] = field(default_factory=list)
    latest: dict[int, Value] = field(default_factory=dict)
    # The tensors must outlive the pass: a freed one's id would be given to another.
    alive: list[Tensor] = field(default_factory=list)
    count: int = 0
    paused: bool = False


class _Recorder(TorchDispatchMode):
    """Appends a `Call` for every operation, and follows which module is running through hooks on the copy."""

    def __init__(self, model: nn.Module, shadow: ShadowPass) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._shadow = shadow
        self.calls: list[Call] = []
        self.module_calls: list[ModuleCall] = []
        self.tensors: dict[str, Value] = {}
        self.aliases: dict[str, tuple[str, ...]] = {}
        self.left = ""
        self._model = model
        self._state = _State()
        self._handles: list[RemovableHandle] = []
        for name, module in model.named_modules():
            self._handles.append(module.register_forward_pre_hook(self._entering(name), with_kwargs=True, prepend=True))
            self._handles.append(module.register_forward_hook(self._leaving, always_call=True))

    def remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()

    def name_tensors(self) -> None:
        names: dict[int, str] = {}
        for prefix, module in self._model.named_modules():
            for leaf, tensor in [*module._parameters.items(), *module._buffers.items()]:
                if tensor is None:
                    continue
                name = f"{prefix}.{leaf}" if prefix else leaf
                first = names.setdefault(id(tensor), name)
                if first == name:
                    self.tensors[name] = self.value(tensor)
                else:
                    self.aliases[first] = (*self.aliases.get(first, ()), name)

    def value(self, tensor: Tensor) -> Value:
        found = self._state.latest.get(id(tensor))
        return self._fresh(tensor) if found is None else found

    def values(self, tree: object) -> tuple[Value, ...]:
        return tuple(self.value(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if self._state.paused:
            return self._shadow.run(func, args, kwargs)
        before = self._described(args), self._described(kwargs)
        result = self._shadow.run(func, args, kwargs)
        self._note(func, before, result)
        return result

    def _described(self, given: Any) -> Any:  # noqa: ANN401  arguments of any kind
        """Arguments with a `Value` for each tensor; operations take nothing deeper than lists."""
        if isinstance(given, Tensor):
            return self.value(given)
        if isinstance(given, list | tuple):
            return type(given)(map(self._described, given)) if type(given) in (list, tuple) else given
        if type(given) is dict:
            return {name: self._described(one) for name, one in given.items()}
        return given

    def whole(
        self,
        op: torch._ops.OpOverload,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        make: Callable[[], tuple[Tensor, ...]],
    ) -> tuple[Tensor, ...]:
        """Note one operation in place of all that would run in it; `make` gives its result."""
        before = self._described(args), self._described(kwargs)
        self._state.paused = True
        try:
            result = make()
        finally:
            self._state.paused = False
        self._note(op, before, result)
        return result

    def _note(
        self, op: torch._ops.OpOverload, arguments: tuple[tuple[Any, ...], Mapping[str, Any]], result: object
    ) -> None:
        if isinstance(result, Tensor):
            tensors = [result]
        else:
            tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if tensors:
            frames = self._state.frames
            module = frames[-1].name if frames else ""
            made = tuple(self._fresh(tensor) for tensor in tensors)
            self.calls.append(Call(op, _by_name(op, *arguments), made, module))

    def _fresh(self, tensor: Tensor) -> Value:
        value = Value(self._state.count, tuple(tensor.shape))
        self._state.count += 1
        self._state.latest[id(tensor)] = value
        self._state.alive.append(tensor)
        return value

    def _entering(self, name: str) -> Callable[..., None]:
        def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._state.frames.append(_Frame(name, self.values((args, kwargs)), len(self.calls)))

        return enter

    def _leaving(self, _module: nn.Module, _args: tuple[Any, ...], output: object) -> None:
        frame = self._state.frames.pop()
        # Innermost first, and also where a module raises.
        if sys.exc_info()[1] is None:
            self.left = ""
        elif not self.left:
            self.left = frame.name
        self.module_calls.append(
            ModuleCall(frame.name, frame.inputs, self.values(output), frame.first, len(self.calls))
        )


def _by_name(op: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    named = {}
    for position, argument in enumerate(op._schema.arguments):
        if position < len(args):
            named[argument.name] = args[position]
        elif argument.name in kwargs:
            named[argument.name] = kwargs[argument.name]
        else:
            named[argument.name] = argument.default_value if argument.has_default_value() else None
    return named
