"""Masked forms of what takes statistics: means, variances, norms, maxima, softmax, normalizations."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from reverie.core.errors import UnsupportedOp
from reverie.graph.oracle_rules import Arguments, fill, handles

__all__ = ["moments"]

aten = torch.ops.aten


def moments(x: Tensor, mask: Tensor, dims: Sequence[int], *, correction: float = 0.0) -> tuple[Tensor, Tensor]:
    """Mean and variance over some dimensions, of the elements that are there.

    Args:
        x: Any tensor.
        mask: Which of its elements are there.
        dims: Over which dimensions; they stay, with size 1.
        correction: Taken from the count under the variance.
    """
    dims = list(dims)
    count = mask.sum(dims, keepdim=True).clamp(min=1)
    mean = fill(x, mask, 0.0).sum(dims, keepdim=True) / count
    spread = fill((x - mean).square(), mask, 0.0).sum(dims, keepdim=True)
    return mean, spread / (count - correction).clamp(min=1)


def _dims(given: Arguments, rank: int) -> list[int]:
    dim = given.get("dim")
    listed = [dim] if isinstance(dim, int) else list(dim if dim is not None else [])
    return [one % rank for one in listed] or list(range(rank))


def _left(given: Arguments, mask: Tensor, dims: Sequence[int]) -> Tensor:
    """Which results of a reduction are there."""
    found = mask
    for dim in dims:
        found = found.any(dim, keepdim=True)
    return found if given.get("keepdim") else found.reshape([n for i, n in enumerate(found.shape) if i not in dims])


def _reshaped(given: Arguments, value: Tensor, dims: Sequence[int]) -> Tensor:
    return value if given.get("keepdim") else value.reshape([n for i, n in enumerate(value.shape) if i not in dims])


@handles(aten.mean, aten.var, aten.std, aten.var_mean, aten.std_mean)
def statistics(given: Arguments) -> tuple[Any, Sequence[Tensor]]:
    """Means and deviations over the survivors."""
    x, mask = given["self"], given.mask("self")
    dims = _dims(given, x.ndim)
    correction = given.get("correction")
    if correction is None:
        correction = 1.0 if given.get("unbiased") in (None, True) else 0.0
    mean, variance = moments(x, mask, dims, correction=float(correction))
    left = _left(given, mask, dims)
    name = given.func.overloadpacket.__name__
    spread = variance.sqrt() if name.startswith("std") else variance
    parts = [mean] if name == "mean" else [spread, mean] if name.endswith("_mean") else [spread]
    found = [fill(_reshaped(given, part, dims), left, 0.0) for part in parts]
    return (tuple(found) if len(found) > 1 else found[0]), [left] * len(found)


@handles(aten.sum, aten.linalg_vector_norm, aten.norm, aten.amax, aten.amin, aten.max, aten.min, aten.prod,
         aten.logsumexp, aten.any, aten.all)  # fmt: skip
def reduction(given: Arguments) -> tuple[Any, Sequence[Tensor]]:
    """Sums, norms and extremes over the survivors."""
    name = given.func.overloadpacket.__name__
    x, mask = given["self"], given.mask("self")
    if "other" in given.named:
        both = mask & given.mask("other")
        return fill(given.call(), both, 0.0), [both]
    neutral = {"amax": -torch.inf, "max": -torch.inf, "amin": torch.inf, "min": torch.inf, "prod": 1.0}
    neutral["logsumexp"] = -torch.inf
    dims = _dims(given, x.ndim)
    result = given.call(self=given.filled("self", neutral.get(name, 0.0)))
    left = _left(given, mask, dims)
    outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    if not bool(left.all()) and outputs[0].is_floating_point():
        outputs[0].masked_fill_(~left, 0.0)
    return result, [left] * len(outputs)


@handles(aten._softmax, aten._safe_softmax, aten.softmax, aten._log_softmax, aten.log_softmax)
def softmax(given: Arguments) -> tuple[Any, Sequence[Tensor]]:
    """Shares among the survivors."""
    mask = given.mask("self")
    found = given.call(self=given.filled("self", -torch.inf))
    return fill(found, mask, 0.0), [mask.clone()]


@handles(aten.cumsum, aten.cumprod, aten.sort, aten.topk, aten.argmax, aten.argmin, aten.argsort)
def ordered(given: Arguments) -> tuple[Any, Sequence[Tensor]]:
    """Places matter along one dimension: all of them, or none, must be there."""
    x, mask = given["self"], given.mask("self")
    dim = given.get("dim")
    line = mask.flatten() if dim is None else mask.movedim(dim, -1)
    if not torch.equal(line.any(-1), line.all(-1)):
        raise UnsupportedOp(
            f"{given.func.overloadpacket} orders units of which some are gone; such a cut has no reference"
        )
    result = given.call(self=given.filled("self"))
    outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    found = []
    for output in outputs:
        whole = torch.ones(output.shape, dtype=torch.bool, device=x.device)
        if dim is not None:
            rows = mask.any(dim, keepdim=True)
            whole &= rows if output.ndim == x.ndim else rows.squeeze(dim)
        found.append(whole)
    return result, found


def _affine(x: Tensor, mask: Tensor, given: Arguments, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Scale and shift by vectors that may have lost elements."""
    for name, combine in (("weight", torch.mul), ("bias", torch.add)):
        if given.get(name) is not None:
            x = combine(x, given.filled(name).reshape(shape))
            mask = mask & given.mask(name).reshape(shape)
    return fill(x, mask, 0.0), mask


def _by_products(x: Tensor) -> tuple[Tensor, Tensor]:
    empty = torch.zeros(0, dtype=x.dtype, device=x.device)
    return empty, empty.clone()


@handles(aten.native_layer_norm)
def layer_norm(given: Arguments) -> tuple[Any, Sequence[Tensor]]:
    """Statistics over the survivors of the last dimensions."""
    x, mask, shape = given["input"], given.mask("input"), given["normalized_shape"]
    mean, variance = moments(x, mask, range(-len(shape), 0))
    out, left = _affine((x - mean) * (variance + given["eps"]).rsqrt(), mask, given, shape)
    return (out, *_by_products(x)), [left]


@handles(aten._fused_rms_norm, aten.rms_norm)
def rms_norm(given: Arguments) -> tuple[Any, Sequence[Tensor]]:
    """Mean square over the survivors of the last dimensions."""
    x, mask, shape = given["input"], given.mask("input"), given["normalized_shape"]
    mean, _ = moments(x.square(), mask, range(-len(shape), 0))
    eps = given.get("eps")
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    out, left = _affine(x * (mean + eps).rsqrt(), mask, given, shape)
    single = given.func.overloadpacket is aten.rms_norm
    return (out if single else (out, _by_products(x)[0])), [left]


@handles(aten.native_group_norm)
def group_norm(given: Arguments) -> tuple[Any, Sequence[Tensor]]:
    """Statistics over the survivors of each group."""
    x, mask, groups = given["input"], given.mask("input"), given["group"]
    count = x.shape[0]
    grouped, there = x.reshape(count, groups, -1), mask.reshape(count, groups, -1)
    mean, variance = moments(grouped, there, (-1,))
    normed = ((grouped - mean) * (variance + given["eps"]).rsqrt()).reshape(x.shape)
    out, left = _affine(normed, mask, given, (1, -1, *[1] * (x.ndim - 2)))
    return (out, *_by_products(x)), [left]


@handles(
    aten.native_batch_norm, aten._native_batch_norm_legit_no_training, aten._native_batch_norm_legit,
    aten.cudnn_batch_norm, aten.miopen_batch_norm, aten._batch_norm_with_update, aten._batch_norm_no_update,
)  # fmt: skip
def batch_norm(given: Arguments) -> tuple[Any, Sequence[Tensor]]:
    """Stored statistics, or those of the survivors of each channel."""
    x, mask = given["input"], given.mask("input")
    column = (1, -1, *[1] * (x.ndim - 2))
    if given.get("running_mean") is None or given.get("training"):
        mean, variance = moments(x, mask, [dim for dim in range(x.ndim) if dim != 1])
    else:
        mean, variance = given["running_mean"].reshape(column), given["running_var"].reshape(column)
        mask = mask & given.mask("running_mean").reshape(column) & given.mask("running_var").reshape(column)
    eps = given["eps"] if "eps" in given.named else given["epsilon"]
    out, left = _affine((x - mean) * (variance + eps).rsqrt(), mask, given, column)
    return (out, *_by_products(x)), [left]


@handles(aten._weight_norm_interface, aten._weight_norm)
def weight_norm(given: Arguments) -> tuple[Any, Sequence[Tensor]]:
    """Directions times lengths; a direction's length counts its survivors."""
    v, mask = given.filled("v"), given.mask("v")
    dims = [dim for dim in range(v.ndim) if dim != given["dim"] % v.ndim]
    length = torch.linalg.vector_norm(v, dim=dims, keepdim=True)
    left = mask & given.mask("g")
    out = fill(v * (given["g"] / torch.where(length > 0, length, 1.0)), left, 0.0)
    single = given.func.overloadpacket is aten._weight_norm
    return (out if single else (out, length)), [left]
