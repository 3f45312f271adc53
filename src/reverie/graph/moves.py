"""The rules of operations that only move elements: views, permutations, concatenation, slices, padding.

Importing this module fills the table in `reverie.graph.rules`.
"""

import math

import torch

from reverie.graph.coupling import ONE, Axis
from reverie.graph.rules import POSITION, Step, register_rule

__all__: list[str] = []

aten = torch.ops.aten


@register_rule(aten.permute, aten.transpose, aten.t, aten.numpy_T)
def permute(step: Step) -> None:
    """Axes change places."""
    axes = list(step.axes(step["self"]))
    if "dims" in step.call.arguments:
        axes = [axes[dim] for dim in step["dims"]]
    elif "dim0" in step.call.arguments:
        first, second = step["dim0"], step["dim1"]
        axes[first], axes[second] = axes[second], axes[first]
    else:
        axes.reverse()
    step.emit_moved(tuple(axes))


@register_rule(aten.view, aten._unsafe_view, aten.reshape, aten.flatten, aten.squeeze, aten.unsqueeze)
def view(step: Step) -> None:
    """Axes merge into products and split into factors, in row-major order."""
    data = step["self"]
    target = step.call.outputs[0].shape
    if 0 in data.shape:
        step.emit_moved(tuple(step.fixed(size) for size in target))
        return
    axes = [axis for axis, size in zip(step.axes(data), data.shape, strict=True) if size > 1]
    sizes = [size for size in target if size > 1]
    regrouped = iter(_regroup(step, axes, sizes))
    step.emit_moved(tuple(next(regrouped) if size > 1 else ONE for size in target))


def _regroup(step: Step, axes: list[Axis], sizes: list[int]) -> list[Axis]:
    """Axes of the given sizes over the same elements: the smallest blocks that align are merged, split or passed."""
    result: list[Axis] = []
    start = done = 0
    while start < len(axes):
        stop, until = start + 1, done + 1
        while (gap := step.coupling.size(step.coupling.product(*axes[start:stop])) - math.prod(sizes[done:until])) != 0:
            if gap > 0:
                until += 1
            else:
                stop += 1
        block = axes[start] if stop == start + 1 else step.coupling.product(*axes[start:stop])
        result.extend([block] if until == done + 1 else _factors(step, block, sizes[done:until]))
        start, done = stop, until
    return result


def _factors(step: Step, axis: Axis, sizes: list[int]) -> list[Axis]:
    if not step.coupling.free(axis):
        return [step.fixed(size) for size in sizes]
    factors = [step.coupling.atom(size) for size in sizes]
    step.couple(axis, step.coupling.product(*factors))
    return factors


@register_rule(aten.as_strided_, aten.as_strided)
def as_strided(step: Step) -> None:
    """PyTorch lays out the result of a mean anew, in the same shape; all else that strides can say is frozen."""
    data = step["self"]
    if tuple(step["size"]) == data.shape and step["storage_offset"] in (None, 0):
        step.emit_moved(step.axes(data))
        return
    for axis in step.axes(data):
        step.freeze(axis, "is laid out anew")
    step.emit(tuple(step.fixed(size) for size in step.call.outputs[0].shape))


@register_rule(aten.unfold)
def unfold(step: Step) -> None:
    """One axis becomes windows, and the positions within a window a new last axis."""
    axes = list(step.axes(step["self"]))
    dim = step["dimension"] % len(axes)
    step.freeze(axes[dim], "is cut into windows")
    shape = step.call.outputs[0].shape
    axes[dim] = step.fixed(shape[dim])
    step.emit((*axes, step.fixed(shape[-1])))


@register_rule(aten.expand, aten.expand_as)
def expand(step: Step) -> None:
    """Size 1 is repeated; the repeats are alike, so any may go if the code lets it."""
    shape = step.call.outputs[0].shape
    axes = step.axes(step["self"])
    axes = (ONE,) * (len(shape) - len(axes)) + axes
    step.emit(tuple(step.coupling.atom(size) if axis == ONE else axis for axis, size in zip(axes, shape, strict=True)))


@register_rule(aten.repeat)
def repeat(step: Step) -> None:
    """Whole copies in a row, or new axes of copies."""
    data, repeats = step["self"], step["repeats"]
    axes = (ONE,) * (len(repeats) - len(data.shape)) + step.axes(data)
    step.emit(
        tuple(
            axis if count == 1 else step.coupling.product(step.fixed(count), axis)
            for axis, count in zip(axes, repeats, strict=True)
        )
    )


@register_rule(aten.cat)
def cat(step: Step) -> None:
    """The axis `dim` is the inputs' axes one after the other; all others are equal."""
    # An empty one-dimensional tensor may be concatenated with anything, and adds nothing.
    inputs = [step.axes(value) for value in step["tensors"] if value.shape != (0,)]
    dim = step["dim"] % len(inputs[0])
    axes = list(inputs[0])
    for other in inputs[1:]:
        for index, axis in enumerate(other):
            if index != dim:
                step.couple(axes[index], axis)
    axes[dim] = step.coupling.concat(*(one[dim] for one in inputs))
    step.emit(tuple(axes))


@register_rule(aten.stack)
def stack(step: Step) -> None:
    """A new axis of positions; all others are equal."""
    inputs = [step.axes(value) for value in step["tensors"]]
    for other in inputs[1:]:
        for one, axis in zip(inputs[0], other, strict=True):
            step.couple(one, axis)
    axes = list(inputs[0])
    axes.insert(step["dim"] % (len(axes) + 1), step.fixed(len(inputs)))
    step.emit(tuple(axes))


@register_rule(aten.split, aten.unsafe_split)
def split_equal(step: Step) -> None:
    """Parts of one size: the axis is parts x members, so every part loses the same members.

    Code that asks for a number of parts follows such a cut; code that states the size of a part is found out when the
    cut is rehearsed.
    """
    axes = step.axes(step["self"])
    dim = step["dim"] % len(axes)
    sizes = [value.shape[dim] for value in step.call.outputs]
    if len(set(sizes)) > 1:
        _split_at(step, dim, sizes)
        return
    part = axes[dim]
    if len(sizes) > 1:
        part = step.coupling.atom(sizes[0])
        step.couple(axes[dim], step.coupling.product(step.fixed(len(sizes)), part))
    step.emit_moved(*[(*axes[:dim], part, *axes[dim + 1 :])] * len(sizes))


@register_rule(aten.split_with_sizes, aten.unsafe_split_with_sizes)
def split_with_sizes(step: Step) -> None:
    """Neighboring segments."""
    _split_at(step, step["dim"] % len(step["self"].shape), step["split_sizes"])


def _split_at(step: Step, dim: int, sizes: list[int]) -> None:
    axes = step.axes(step["self"])
    outputs, rest = [], axes[dim]
    for size in sizes:
        parts = step.coupling.split(rest, size)
        if parts is None:
            step.freeze(axes[dim], "splits within the rows of a unit")
            parts = step.fixed(size), step.fixed(step.coupling.size(rest) - size)
        outputs.append((*axes[:dim], parts[0], *axes[dim + 1 :]))
        rest = parts[1]
    step.emit_moved(*outputs)


@register_rule(aten.slice)
def slice_(step: Step) -> None:
    """A segment of an axis; with a stride, positions."""
    data, size = step["self"], step.call.outputs[0].shape
    dim = step["dim"] % len(data.shape)
    axes = list(step.axes(data))
    if size[dim] != data.shape[dim]:
        before = segment_start(step["start"], data.shape[dim])
        if step["step"] > 1 and step["step"] * size[dim] == data.shape[dim]:
            axes[dim] = _every(step, axes[dim], size[dim])
            step.emit_moved(tuple(axes))
            return
        tail = step.coupling.split(axes[dim], before) if step["step"] == 1 else None
        segment = step.coupling.split(tail[1], size[dim]) if tail else None
        if segment is None:
            step.freeze(axes[dim], "takes positions that are no segment of units")
        axes[dim] = segment[0] if segment else step.fixed(size[dim])
    step.emit_moved(tuple(axes))


def _every(step: Step, axis: Axis, count: int) -> Axis:
    """The axis of which every n-th position is taken: it is `count` x n, so the n neighbors go together."""
    kept = step.coupling.atom(count)
    step.couple(axis, step.coupling.product(kept, step.fixed(step.coupling.size(axis) // count)))
    return kept


def segment_start(start: int | None, size: int) -> int:
    """The first position of a Python slice, counted from 0."""
    return slice(start, None).indices(size)[0]


@register_rule(aten.select)
def select(step: Step) -> None:
    """One position of an axis."""
    axes = list(step.axes(step["self"]))
    _place(step, axes.pop(step["dim"] % len(axes)), "selects one position by number")
    step.emit_moved(tuple(axes))


def _place(step: Step, axis: Axis, why: str) -> None:
    """Freeze what is read by number. A factor of an axis, such as the three of queries, keys, values, is no unit."""
    if axis in (ONE, ()):
        return
    if step.names_parameter(axis):
        step.freeze(axis, why)
    else:
        step.coupling.freeze(axis, POSITION)


@register_rule(aten.unbind)
def unbind(step: Step) -> None:
    """Every position of an axis by itself."""
    axes = list(step.axes(step["self"]))
    _place(step, axes.pop(step["dim"] % len(axes)), "takes the positions apart")
    step.emit_moved(*[tuple(axes)] * len(step.call.outputs))


@register_rule(aten.index, aten._unsafe_index)
def index(step: Step) -> None:
    """Positions that a table of numbers states, along one axis or several; what they were taken from must stay."""
    data, given = step["self"], list(step["indices"])
    axes = list(step.axes(data))
    indexed = [dim for dim, table in enumerate(given) if table is not None]
    for dim in indexed:
        step.freeze(axes[dim], "is read at positions that a table states")
    looked_up = len(step.call.outputs[0].shape) - (len(axes) - len(indexed))
    made = [step.fixed(size) for size in torch.broadcast_shapes(*(given[dim].shape for dim in indexed))]
    if len(made) != looked_up:
        step.emit(tuple(step.fixed(size) for size in step.call.outputs[0].shape))
        return
    adjacent = indexed[-1] - indexed[0] + 1 == len(indexed)
    at = indexed[0] if adjacent else 0
    rest = [axis for dim, axis in enumerate(axes) if dim not in indexed]
    step.emit((*rest[:at], *made, *rest[at:]))


@register_rule(aten.index_select)
def index_select(step: Step) -> None:
    """Positions of one axis that a table states."""
    axes = list(step.axes(step["self"]))
    dim = step["dim"] % len(axes)
    step.freeze(axes[dim], "is read at positions that a table states")
    axes[dim] = step.fixed(step.call.outputs[0].shape[dim])
    step.emit(tuple(axes))


@register_rule(aten.gather)
def gather(step: Step) -> None:
    """Positions of one axis that a table of the output's shape states."""
    axes, table = step.axes(step["self"]), step.axes(step["index"])
    dim = step["dim"] % len(axes)
    step.freeze(axes[dim], "is read at positions that a table states")
    for index, (one, other) in enumerate(zip(axes, table, strict=True)):
        if index != dim and step.coupling.size(one) == step.coupling.size(other):
            step.couple(one, other)
    step.emit(table)


@register_rule(aten.embedding)
def embedding(step: Step) -> None:
    """One row of a table for each number."""
    entries, width = step.axes(step["weight"])
    step.freeze(entries, "is read at positions that the input states")
    step.produce(width)
    step.attribute(width, "embedding_dim")
    step.emit((*step.axes(step["indices"]), width))


@register_rule(aten.constant_pad_nd)
def pad(step: Step) -> None:
    """A fixed number of positions before and after."""
    axes = list(step.axes(step["self"]))
    amounts = step["pad"]
    for index in range(len(amounts) // 2):
        before, after = amounts[2 * index : 2 * index + 2]
        dim = len(axes) - 1 - index
        if min(before, after) < 0:
            step.freeze(axes[dim], "crops this axis")
            axes[dim] = step.fixed(step.call.outputs[0].shape[dim])
        elif before or after:
            sides = [step.coupling.atom(count) for count in (before, after)]
            for side in sides:
                step.freeze(side, "pads with a number of units that the code states")
            axes[dim] = step.coupling.concat(sides[0], axes[dim], sides[1])
    step.emit(tuple(axes))


@register_rule(aten.pixel_shuffle)
def pixel_shuffle(step: Step) -> None:
    """Channels are c x r x r; the two r go to height and width."""
    axes = step.axes(step["self"])
    ratio = step["upscale_factor"]
    shape = step.call.outputs[0].shape
    kept = step.coupling.atom(shape[-3])
    step.couple(axes[-3], step.coupling.product(kept, step.fixed(ratio * ratio)))
    step.emit((*axes[:-3], kept, step.fixed(shape[-2]), step.fixed(shape[-1])))


@register_rule(aten.pixel_unshuffle)
def pixel_unshuffle(step: Step) -> None:
    """Height and width each give a factor r to the channels, which become c x r x r."""
    axes = step.axes(step["self"])
    ratio = step["downscale_factor"]
    shape = step.call.outputs[0].shape
    channels = step.coupling.product(axes[-3], step.fixed(ratio * ratio))
    step.emit((*axes[:-3], channels, step.fixed(shape[-2]), step.fixed(shape[-1])))
