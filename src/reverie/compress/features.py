"""Which inner features a cut network still shares with its teacher, channel for channel.

A cut network computes a part of its teacher's channels at every place, so the two can be compared without an adapter:
the teacher's channels that were kept are the student's channels.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from reverie.compress.plan import Plan
from reverie.core.modes import frozen
from reverie.graph.structure import Structure

__all__ = ["matching_features"]


def matching_features(
    teacher: nn.Module, student: nn.Module, structure: Structure, plan: Plan, example: Tensor
) -> dict[str, tuple[int, ...] | None]:
    """The last module at every resolution whose output channels are the units of one group.

    Modules are read as they run, so the choice follows the network and not its class: the output of a stage where a
    network has stages, of a pooling or activation layer where it is a plain stack.

    Args:
        teacher: The network that was probed; untouched.
        student: What the plan left of it; untouched.
        structure: Of `teacher`.
        plan: What the student keeps.
        example: Input of both, (n, c, h, w).

    Returns:
        Module name -> the teacher's channels that the student has there, None where it has them all.
    """
    whole, part = _feature_maps(teacher, example), _feature_maps(student, example)
    makes = {layer.name: layer.out_group for layer in structure.layers}
    chosen: dict[tuple[int, ...], tuple[str, tuple[int, ...] | None]] = {}
    latest: str | None = None
    for name, shape in whole.items():
        latest = makes.get(name, latest)
        if latest is None or shape is None or part.get(name) is None:
            continue
        kept = plan.kept.get(latest)
        channels = structure.group(latest).units if kept is None else len(kept)
        if shape[1] == structure.group(latest).units and part[name] == (shape[0], channels, *shape[2:]):
            chosen[shape[2:]] = (name, kept)
    return dict(chosen.values())


def _feature_maps(network: nn.Module, example: Tensor) -> dict[str, tuple[int, ...] | None]:
    """Module -> shape of what it returned, in the order in which modules finish; None for what is no feature map."""
    shapes: dict[str, tuple[int, ...] | None] = {}

    def reader(name: str) -> Callable[[nn.Module, tuple[Any, ...], object], None]:
        def read(_module: nn.Module, _inputs: tuple[Any, ...], output: object) -> None:
            is_map = isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1
            shapes[name] = tuple(output.shape) if isinstance(output, Tensor) and is_map else None

        return read

    handles = [module.register_forward_hook(reader(name)) for name, module in network.named_modules() if name]
    try:
        with frozen(network), torch.no_grad():
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    return shapes
