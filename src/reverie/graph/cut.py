"""Take units and residual blocks out of a network: exactly, on a copy, with a record that replays it.

The edit is applied by replaying its own record, so the two cannot differ. Tensors are sliced, and only integer
attributes that were found to state a size are rewritten.
"""

import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise

from torch import nn

from reverie.core.edit import Bypass, Keep, Record, Scale, replay
from reverie.core.errors import RangeError, ReferenceNotFound, ShapeError
from reverie.graph.structure import Group, Slice, Structure

__all__ = ["bypass", "check_kept", "cut", "keep_units"]


def cut(model: nn.Module, structure: Structure, kept: Mapping[str, Sequence[int]]) -> tuple[nn.Module, Record]:
    """Remove all units but those that are kept; the model itself is untouched.

    Kept units stay in their order. The cut network's output equals that of `masked(model, structure, kept)`.

    Args:
        model: The network that was probed, or one of the same architecture.
        structure: From `probe`.
        kept: Group name -> indices of the units to keep; groups that are not named keep all. Order does not matter.

    Returns:
        The cut copy, and the record of the edit, which is empty where every unit is kept.

    Raises:
        ReferenceNotFound: A group does not exist.
        RangeError: A group is frozen, indices are empty, repeated or out of range, or their number is not allowed.
        ShapeError: The structure belongs to a network of other widths.

    Example:
        >>> import torch
        >>> from reverie.graph import probe
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> small, record = cut(net, probe(net, torch.zeros(1, 3)), {"0": [1, 4, 6]})
        >>> small[0].weight.shape, small[2].weight.shape, net[0].out_features
        (torch.Size([3, 3]), torch.Size([2, 3]), 8)
    """
    kept = check_kept(model, structure, kept)
    edit = keep_units(model, structure, kept)
    record = Record((*_rescaled(structure, kept), edit)) if edit.slices else Record()
    return replay(record, model), record


def bypass(model: nn.Module, structure: Structure, modules: Iterable[str]) -> tuple[nn.Module, Record]:
    """Replace residual blocks by the identity; the model itself is untouched.

    To remove units as well, cut first: a structure does not describe a network from which blocks are missing.

    Args:
        model: The network that was probed, or what `cut` made of it.
        structure: From `probe`.
        modules: Names of branches of the structure.

    Returns:
        The copy without these blocks, and the record of the edit, which is empty where no module is named.

    Raises:
        ReferenceNotFound: A module is no branch of the structure.

    Example:
        >>> import torch
        >>> from reverie.graph import probe
        >>> from reverie.zoo.networks import CifarResNet
        >>> net = CifarResNet(blocks=1, widths=(4, 8), in_channels=1).eval()
        >>> structure = probe(net, torch.zeros(2, 1, 8, 8))
        >>> shorter, record = bypass(net, structure, ["layer1.0"])
        >>> shorter.layer1[0], len(record.edits)
        (Identity(), 1)
    """
    named = tuple(structure.branch(module).module for module in dict.fromkeys(modules))
    record = Record((Bypass(named),)) if named else Record()
    return replay(record, model), record


def check_kept(model: nn.Module, structure: Structure, kept: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Indices to keep, sorted, for the groups that lose units.

    Raises:
        ReferenceNotFound: A group does not exist.
        RangeError: A group is frozen, indices are empty, repeated or out of range, or their number is not allowed.
        ShapeError: The structure belongs to a network of other widths.
    """
    checked = {}
    for name, indices in kept.items():
        group = structure.group(name)
        # Rows of a tensor are tensors, which a set tells apart by where they lie and not by their value.
        found = sorted(operator.index(one) for one in indices)
        if not found:
            raise RangeError(f"cannot keep no unit of {name}: at least one must stay. Bypass its block instead.")
        if found[0] < 0 or found[-1] >= group.units:
            wrong = found[0] if found[0] < 0 else found[-1]
            raise RangeError(f"cannot keep unit {wrong} of {name}, whose {group.units} units count from 0")
        if len(set(found)) < len(found):
            twice = next(one for one, other in pairwise(found) if one == other)
            raise RangeError(f"unit {twice} of {name} is listed twice; list each unit to keep once")
        if len(found) == group.units:
            continue
        if group.frozen is not None:
            raise RangeError(f"cannot remove units of {name}: {group.frozen}. Leave this group out.")
        if len(found) not in group.counts:
            why = " and ".join(group.constraints)
            raise RangeError(f"cannot keep {len(found)} units of {name}: {why}. Keep one of {_some(group)}.")
        checked[name] = tuple(found)
    _check_shapes(model, structure, (structure.group(name) for name in checked))
    return checked


def _some(group: Group) -> str:
    """A few of the counts that are allowed."""
    shown = ", ".join(map(str, group.counts[:4]))
    return f"{shown}, ..." if len(group.counts) > 4 else shown


def keep_units(model: nn.Module, structure: Structure, kept: Mapping[str, Sequence[int]]) -> Keep:
    """The edit that keeps some units, as data; `kept` was checked."""
    removed: dict[tuple[str, int], set[int]] = {}
    attributes: dict[tuple[str, int], set[int]] = {}
    for name, indices in kept.items():
        group = structure.group(name)
        gone = sorted(set(range(group.units)) - set(indices))
        for part in group.slices:
            for tensor in (part.tensor, *structure.aliases.get(part.tensor, ())):
                removed.setdefault((tensor, part.dim), set()).update(part.rows(gone))
        for part in group.attributes:
            attributes.setdefault((part.tensor, part.dim), set()).update(part.rows(gone))
    slices: dict[str, dict[int, tuple[int, ...]]] = {}
    shapes = {
        name: shape
        for tensor, shape in structure.shapes.items()
        for name in (tensor, *structure.aliases.get(tensor, ()))
    }
    for (tensor, dim), rows in removed.items():
        slices.setdefault(tensor, {})[dim] = tuple(sorted(set(range(shapes[tensor][dim])).difference(rows)))
    return Keep(slices, _sizes(model, attributes))


def _rescaled(structure: Structure, kept: Mapping[str, Sequence[int]]) -> list[Scale]:
    """Edits that keep numbers which the code computes from widths at what they were."""
    edits = []
    for name, indices in kept.items():
        group = structure.group(name)
        by_power: dict[float, dict[str, set[int]]] = {}
        for one in group.rescales:
            for tensor in (one.tensor, *structure.aliases.get(one.tensor, ())):
                by_power.setdefault(one.power, {}).setdefault(tensor, set()).update(one.rows)
        for power, rows in by_power.items():
            factor = (len(indices) / group.units) ** -power
            edits.append(Scale({tensor: tuple(sorted(found)) for tensor, found in rows.items()}, factor))
    return edits


def _sizes(model: nn.Module, removed: Mapping[tuple[str, int], Collection[int]]) -> dict[str, int | tuple[int, ...]]:
    """New values of attributes from which rows were taken."""
    left: dict[str, int | tuple[int, ...]] = {}
    for (path, index), rows in removed.items():
        owner, _, leaf = path.rpartition(".")
        now = left[path] if path in left else getattr(model.get_submodule(owner), leaf)
        if isinstance(now, int):
            left[path] = now - len(rows)
        else:
            left[path] = tuple(size - len(rows) if place == index else size for place, size in enumerate(now))
    return left


def _check_shapes(model: nn.Module, structure: Structure, groups: Iterable[Group]) -> None:
    parts: dict[str, Slice] = {part.tensor: part for group in groups for part in group.slices}
    for name in parts:
        owner, _, leaf = name.rpartition(".")
        try:
            shape = tuple(getattr(model.get_submodule(owner), leaf).shape)
        except AttributeError as error:
            raise ReferenceNotFound(
                f"the structure names {name}, which {type(model).__name__} lacks. Probe this network itself."
            ) from error
        if shape != structure.shapes[name]:
            raise ShapeError(
                f"{name} has shape {shape}, the structure was probed on {structure.shapes[name]}. Probe this network "
                "itself; a network that was cut must be probed again."
            )
