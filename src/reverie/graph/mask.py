"""A network in which some units no longer count, at full width: the reference that a cut must equal.

Zeroing the rows of the layers that *consume* a unit removes what the unit contributes, whatever activation, gate,
normalization with stored statistics, pooling or concatenation lies between. Zeroing the layers that produce it would
not: a sigmoid turns 0 into 1/2, a batch normalization turns it into its bias.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from reverie.core.errors import RangeError
from reverie.graph.cut import check_kept
from reverie.graph.structure import Structure

__all__ = ["masked"]


def masked(model: nn.Module, structure: Structure, kept: Mapping[str, Sequence[int]]) -> nn.Module:
    """A copy of the model in which the units that are not kept contribute nothing.

    Args:
        model: The network that was probed, or one of the same architecture; untouched.
        structure: From `probe`.
        kept: As for `cut`.

    Raises:
        ReferenceNotFound: A group does not exist.
        RangeError: A group is frozen, or indices are empty, repeated or out of range; or an operation runs across the
            units, such as a normalization, so that silent units still count: `surviving` has the reference.
        ShapeError: The structure belongs to a network of other widths.

    Example:
        >>> from reverie.graph import probe
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.Sigmoid(), nn.Linear(8, 2))
        >>> masked(net, probe(net, torch.zeros(1, 3)), {"0": range(7)})[2].weight[:, 7]
        tensor([0., 0.], grad_fn=<SelectBackward0>)
    """
    kept = check_kept(model, structure, kept)
    crossed = next((name for name in kept if structure.group(name).crossed), None)
    if crossed is not None:
        raise RangeError(
            f"no mask removes units of {crossed}: {structure.group(crossed).crossed}. "
            "Compare with `surviving(model, record, example)` instead."
        )
    silent = copy.deepcopy(model)
    with torch.no_grad():
        for name, indices in kept.items():
            group = structure.group(name)
            gone = sorted(set(range(group.units)) - set(indices))
            for part in group.slices:
                if part.role == "consume":
                    owner, _, leaf = part.tensor.rpartition(".")
                    weight = getattr(silent.get_submodule(owner), leaf)
                    weight.index_fill_(part.dim, torch.tensor(part.rows(gone), device=weight.device), 0)
    return silent
