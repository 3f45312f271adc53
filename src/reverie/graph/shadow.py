"""Copies of a network that have shapes and no data, so that a pass costs milliseconds and no memory.

`META` puts every tensor on PyTorch's meta device, which is quick. A few networks ask for what meta tensors cannot
answer, such as a number that was written into a constant a line before; `FAKE` follows such constants, at about three
times the cost.

Sources: the meta device, fake tensors and function modes are PyTorch's.
"""

import copy
import copyreg
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.overrides import TorchFunctionMode

__all__ = ["FAKE", "META", "Shadow", "ShadowPass"]


class ShadowPass(Protocol):
    """One pass on a copy without data."""

    def copied(self, model: nn.Module) -> nn.Module:
        """The copy of a network, in evaluation mode."""

    def tensor(self, tensor: Tensor) -> Tensor:
        """The copy of an input."""

    def running(self) -> AbstractContextManager[object]:
        """Within it the copy runs."""

    def run(self, op: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """What an operation returns on the copy."""


Shadow = Callable[[], ShadowPass]


class META:
    """Tensors of the meta device."""

    def copied(self, model: nn.Module) -> nn.Module:
        """The copy of a network, in evaluation mode."""
        memo: dict[int, Any] = {}
        for parameter in model.parameters():
            memo[id(parameter)] = nn.Parameter(_bare(parameter), requires_grad=parameter.requires_grad)
        for buffer in model.buffers():
            memo[id(buffer)] = _bare(buffer)
        with _BareCopies():
            return copied_modules(model, memo).eval()

    def tensor(self, tensor: Tensor) -> Tensor:
        """The copy of an input."""
        return _bare(tensor)

    def running(self) -> AbstractContextManager[object]:
        """Within it the copy runs."""
        return nullcontext()

    def run(self, op: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """What an operation returns on the copy."""
        # The network's code may name a device, for constants that it makes or for where a result is to go.
        if kwargs.get("device") is not None or (kwargs.get("device", 0) is None and op in _FACTORIES):
            kwargs = kwargs | {"device": torch.device("meta")}
        if kwargs.get("pin_memory"):
            kwargs = kwargs | {"pin_memory": False}
        key = _seen(op, args, kwargs)
        if key is None:
            return op(*args, **kwargs)
        known = _LAYOUTS.get(key)
        if known is not None:
            made = [torch.empty_strided(shape, stride, dtype=dtype, device="meta") for shape, stride, dtype in known]
            return made[0] if len(op._schema.returns) == 1 else tuple(made)
        result = op(*args, **kwargs)
        parts = result if isinstance(result, tuple) else (result,)
        if all(type(one) is Tensor and one.layout == torch.strided for one in parts):
            if len(_LAYOUTS) >= _MOST_LAYOUTS:
                _LAYOUTS.clear()
            _LAYOUTS[key] = tuple((tuple(one.shape), one.stride(), one.dtype) for one in parts)
        return result


class FAKE:
    """PyTorch's fake tensors."""

    def __init__(self) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)

    def copied(self, model: nn.Module) -> nn.Module:
        """The copy of a network, in evaluation mode."""
        with FakeCopyMode(self._mode):
            return copy.deepcopy(model).eval()

    def tensor(self, tensor: Tensor) -> Tensor:
        """The copy of an input."""
        return self._mode.from_tensor(tensor)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within it the copy runs."""
        # PyTorch logs a stack for each operation that a rehearsed cut makes fail.
        logger = logging.getLogger("torch._subclasses.fake_tensor")
        before = logger.disabled
        logger.disabled = True
        try:
            with self._mode:
                yield
        finally:
            logger.disabled = before

    def run(self, op: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """What an operation returns on the copy."""
        return op(*args, **kwargs)


_FACTORIES = frozenset(
    getattr(torch.ops.aten, name).default
    for name in ("zeros", "ones", "full", "arange", "eye", "scalar_tensor", "rand", "randn", "linspace")
)


_LAYOUTS: dict[Hashable, tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]] = {}
"""Operation and layouts of its arguments -> shape, stride and type of each new tensor that it returns.

PyTorch works out many of them in Python, at half a millisecond each, and the blocks of a network are alike.
"""

_MOST_LAYOUTS = 20_000


def _seen(op: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
    """What decides the layout of an operation's results, or None where they may be no new tensors."""
    if op.is_view or op._schema.is_mutable or op.namespace != "aten":
        return None
    key: list[Hashable] = [op]
    return tuple(key) if all(_describe(one, key) for one in (*args, *kwargs.items())) else None


def _describe(value: object, key: list[Hashable]) -> bool:
    """Append what of an argument decides a layout; whether that is known."""
    if isinstance(value, Tensor):
        if not value.is_meta or type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided:
            return False
        key += (value.shape, value.stride(), value.dtype)
        return True
    if isinstance(value, list | tuple):
        key.append(len(value))
        return all(_describe(one, key) for one in value)
    if value is not None and not isinstance(value, _PLAIN):
        return False
    key.extend((type(value), value))  # type: ignore[arg-type]
    return True


_PLAIN = (int, float, str, torch.dtype, torch.device, torch.memory_format, torch.layout)


def copied_modules(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy of a network as `copy.deepcopy` makes it, where most modules hold little but numbers and other modules.

    Args:
        model: Any module; untouched.
        memo: Of `deepcopy`: id of a thing -> its copy.
    """
    states = {}
    for module in model.modules():
        state = _state(module)
        if state is not None:
            states[id(module)] = state
            memo[id(module)] = object.__new__(type(module))
    for index, state in states.items():
        memo[index].__setstate__({name: _copied(value, memo) for name, value in state.items()})
    found: nn.Module = copy.deepcopy(model, memo)
    return found


def _state(module: nn.Module) -> dict[str, Any] | None:
    """The attributes of a module that is copied by copying them; None where its class says otherwise."""
    if hasattr(type(module), "__deepcopy__"):
        return None
    made = module.__reduce_ex__(4)
    if not isinstance(made, tuple) or made[:2] != (copyreg.__newobj__, (type(module),)):  # type: ignore[attr-defined]
        return None
    is_all = len(made) == 3 or not any(made[3:])
    return made[2] if is_all and type(made[2]) is dict else None


def _copied(value: object, memo: dict[int, Any]) -> object:
    if isinstance(value, _UNCHANGING) or (type(value) is tuple and all(isinstance(one, _UNCHANGING) for one in value)):
        return value
    if type(value) in _CONTAINERS and not value:
        # A module has ten of them, for hooks; two names of one stay names of one.
        return memo.setdefault(id(value), type(value)())
    if type(value) is dict and all(one is None or id(one) in memo for one in value.values()):
        return {key: None if one is None else memo[id(one)] for key, one in value.items()}
    return copy.deepcopy(value, memo)


_CONTAINERS = (OrderedDict, dict, list, set)
_UNCHANGING = (int, float, str, type(None), torch.dtype, torch.device)


class _BareCopies(TorchFunctionMode):
    """Tensors that a module holds outside its parameters and buffers are copied without data too."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        if func is Tensor.clone or func is torch._C.TensorBase.clone:
            return _bare(args[0])
        if func is Tensor.__deepcopy__:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = _bare(tensor)
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def _bare(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
