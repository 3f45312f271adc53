"""Which inner features a cut network still shares with its teacher, channel for channel.

A cut network computes a part of its teacher's channels at every place, so the two can be compared without an adapter:
the teacher's channels that were kept are the student's channels.
"""

from torch import Tensor, nn

from reverie.compress.plan import Plan
from reverie.distill.features import map_shapes
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
    whole, part = map_shapes(teacher, example), map_shapes(student, example)
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
