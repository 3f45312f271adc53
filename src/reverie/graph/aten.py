"""The rules of PyTorch's own operations.

Importing this module fills the table in `reverie.graph.rules`. Each rule is a few lines: which axes are equal, which
are summed over, which are positions.
"""

import re
from collections.abc import Sequence

import torch

from reverie.graph.coupling import ONE, Axis
from reverie.graph.rules import KERNEL, Step, register_rule
from reverie.graph.trace import Value

__all__ = ["elementwise", "grouped", "tie"]

aten = torch.ops.aten

Axes = tuple[Axis, ...]


@register_rule(
    aten.add, aten._prelu_kernel, aten.copy_, aten.copy, aten.native_dropout, aten.zeros_like, aten.ones_like,
    aten.full_like, aten.empty_like, aten.zero_, aten.fill_, aten.rand_like, aten.randn_like, aten.bernoulli,
    aten.hardswish, aten.hardswish_, aten.mish_, aten.threshold_, aten.masked_fill_, aten.floor_divide,
    aten.log_sigmoid_forward, aten.rrelu_with_noise, aten.bernoulli_, aten.normal_, aten.uniform_,
)  # fmt: skip
def elementwise(step: Step) -> None:
    """Each output position depends on the same position of the inputs, with broadcasting.

    Every operation that PyTorch tags as pointwise shares this rule, which stands in the table under `aten.add`.
    """
    if step.call.op.overloadpacket is aten._prelu_kernel:
        step.attribute(step.axes(step["weight"])[1], "num_parameters")
    rank = len(step.call.outputs[0].shape)
    aligned = [(ONE,) * (rank - len(value.shape)) + step.axes(value) for value in step.call.inputs]
    axes = []
    for size, candidates in zip(step.call.outputs[0].shape, zip(*aligned, strict=True), strict=True):
        axis = ONE
        for candidate in candidates:
            if step.coupling.size(candidate) == size:
                # Resolved: what is computed from a parameter is not that parameter.
                axis = step.coupling.resolve(candidate) if axis == ONE else axis
                step.couple(candidate, axis)
        axes.append(axis)
    step.emit(*[tuple(axes)] * len(step.call.outputs))


@register_rule(aten.clone, aten.detach, aten.alias, aten._to_copy, aten.contiguous, aten.lift_fresh, aten.dropout)
def move(step: Step) -> None:
    """The same tensor again."""
    step.emit_moved(step.axes(step.call.inputs[0]))


@register_rule(aten.zeros, aten.ones, aten.full, aten.empty, aten.new_zeros, aten.new_ones, aten.new_full)
def constant(step: Step) -> None:
    """One number everywhere: no position differs from another, so any may go if the code lets it."""
    step.emit(tuple(step.coupling.atom(size) for size in step.call.outputs[0].shape))


@register_rule(aten.arange, aten.linspace, aten.eye, aten.scalar_tensor)
def enumeration(step: Step) -> None:
    """Numbers made from nothing: positions."""
    step.emit(tuple(step.fixed(size) for size in step.call.outputs[0].shape))


@register_rule(aten.convolution)
def convolution(step: Step) -> None:
    """With G groups the input axis is G x i and the output axis G x o, in data and weight; the sum runs over i."""
    outgoing = grouped(step, step["input"], step["weight"], step["groups"], transposed=step["transposed"])
    tie(step, "bias", outgoing)
    batch, _, *space = step.axes(step["input"])
    step.emit((batch, outgoing, *(_convolved(step, dim, axis) for dim, axis in enumerate(space))))


def _convolved(step: Step, dim: int, axis: Axis) -> Axis:
    """An axis along which a kernel slides: of one tap at every position it treats each by itself."""
    # Without stride or padding, so that position for position is the same.
    still = not any(step["padding"]) and set(step["stride"]) == {1}
    if still and step["weight"].shape[2 + dim] == 1:
        return axis
    step.freeze(axis, "mixes positions along this axis")
    return step.fixed(step.call.outputs[0].shape[2 + dim])


def grouped(step: Step, data: Value, weight: Value, count: int, *, transposed: bool = False) -> Axis:
    """Couple the weight of a convolution with its input, note the layer, and give its output channels."""
    first, second, *kernel = step.axes(weight)
    groups = step.coupling.atom(count)
    inner = step.coupling.atom(step.coupling.size(first) // count)
    step.couple(first, step.coupling.product(groups, inner))
    summed, made = (inner, second) if transposed else (second, inner)
    incoming, outgoing = step.coupling.product(groups, summed), step.coupling.product(groups, made)
    step.couple(step.axes(data)[1], incoming)
    step.consume(first if transposed else second)
    for axis in kernel:
        step.coupling.freeze(axis, KERNEL)
    step.attribute(incoming, "in_channels")
    step.attribute(outgoing, "out_channels")
    # Fixed filters per channel, as for anti-aliasing, state their groups as a number of channels.
    step.attribute(groups, "groups", "channels")
    if "stride" in step.call.arguments:
        step.layer("conv", weight, data, incoming, outgoing, groups)
    return outgoing


@register_rule(aten.mm, aten.addmm, aten.bmm, aten.baddbmm)
def matrix_product(step: Step) -> None:
    """(..., n, k) times (..., k, m): k is summed."""
    left, right = (value for value in step.call.inputs[-2:])
    *batch, rows, inner = step.axes(left)
    *other_batch, other_inner, columns = step.axes(right)
    for one, other in zip(batch, other_batch, strict=True):
        step.couple(one, other)
    step.couple(inner, other_inner)
    step.consume(other_inner, inner)
    if len(step.call.inputs) == 3:
        for axis, target in zip(reversed(step.axes(step.call.inputs[0])), (columns, rows), strict=False):
            if axis != ONE:
                step.couple(axis, target)
    step.emit((*batch, rows, columns))
    if step.is_stored(right) and not batch:
        _linear_layer(step, right, left, other_inner, columns)


@register_rule(aten.linear)
def linear(step: Step) -> None:
    """(..., in) times a weight (out, in): in is summed."""
    outgoing, incoming = step.axes(step["weight"])
    *rows, inner = step.axes(step["input"])
    step.couple(inner, incoming)
    step.consume(incoming)
    tie(step, "bias", outgoing)
    step.emit((*rows, outgoing))
    _linear_layer(step, step["weight"], step["input"], incoming, outgoing)


@register_rule(
    aten.native_batch_norm, aten._native_batch_norm_legit_no_training, aten._native_batch_norm_legit,
    aten.cudnn_batch_norm, aten.miopen_batch_norm, aten._batch_norm_with_update, aten._batch_norm_no_update,
)  # fmt: skip
def batch_norm(step: Step) -> None:
    """Channel by channel; with statistics of the batch, all other axes are mixed."""
    axes = step.axes(step["input"])
    for name in ("weight", "bias", "running_mean", "running_var"):
        tie(step, name, axes[1])
    if step.call.arguments.get("training", False):
        for axis in (axes[0], *axes[2:]):
            step.cross(axis, "takes statistics over these units")
    step.attribute(axes[1], "num_features")
    step.emit((axes[0], axes[1], *axes[2:]))


@register_rule(aten.mv, aten.dot, aten.vdot)
def vector_product(step: Step) -> None:
    """(..., k) times (k): k is summed."""
    *rows, inner = step.axes(step.call.inputs[0])
    (other,) = step.axes(step.call.inputs[1])
    step.couple(inner, other)
    step.consume(other, inner)
    step.emit(tuple(rows))


@register_rule(aten._weight_norm_interface, aten._weight_norm)
def weight_norm(step: Step) -> None:
    """A weight is divided by its norm over all axes but one, and scaled along that one."""
    axes, scale = step.axes(step["v"]), step.axes(step["g"])
    for dim, axis in enumerate(axes):
        if dim == step["dim"] % len(axes):
            step.couple(axis, scale[dim])
        else:
            step.cross(axis, "normalizes across these units")
    step.emit(axes, scale)


@register_rule(aten._fused_rms_norm, aten.native_layer_norm)
def layer_norm(step: Step) -> None:
    """Mean square or variance over the last axes: taking a unit away changes all others."""
    axes = step.axes(step["input"])
    normalized = axes[-len(step["normalized_shape"]) :]
    for name in ("weight", "bias"):
        vector = _optional(step, name)
        for axis, other in zip(step.axes(vector) if vector else (), normalized, strict=vector is not None):
            step.couple(axis, other)
    for axis in normalized:
        step.cross(axis, "normalizes across these units")
        step.attribute(axis, "normalized_shape")
    step.emit(axes)


@register_rule(aten.native_group_norm)
def group_norm(step: Step) -> None:
    """Channels are groups x members; statistics run over the members, and whole groups are independent."""
    axes = step.axes(step["input"])
    groups = step.coupling.atom(step["group"])
    members = step.coupling.atom(step["C"] // step["group"])
    step.couple(axes[1], step.coupling.product(groups, members))
    for name in ("weight", "bias"):
        tie(step, name, axes[1])
    step.cross(members, "normalizes across these units")
    step.attribute(axes[1], "num_channels")
    step.attribute(groups, "num_groups")
    step.emit((axes[0], axes[1], *axes[2:]))


@register_rule(
    aten.max_pool2d_with_indices, aten.max_pool3d_with_indices, aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d,
    aten.adaptive_avg_pool1d, aten._adaptive_avg_pool2d, aten._adaptive_avg_pool3d, aten.adaptive_avg_pool2d,
    aten.adaptive_max_pool2d, aten.upsample_nearest1d, aten.upsample_nearest2d, aten.upsample_nearest3d,
    aten.upsample_bilinear2d, aten.upsample_bicubic2d, aten.upsample_linear1d, aten._upsample_bilinear2d_aa,
    aten._upsample_bicubic2d_aa, aten.upsample_trilinear3d, aten._upsample_nearest_exact2d, aten.reflection_pad1d,
    aten.reflection_pad2d, aten.replication_pad2d,
)  # fmt: skip
def spatial(step: Step) -> None:
    """Each channel by itself; the last one, two or three axes, as the name says, get other positions."""
    found = re.search(r"(\d)d", str(step.call.op.overloadpacket))
    count = int(found[1]) if found else 0
    axes = step.axes(step.call.inputs[0])
    for axis in axes[-count:]:
        step.freeze(axis, "mixes positions along this axis")
    shape = step.call.outputs[0].shape
    left = (*axes[:-count], *(step.fixed(size) for size in shape[-count:]))
    # Pooling also gives the places of what it took: one for each element, unlike other by-products.
    step.emit(*[left for value in step.call.outputs if value.shape == shape])


@register_rule(
    aten.mean, aten.sum, aten.amax, aten.amin, aten.max, aten.min, aten.var, aten.std, aten.var_mean, aten.prod,
    aten.logsumexp, aten.linalg_vector_norm, aten.any, aten.all, aten.norm,
)  # fmt: skip
def reduction(step: Step) -> None:
    """One number per position of the other axes, computed over all positions of the reduced ones."""
    if len(step.call.inputs) > 1:
        elementwise(step)
        return
    axes = step.axes(step.call.inputs[0])
    reduced = _dims(step, len(axes))
    for dim in reduced:
        step.cross(axes[dim], "reduces over these units")
    keep = len(step.call.outputs[0].shape) == len(axes)
    left = [ONE if dim in reduced else axis for dim, axis in enumerate(axes) if keep or dim not in reduced]
    step.emit(*[tuple(left)] * len(step.call.outputs))


@register_rule(aten._softmax, aten._safe_softmax, aten._log_softmax, aten.softmax, aten.log_softmax)
def softmax(step: Step) -> None:
    """Each position of `dim` is divided by a sum over all of them."""
    axes = step.axes(step.call.inputs[0])
    step.cross(axes[step["dim"]], "normalizes across these units")
    step.emit(axes)


@register_rule(aten.argmax, aten.argmin)
def numbering(step: Step) -> None:
    """The number of a position: it means something else when positions go."""
    axes = step.axes(step.call.inputs[0])
    found = _dims(step, len(axes))
    _freeze_dims(step, axes, found, "numbers these units")
    keep = len(step.call.outputs[0].shape) == len(axes)
    step.emit(tuple(ONE if dim in found else axis for dim, axis in enumerate(axes) if keep or dim not in found))


@register_rule(aten.cumsum, aten.sort, aten.flip, aten.cumprod)
def along(step: Step) -> None:
    """Positions along `dim` depend on their order; all other axes pass."""
    axes = step.axes(step.call.inputs[0])
    _freeze_dims(step, axes, step["dims"] if "dims" in step.call.arguments else step["dim"], "mixes these units")
    step.emit(*[axes] * len(step.call.outputs))


@register_rule(aten.roll)
def roll(step: Step) -> None:
    """Positions along `dims` move round."""
    axes = step.axes(step["self"])
    _freeze_dims(step, axes, step["dims"] or range(len(axes)), "rolls along this axis")
    step.emit(axes)


def _optional(step: Step, name: str) -> Value | None:
    found = step.call.arguments.get(name)
    return found if isinstance(found, Value) else None


def tie(step: Step, name: str, axis: Axis) -> None:
    """Couple the only axis of an optional vector argument, such as a bias."""
    vector = _optional(step, name)
    if vector is not None:
        step.couple(step.axes(vector)[0], axis)


def _dims(step: Step, rank: int) -> list[int]:
    """The argument `dim` as non-negative numbers; absent or empty means all."""
    given = step.call.arguments.get("dim")
    listed = [given] if isinstance(given, int) else list(given or range(rank))
    return [dim % rank for dim in listed]


def _freeze_dims(step: Step, axes: Axes, dims: int | Sequence[int], why: str) -> None:
    for dim in [dims] if isinstance(dims, int) else dims:
        step.freeze(axes[dim], why)


def _linear_layer(step: Step, weight: Value, data: Value, incoming: Axis, outgoing: Axis) -> None:
    step.attribute(incoming, "in_features")
    step.attribute(outgoing, "out_features")
    step.layer("linear", weight, data, incoming, outgoing)
