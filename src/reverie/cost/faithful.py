"""What exporters and runtimes get wrong, written so that they cannot: a mode in which PyTorch's exporter traces.

A maximum over a padded map: ONNX Runtime 1.31 makes the padding a part of the pooling, where it counts as minus
infinity and not as the number that it was.

A convolution whose number of groups is the batch: a file states one number of groups, so the free batch has no place.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["Faithful"]


class Faithful(TorchFunctionMode):
    """Within it, both are plain arithmetic that means the same; all else as ever.

    Example:
        >>> x, pool = torch.full((1, 1, 2, 2), -3.0), nn.Sequential(nn.ConstantPad2d(1, 0.0), nn.MaxPool2d(2))
        >>> with Faithful():
        ...     found = pool(x)
        >>> torch.equal(found, pool(x))
        True
    """

    def __init__(self) -> None:
        super().__init__()
        # The tensors themselves: an id alone would be given to another.
        self._padded: dict[int, Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401  PyTorch's protocol
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  whatever the function returns
        kwargs = kwargs or {}
        if func is torch.conv2d:
            given = _CONVOLUTION | dict(zip(_CONVOLUTION, args, strict=False)) | kwargs
            if isinstance(given["groups"], torch.SymInt):
                return _one_kernel_each(given)
        name = getattr(func, "__name__", "")
        if name in _POOLS and args and id(args[0]) in self._padded:
            # The maximum with minus infinity changes nothing, and keeps the two apart.
            args = (torch.maximum(args[0], args[0].new_full((), -torch.inf)), *args[1:])
        result = func(*args, **kwargs)
        if name == "pad" and isinstance(result, Tensor):
            self._padded[id(result)] = result
        return result


_POOLS = {f"{prefix}max_pool{dims}d{more}" for prefix in ("", "_") for dims in "123" for more in ("", "_with_indices")}
_CONVOLUTION: dict[str, Any] = {
    "input": None, "weight": None, "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1,
}  # fmt: skip


def _one_kernel_each(given: dict[str, Any]) -> Tensor:
    """A convolution of a free number of groups, as where every example has its own kernel: patches times kernels."""
    data, weight, groups = given["input"], given["weight"], given["groups"]
    size = weight.shape[2:]
    sides = [(one, one) if isinstance(one, int) else tuple(one) for one in (given["stride"], given["padding"])]
    dilation = given["dilation"]
    dilation = (dilation, dilation) if isinstance(dilation, int) else tuple(dilation)
    incoming, count = weight.shape[1], data.shape[0]
    height, width = (
        (data.shape[2 + dim] + 2 * sides[1][dim] - dilation[dim] * (size[dim] - 1) - 1) // sides[0][dim] + 1
        for dim in (0, 1)
    )
    patches = nn.functional.unfold(
        data.reshape(count * groups, incoming, *data.shape[2:]), tuple(size), dilation, sides[1], sides[0]
    )
    kernels = weight.reshape(groups, -1, incoming * size[0] * size[1])
    if count > 1:
        kernels = kernels.repeat(count, 1, 1)
    made = torch.bmm(kernels, patches).reshape(count, -1, height, width)
    return made if given["bias"] is None else made + given["bias"][:, None, None]
