"""Normalization with the statistics of its own input, written out as arithmetic.

What for: PyTorch's ONNX exporter takes a batch normalization that has no stored statistics for one with mean 0 and
variance 1. Standardized weights (as in the ResNets of Big Transfer) are computed that way, and so are instance
normalizations in disguise; such a file runs and is wrong.

Source: batch normalization, Ioffe and Szegedy 2015, arXiv:1502.03167, section 3; the variance is the biased one.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["BatchStatistics"]


class BatchStatistics(TorchFunctionMode):
    """Within it, normalization with the statistics of the batch and none stored is plain arithmetic; all else as ever.

    Example:
        >>> x = torch.randn(4, 3, 5)
        >>> with BatchStatistics():
        ...     found = nn.functional.batch_norm(x, None, None, training=True)
        >>> torch.allclose(found, nn.functional.batch_norm(x, None, None, training=True), atol=1e-6)
        True
    """

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
        return func(*args, **kwargs)


_DEFAULTS: dict[str, Any] = {
    "input": None, "running_mean": None, "running_var": None, "weight": None, "bias": None, "training": False,
    "momentum": 0.1, "eps": 1e-5,
}  # fmt: skip


_LIFT = 2.0**26


def _normalized(data: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    others = [dim for dim in range(data.ndim) if dim != 1]
    shape = [-1 if dim == 1 else 1 for dim in range(data.ndim)]
    # A runtime that adds up thousands of numbers one by one is off in the fifth digit, at every layer anew.
    wide = data.double()
    centered = wide - wide.mean(others, keepdim=True)
    variance = centered.square().mean(others, keepdim=True)
    # The exporter drops additions of less than about 1e-7; so both are scaled by a power of two, which is exact.
    normal = (centered * torch.rsqrt(variance * _LIFT + eps * _LIFT) * _LIFT**0.5).to(data.dtype)
    if weight is not None:
        normal = normal * weight.view(shape)
    return normal if bias is None else normal + bias.view(shape)
