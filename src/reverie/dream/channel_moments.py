"""Mean and variance of every channel of an activation, wherever its channels lie, with an analytic backward.

Cost: forward one fused pass, backward one multiplication and addition per element, also where autograd would keep
several copies of the activation.
"""

from typing import Any

import torch
from torch import Tensor, nn

from reverie.dream.statistics import mean_and_variance, moments_backward

__all__ = ["ChannelMoments", "channel_axis", "channel_moments"]


class ChannelMoments(torch.autograd.Function):
    """Mean m and biased variance v over all axes but one.

    With n elements per channel and gradients gm, gv: dx = (gm + 2 gv (x - m)) / n.

    Shapes: x (..., c, ...) -> m (c,), v (c,), in float32 where x is of half precision.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: int) -> tuple[Tensor, Tensor]:  # noqa: ANN401  torch's context object
        """Both moments."""
        mean, variance = mean_and_variance(_as_images(x, axis))
        ctx.save_for_backward(x, mean)
        ctx.axis = axis
        ctx.set_materialize_grads(False)
        return mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401  torch's context object
        grad_mean: Tensor | None,
        grad_variance: Tensor | None,
    ) -> tuple[Tensor | None, None]:
        """One affine map of x."""
        x, mean = ctx.saved_tensors
        shape = [1] * x.ndim
        shape[ctx.axis] = -1
        slope, offset = moments_backward(mean, grad_mean, grad_variance, count=x.numel() // x.shape[ctx.axis])
        return torch.addcmul(offset.view(shape).to(x.dtype), x, slope.view(shape).to(x.dtype)), None


def channel_moments(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, with a graph to x.

    Args:
        x: Any activation of at least two axes.
        axis: The axis of its channels, from 0 or from the end.

    Example:
        >>> mean, variance = channel_moments(torch.tensor([[[1.0, 5.0], [3.0, 5.0]]]), -1)
        >>> mean, variance
        (tensor([2., 5.]), tensor([1., 0.]))
    """
    moments: tuple[Tensor, Tensor] = ChannelMoments.apply(x, axis % x.ndim)
    return moments


def channel_axis(module: nn.Module, x: Tensor) -> int:
    """Where the channels of a layer's activation lie: last for linear maps and layer normalization, else second."""
    two_dimensional = type(module).__name__.endswith("2d")
    last = isinstance(module, nn.Linear | nn.LayerNorm | nn.RMSNorm) or x.ndim == 3
    if isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.modules.conv._ConvNd) or two_dimensional:
        return 1
    return x.ndim - 1 if last else 1


def _as_images(x: Tensor, axis: int) -> Tensor:
    """The same numbers with channels second: as they lie, or as one row of pixels with channels innermost."""
    if axis == 1:
        return x
    pixels = x.movedim(axis, -1).contiguous()
    return pixels.view(1, -1, 1, x.shape[axis]).permute(0, 3, 1, 2)
