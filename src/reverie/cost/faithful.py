"""What exporters and runtimes get wrong, written so that they cannot: a mode in which PyTorch's exporter traces.

Normalization with the statistics of its own input: PyTorch's ONNX exporter takes a batch normalization that has no
stored statistics for one with mean 0 and variance 1. Standardized weights, as in the networks of Big Transfer, are
computed that way; such a file runs and is wrong.

A maximum over a padded map: ONNX Runtime 1.23 makes the padding a part of the pooling, where it counts as minus
infinity and not as the number that it was.

A convolution whose number of groups is the batch: a file states one number of groups, so the free batch has no place.

Source: batch normalization, Ioffe and Szegedy 2015, arXiv:1502.03167, section 3; the variance is the biased one.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["Faithful"]


class Faithful(TorchFunctionMode):
    """Within it, all three are plain arithmetic that means the same; all else as ever.

    Example:
        >>> x = torch.randn(4, 3, 5)
        >>> with Faithful():
        ...     found = nn.functional.batch_norm(x, None, None, training=True)
        >>> torch.allclose(found, nn.functional.batch_norm(x, None, None, training=True), atol=1e-6)
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
        if func is nn.functional.batch_norm:
            given = _DEFAULTS | dict(zip(_DEFAULTS, args, strict=False)) | kwargs
            if given["training"] and given["running_mean"] is None and given["running_var"] is None:
                return _normalized(given["input"], given["weight"], given["bias"], given["eps"])
        if func is torch.conv2d:
            given = _CONVOLUTION | dict(zip(_CONVOLUTION, args, strict=False)) | kwargs
            if isinstance(given["groups"], torch.SymInt):
                return _one_kernel_each(given)
        name = getattr(func, "__name__", "")
        if name in _POOLS and args and id(args[0]) in self._padded:
            # The maximum with minus infinity changes nothing, and keeps the two apart.
            args = (torch.maximum(args[0], torch.full((), -torch.inf, dtype=args[0].dtype)), *args[1:])
        result = func(*args, **kwargs)
        if name == "pad" and isinstance(result, Tensor):
            self._padded[id(result)] = result
        return result


_POOLS = {f"{prefix}max_pool{dims}d{more}" for prefix in ("", "_") for dims in "123" for more in ("", "_with_indices")}
_DEFAULTS: dict[str, Any] = {
    "input": None, "running_mean": None, "running_var": None, "weight": None, "bias": None, "training": False,
    "momentum": 0.1, "eps": 1e-5,
}  # fmt: skip


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


_LIFT = 2.0**26


def _normalized(data: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    others = [dim for dim in range(data.ndim) if dim != 1]
    shape = [-1 if dim == 1 else 1 for dim in range(data.ndim)]
    # A runtime that adds up thousands of numbers one by one is off in the fifth digit, at every layer anew.
    wide = data.double()
    # Sums: the exporter names what it works out after the operation, and "mean" may be the name of a network's own.
    count = data.numel() // data.shape[1]
    centered = wide - wide.sum(others, keepdim=True) / count
    variance = centered.square().sum(others, keepdim=True) / count
    # The exporter drops additions of less than about 1e-7; so both are scaled by a power of two, which is exact.
    normal = (centered * torch.rsqrt(variance * _LIFT + eps * _LIFT) * _LIFT**0.5).to(data.dtype)
    if weight is not None:
        normal = normal * weight.view(shape)
    return normal if bias is None else normal + bias.view(shape)
