"""The rules of operations that sample feature maps at computed places, or lay them out in patches.

Importing this module fills the table in `reverie.graph.rules`. Those of torchvision stand there by name, since
torchvision need not be installed.
"""

import math

import torch

from reverie.graph.aten import grouped, tie
from reverie.graph.rules import Step, register_rule

__all__: list[str] = []

aten = torch.ops.aten


@register_rule(aten.grid_sampler_2d, aten.grid_sampler_3d, aten.cudnn_grid_sampler)
def grid_sampler(step: Step) -> None:
    """Each channel is read at places that the grid states."""
    axes, grid = step.axes(step["input"]), step.axes(step["grid"])
    for axis in (*axes[2:], grid[-1]):
        step.freeze(axis, "samples along this axis")
    step.couple(axes[0], grid[0])
    step.emit((axes[0], axes[1], *grid[1:-1]))


@register_rule("torchvision::roi_align", "torchvision::roi_pool")
def roi_align(step: Step) -> None:
    """Each channel is read within every region."""
    _, channels, *_ = step.axes(step["input"])
    regions = step.axes(step["rois"])
    shape = step.call.outputs[0].shape
    result = (regions[0], channels, *(step.fixed(size) for size in shape[2:]))
    step.emit(*[result] * len(step.call.outputs))


@register_rule("torchvision::deform_conv2d")
def deform_conv(step: Step) -> None:
    """A convolution that reads its input at computed offsets; the channels of the offsets are places."""
    for name in ("offset", "mask"):
        channels = step.axes(step[name])[1]
        step.freeze(channels, "reads these as places of the kernel")
    if step["offset_groups"] > 1:
        step.freeze(step.axes(step["input"])[1], "shares offsets among groups of these units")
    outgoing = grouped(step, step["input"], step["weight"], step["groups"])
    tie(step, "bias", outgoing)
    batch = step.axes(step["input"])[0]
    step.emit((batch, outgoing, *(step.fixed(size) for size in step.call.outputs[0].shape[2:])))


@register_rule(aten.im2col)
def im2col(step: Step) -> None:
    """Channels become channels x places of the kernel; places of the image become one axis."""
    *batch, channels, _, _ = step.axes(step["self"])
    patch = step.coupling.product(channels, step.fixed(math.prod(step["kernel_size"])))
    step.emit((*batch, patch, step.fixed(step.call.outputs[0].shape[-1])))


@register_rule(aten.col2im)
def col2im(step: Step) -> None:
    """The inverse: channels x places of the kernel become channels."""
    *batch, patch, _ = step.axes(step["self"])
    *_, count, height, width = step.call.outputs[0].shape
    channels = step.coupling.atom(count)
    step.couple(patch, step.coupling.product(channels, step.fixed(math.prod(step["kernel_size"]))))
    step.emit((*batch, channels, step.fixed(height), step.fixed(width)))


@register_rule(aten.topk)
def topk(step: Step) -> None:
    """The largest along one axis, with their numbers: the axis must stay."""
    axes = list(step.axes(step["self"]))
    dim = step["dim"] % len(axes)
    step.freeze(axes[dim], "numbers these units")
    axes[dim] = step.fixed(step.call.outputs[0].shape[dim])
    step.emit(tuple(axes), tuple(axes))
