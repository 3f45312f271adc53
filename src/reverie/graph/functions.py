"""What the recorder sees above operations: functions of PyTorch, as the network's code calls them.

Recurrent layers are kept whole here, since below they fall into thousands of operations, one set for each time step;
and a function that refuses its arguments still has the sizes that the code stated.

Sources: function modes are PyTorch's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

__all__ = ["Functions", "parts_of_attention"]

Whole: TypeAlias = Callable[
    [torch._ops.OpOverload, tuple[Any, ...], dict[str, Any], Callable[[], tuple[Tensor, ...]]], tuple[Tensor, ...]
]


@contextmanager
def parts_of_attention() -> Iterator[None]:
    """Attention as the operations it consists of: PyTorch's fast path would run a whole layer as one."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


_RECURRENT = {
    torch.lstm: torch.ops.aten.lstm.input,
    torch.gru: torch.ops.aten.gru.input,
    torch.rnn_tanh: torch.ops.aten.rnn_tanh.input,
    torch.rnn_relu: torch.ops.aten.rnn_relu.input,
}


_BATCH_NORM = torch.ops.aten.native_batch_norm.default
_BATCH_NORM_DEFAULTS: dict[str, Any] = {
    "input": None, "running_mean": None, "running_var": None, "weight": None, "bias": None, "training": False,
    "momentum": 0.1, "eps": 1e-5,
}  # fmt: skip
_BATCH_NORM_ORDER = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")


class Functions(TorchFunctionMode):
    """Keeps recurrent layers whole, and remembers which function refused its arguments.

    Args:
        whole: Notes one operation in place of all that would run in it, and returns what is given for its result.
        value: What stands for a tensor.
    """

    def __init__(self, whole: Whole, value: Callable[[Tensor], object]) -> None:
        super().__init__()
        self._whole = whole
        self._value = value
        self._refused: tuple[Exception | None, str, tuple[Any, ...]] = (None, "", ())

    def refused(self, error: Exception) -> tuple[str, tuple[Any, ...]]:
        """The function that raised an error, and its positional arguments."""
        raised, name, arguments = self._refused
        return (name, arguments) if raised is error else ("", ())

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        op = _RECURRENT.get(func)
        try:
            # PyTorch would take this operation apart in Python, which is most of a pass.
            stated = _batch_norm(func, args, kwargs)
            if stated is not None:
                return self._whole(_BATCH_NORM, stated, {}, lambda: _normalized(stated))[0]
            # A packed sequence has its batch sizes where others have a flag; its lengths are data.
            if op is not None and not isinstance(args[3], Tensor | tuple | list):
                return self._whole(op, args, kwargs, lambda: _recurrent(args))
            return func(*args, **kwargs)
        except Exception as error:
            if self._refused[0] is not error:
                leaves = tree_leaves(args)
                found = tuple(self._value(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
                self._refused = (error, getattr(func, "__name__", str(func)), found)
            raise


def _batch_norm(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    """Arguments of the operation where a function normalizes with stored statistics; None for all others.

    Only the outermost function is seen, which layers and code call differently.
    """
    if func is torch.batch_norm and not kwargs:
        found = args[:8]
    elif func is nn.functional.batch_norm:
        given = _BATCH_NORM_DEFAULTS | dict(zip(_BATCH_NORM_DEFAULTS, args, strict=False)) | kwargs
        found = tuple(given[name] for name in _BATCH_NORM_ORDER)
    else:
        return None
    return None if found[5] or found[3] is None or found[4] is None else found


def _normalized(arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """Tensors of the shapes that batch normalization with stored statistics returns."""
    data, *vectors = arguments[:5]
    for vector in vectors:
        if vector is not None and vector.shape != data.shape[1:2]:
            raise RuntimeError(f"statistics of {vector.shape[0]} channels for an input of {data.shape[1]}")
    return torch.empty_like(data), data.new_empty((0,)), data.new_empty((0,))


def _recurrent(arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """Tensors of the shapes that a recurrent layer returns; its arguments are those of `torch.lstm` and its like."""
    data, state, bidirectional = arguments[0], arguments[1], arguments[7]
    states = list(state) if isinstance(state, tuple | list) else [state]
    width = states[0].shape[-1] * (2 if bidirectional else 1)
    return (data.new_empty((*data.shape[:-1], width)), *(torch.empty_like(one) for one in states))
