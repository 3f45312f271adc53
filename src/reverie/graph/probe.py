"""Look at a network and say what can be taken from it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from reverie.graph.branches import find_branches
from reverie.graph.modules import couple_attention
from reverie.graph.rehearse import rehearse
from reverie.graph.rules import RULES, Rule, analyze
from reverie.graph.structure import Structure
from reverie.graph.trace import Example, record

__all__ = ["probe"]


def probe(
    model: nn.Module,
    example: Example,
    *,
    rules: "Mapping[torch._ops.OpOverloadPacket[..., Any] | str, Rule]" = RULES,
) -> Structure:
    """Groups, layers and branches of a network.

    Records one forward pass on tensors without data, applies a rule to every operation, cuts such a copy to see whether
    the code follows, and runs real passes only where residual blocks are to be proven. Whatever is not understood is
    frozen and says why. The model is untouched.

    Args:
        model: Any module.
        example: A batch that it accepts, of at least one example, or a tuple of its positional arguments; the values of
            tensors are not read.
        rules: Operation -> rule; see `register_rule`.

    Raises:
        ShapeError: The model cannot run on such a batch.
        UnsupportedOp: The model's control flow depends on the values of its input.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
        >>> found = probe(net, torch.zeros(1, 3, 4, 4))
        >>> [(group.name, group.units, group.consumers) for group in found.free]
        [('0', 8, ('3',))]
        >>> found.layers[1].in_channels, found.layers[1].widths({"0": 5})
        (32, (20, 5, 1))

    Fails when: a width in the code follows no attribute and no shape; then the group is frozen, not wrong.
    """
    trace = record(model, example)
    analysis = analyze(trace, rules)
    couple_attention(trace, analysis)
    structure = rehearse(model, example, trace, analysis)
    return replace(structure, branches=find_branches(model, example, trace, analysis, structure))
