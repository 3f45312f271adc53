"""Copies of a network that have shapes and no data, so that a pass costs milliseconds and no memory.

`META` puts every tensor on PyTorch's meta device, which is quick. A few networks ask for what meta tensors cannot
answer, such as a number that was written into a constant a line before; `FAKE` follows such constants, at about three
times the cost.

Sources: the meta device, fake tensors and function modes are PyTorch's.
"""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
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

    def arguments(self, op: torch._ops.OpOverload, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments with which an operation runs on the copy."""


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
            return copy.deepcopy(model, memo).eval()

    def tensor(self, tensor: Tensor) -> Tensor:
        """The copy of an input."""
        return _bare(tensor)

    def running(self) -> AbstractContextManager[object]:
        """Within it the copy runs."""
        return nullcontext()

    def arguments(self, op: torch._ops.OpOverload, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments with which an operation runs on the copy."""
        # The network's code may name a device, for constants that it makes or for where a result is to go.
        changed = dict(kwargs)
        if changed.get("device") is not None or (changed.get("device", 0) is None and op in _FACTORIES):
            changed["device"] = torch.device("meta")
        if changed.get("pin_memory"):
            changed["pin_memory"] = False
        return changed


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

    def arguments(self, op: torch._ops.OpOverload, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments with which an operation runs on the copy."""
        del op
        return dict(kwargs)


_FACTORIES = frozenset(
    getattr(torch.ops.aten, name).default
    for name in ("zeros", "ones", "full", "arange", "eye", "scalar_tensor", "rand", "randn", "linspace")
)


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
