"""The same layer in teacher and student: read both, keep of the teacher's channels those that the student kept.

Cost: one indexed copy of the teacher's feature where the student is narrower.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.errors import RangeError, ReferenceNotFound, ShapeError
from reverie.core.modes import frozen
from reverie.core.rng import preserved_rng
from reverie.core.tap import Reading

__all__ = ["Features", "feature_of", "map_shapes", "select_kept"]

Features = Mapping[str, Sequence[int] | None]


def select_kept(teacher_feature: Tensor, student_feature: Tensor, kept: Sequence[int] | None, *, layer: str) -> Tensor:
    """The part of a teacher's feature that the student's stands for.

    The channel axis is the one in which the two differ; where they do not, axis 1, or the last one of three.

    Args:
        teacher_feature: (n, channels, ...) or (n, ..., channels).
        student_feature: The same with fewer channels.
        kept: For each of the student's channels, the teacher's; None keeps all.
        layer: Name for messages.

    Raises:
        ShapeError: The kept channels do not make the teacher's feature the student's shape.
        RangeError: A kept index is not among the teacher's channels.

    Example:
        >>> select_kept(torch.tensor([[1.0, 2.0, 3.0]]), torch.zeros(1, 2), [0, 2], layer="fc")
        tensor([[1., 3.]])
    """
    selected = teacher_feature
    if kept is not None and teacher_feature.ndim == student_feature.ndim:
        sizes = zip(teacher_feature.shape, student_feature.shape, strict=True)
        differing = [axis for axis, (ours, theirs) in enumerate(sizes) if ours != theirs]
        usual = teacher_feature.ndim - 1 if teacher_feature.ndim == 3 else 1
        axis = differing[0] if differing else usual
        channels = teacher_feature.shape[axis]
        if kept and not 0 <= min(kept) <= max(kept) < channels:
            raise RangeError(
                f"feature {layer!r}: kept channels run from {min(kept)} to {max(kept)}, the teacher has {channels}"
            )
        selected = teacher_feature.index_select(axis, torch.tensor(tuple(kept), device=teacher_feature.device))
    if selected.shape != student_feature.shape:
        count = "all channels" if kept is None else f"{len(kept)} channels"
        raise ShapeError(
            f"feature {layer!r}: the teacher gives {tuple(teacher_feature.shape)}, of which {count} are kept, "
            f"the student {tuple(student_feature.shape)}. "
            "List with the layer the teacher's channels that the student kept."
        )
    return selected


def feature_of(readings: Mapping[str, Reading], layer: str) -> Tensor:
    """The tensor that a tapped layer returned.

    Raises:
        ReferenceNotFound: The forward pass did not reach the layer.
        ShapeError: The layer returned something other than one tensor.
    """
    if layer not in readings:
        raise ReferenceNotFound(f"feature {layer!r} was not reached by the forward pass. Name a layer that runs.")
    output = readings[layer].output
    if not isinstance(output, Tensor):
        raise ShapeError(f"feature {layer!r} returns {type(output).__name__}, not one tensor. Name a layer inside it.")
    return output


def map_shapes(network: nn.Module, images: Tensor) -> dict[str, tuple[int, ...] | None]:
    """Module -> shape of what it returned last, in the order in which modules finish; None for what is no map.

    A map is one tensor (n, channels, height, width) of more than one pixel.

    Args:
        network: Untouched.
        images: Its input.

    Example:
        >>> map_shapes(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), torch.zeros(1, 1, 5, 5))
        {'0': (1, 2, 3, 3), '1': None}
    """
    shapes: dict[str, tuple[int, ...] | None] = {}

    def reader(name: str) -> Callable[[nn.Module, tuple[Any, ...], object], None]:
        def read(_module: nn.Module, _inputs: tuple[Any, ...], output: object) -> None:
            is_map = isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1
            # A module that runs again finishes where it ran last.
            shapes.pop(name, None)
            shapes[name] = tuple(output.shape) if isinstance(output, Tensor) and is_map else None

        return read

    handles = [module.register_forward_hook(reader(name)) for name, module in network.named_modules() if name]
    try:
        with frozen(network), torch.no_grad(), preserved_rng():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return shapes
